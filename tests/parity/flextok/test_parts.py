"""Recorded parts: quantiser, guidance, position tables, masks, packing, blocks, token sampling."""

import hashlib
import re

import pytest
import torch

from pipelines.flextok.blocks import Block, patchify, spread_modulation, unpatchify
from pipelines.flextok.fsq import FiniteScalarQuantizer
from pipelines.flextok.guidance import NormGuidance, classifier_free
from pipelines.flextok.positions import PositionTable, sincos_table, time_features
from pipelines.flextok.token_sampling import TokenSampling
from tests.parity.flextok.recorded import assert_near, below, discover, packed_mask


@pytest.mark.parametrize("case", discover("fsq_"))
def test_quantiser(case):
    record, tensors = case.json, case.tensors()
    quantizer = FiniteScalarQuantizer(tuple(record["levels"]))
    assert list(quantizer.levels) == tensors["levels"].tolist()
    assert list(quantizer.basis) == tensors["basis"].tolist()
    assert quantizer.num_codes == record["codebook_size"]
    assert_near(quantizer.bound(tensors["z"]), tensors["bounded"], 1e-5)
    codes, ids = quantizer.quantize(tensors["z"])
    assert_near(codes, tensors["quant"], 1e-6)
    # the recorded packing sums floats: where its own ids don't lead back to its codes, ours have to
    sound = (quantizer.codes(tensors["tokens"]) == codes).all(-1)
    assert torch.equal(ids[sound], tensors["tokens"][sound])
    assert sound.all() or record["roundtrip_mismatches"] > 0
    assert torch.equal(quantizer.codes(ids), codes)
    assert_near(quantizer.codes(tensors["pick_indices"]), tensors["pick_codes"], 0)
    every = quantizer.codes(torch.arange(quantizer.num_codes))
    digest = hashlib.sha256(every.numpy().astype("<f4").tobytes()).hexdigest()
    assert digest == record["all_codes_sha256_float32_le"]
    assert torch.equal(quantizer.quantize(quantizer_inputs(quantizer, every))[1], torch.arange(len(every)))
    zero = quantizer.quantize(torch.zeros(1, len(quantizer.levels)))[1]
    assert int(zero) == record["token_of_zero_vector"]


def quantizer_inputs(quantizer, codes):
    """Encoder outputs in the middle of each code's cell."""
    levels = torch.tensor(quantizer.levels, dtype=torch.float64)
    half = (levels - 1) * (1 + quantizer.eps) / 2
    offset = torch.where(levels % 2 == 0, 0.5, 0.0)
    bounded = codes.double() * (levels // 2)
    return (((bounded + offset) / half).clamp(-0.9999, 0.9999).atanh() - (offset / half).atanh()).float()


@pytest.mark.parametrize("case", discover("guidance"))
def test_guidance(case):
    tensors = case.tensors()
    conditional, unconditional = tensors["cond"], tensors["uncond"]
    checked = 0
    for name, expected in tensors.items():
        if match := re.fullmatch(r"cfg\.s([\d.]+)", name):
            ours = classifier_free(conditional, unconditional, float(match[1]))
        elif match := re.fullmatch(r"apg\.s([\d.]+)\.eta([\d.]+)\.r(-?[\d.]+)\.m(None|-?[\d.]+)", name):
            momentum = None if match[4] == "None" else float(match[4])
            guidance = NormGuidance(float(match[2]), float(match[3]), momentum)
            pairs = zip(conditional, unconditional, strict=True)
            ours = torch.stack([guidance(c, u, float(match[1])) for c, u in pairs])
        else:
            assert name in ("cond", "uncond"), f"{name} is compared with nothing"
            continue
        assert_near(ours, expected, 1e-5)
        checked += 1
    assert checked


@pytest.mark.parametrize("case", discover("posemb_quirk"))
def test_position_tables_of_any_shape(case):
    tables = case.tensors()
    assert tables
    for name, expected in tables.items():
        height, width, dim = map(int, re.fullmatch(r"sincos_h(\d+)_w(\d+)_dim(\d+)", name).groups())
        assert_near(sincos_table(height, width, dim), expected, 1e-6)


@pytest.mark.parametrize("case", discover("modules"))
def test_tables_and_time_features(case):
    record, tensors = case.json, case.tensors()
    sizes = record["sincos"]
    table = PositionTable(sizes["dim"], (sizes["h"], sizes["w"]), "sincos")
    assert_near(table.table((sizes["h"], sizes["w"])), tensors["sincos_posemb"], 1e-6)
    for name, expected in below(tensors, "time.freq.max").items():
        assert_near(time_features(tensors["time.t"], expected.shape[1], float(name)), expected, 1e-5)
    learned = 0
    for name, parameter in tensors.items():
        if match := re.fullmatch(r"posemb(\d)d(?:_(sum|prod))?\.param", name):
            base, axes = name.removesuffix("param"), int(match[1])
            for wanted, expected in below(tensors, base).items():
                if wanted == "param":
                    continue
                learned += 1
                scaling = "interpolate" if "interp" in wanted else "absolute"
                counts = [int(n) for n in re.findall(r"\d+", wanted)]
                kind = f"learnable_{match[2] or 'sum'}"
                table = PositionTable(parameter.shape[2], (parameter.shape[3],) * axes, kind, scaling)
                table.posembs.data = parameter
                assert_near(table.table(counts), expected, 1e-5)
    assert learned


@pytest.mark.parametrize("case", discover("modules"))
def test_patches_and_packing(case):
    record, tensors = case.json, case.tensors()
    picture, patches = tensors["patch.in_bhwc"], tensors["patch.out"]
    patch = tuple(picture.shape[i] // patches.shape[i] for i in (1, 2))
    ours = patchify(picture.permute(0, 3, 1, 2), patch)
    assert_near(ours, patches, 0)
    assert_near(unpatchify(ours, patch).permute(0, 2, 3, 1), tensors["unpatch.out"], 0)
    pack = record["pack"]
    samples = [(rows * columns, pack["registers"]) for rows, columns in pack["patch_grids"]]
    for mode, expected in below(tensors, "mask.").items():
        assert torch.equal(packed_mask(samples, mode, pack["padded_len"]), expected)
    sequence = torch.cat(
        [
            tensors[f"pack.{part}{i}"].flatten(1, -2)
            for i in range(len(samples))
            for part in ("patches", "registers")
        ],
        dim=1,
    )
    assert_near(sequence, tensors["pack.seq"][:, : pack["real_len"]], 0)


@pytest.mark.parametrize("case", discover("modules"))
@pytest.mark.parametrize("name", ["block", "block_adaln"])
def test_blocks(case, name):
    record, tensors = case.json, case.tensors()
    if f"{name}.out" not in tensors:
        assert name == "block" and "block_adaln.out" in tensors  # the small copy holds the richer one only
        return
    pack, dim = record["pack"], record["dim"]
    weights = below(tensors, f"{name}.sd.")
    expansion = len(weights.get("adaLN_modulation.1.bias", [])) // (6 * dim)
    block = Block(dim, record["head_dim"], 4.0, expansion)
    block.load_state_dict(weights)
    samples = [(rows * columns, pack["registers"]) for rows, columns in pack["patch_grids"]]
    real = pack["real_len"]
    mask = packed_mask(samples, "full" if expansion else "causal_last", real).bool()
    modulation = None
    with torch.no_grad():
        if expansion:
            rows = block.adaLN_modulation(tensors["block_adaln.emb"])
            parts = [spread_modulation(row[None], sizes) for row, sizes in zip(rows, samples, strict=True)]
            modulation = tuple(torch.cat(pieces, 1) for pieces in zip(*parts, strict=True))
            assert_near(torch.cat(modulation, -1), tensors["block_adaln.modulation_expanded"], 1e-5)
        out = block(tensors["pack.seq"][:, :real], mask, modulation)
    assert_near(out, tensors[f"{name}.out"][:, :real], 1e-4)


@pytest.mark.parametrize("case", discover("ar_sampling"))
def test_token_probabilities(case):
    tensors, checked = case.tensors(), 0
    for name, expected in below(tensors, "probs.").items():
        scale, temperature, top_k, top_p = re.fullmatch(
            r"cfg(None|[\d.]+)\.T([\d.]+)\.k(\d+)\.p([\d.]+)", name
        ).groups()
        guided = scale != "None"
        sampling = TokenSampling(
            float(scale) if guided else None, float(temperature), int(top_k), float(top_p)
        )
        null = tensors["logits_uncond"] if guided else None
        assert_near(sampling.probabilities(tensors["logits_cond"], null), expected, 1e-6)
        checked += 1
    assert checked

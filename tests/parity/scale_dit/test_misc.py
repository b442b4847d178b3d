"""Noise levels, rotary tables, low-frequency guidance and attention under a block map: recorded numbers."""

import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention
from pipelines.kernels.local_attention.reference import masked_attention
from pipelines.scale_dit.positions import RopeFactors, anchors, rotary_table
from pipelines.scale_dit.schedule import blend_noise, euler_schedule, guide_frequencies
from tests.parity.cases import Case, discover, folder

# FLUX.1-dev's published scheduler configuration; the authors switch dynamic shifting off
FLUX_SCHEDULER = {"shift": 3.0, "use_dynamic_shifting": True, "base_shift": 0.5, "max_shift": 1.15,
                  "base_image_seq_len": 256, "max_image_seq_len": 4096}  # fmt: skip


def cases(section):
    """Every case of one section of the files of kind `misc`."""
    found = [
        pytest.param((file, name), id=f"{file.stem}:{name}")
        for file in sorted(folder("scale_dit").glob("misc*.json"))
        for name in json.loads(file.read_text(encoding="utf-8")).get(section, {}).get("cases", {})
    ]
    return found or discover("scale_dit", f"misc/{section}", "cases")


def load(case, section):
    """The record of a case and its tensors by their short names."""
    if isinstance(case, Case):
        case.record("cases")  # fails: there is no such case
    file, name = case
    record = json.loads(file.read_text(encoding="utf-8"))[section]["cases"][name]
    tensors, prefix = Case(file, name, "misc").tensors(), f"{section}.{name}."
    return record, {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


@pytest.mark.parametrize("case", cases("schedule"))
def test_noise_levels_and_the_start_of_a_later_stage(case):
    record, tensors = load(case, "schedule")
    steps, later = record["num_inference_steps"], record["hr_inference_steps"]
    template = FlowMatchEulerDiscreteScheduler(**FLUX_SCHEDULER)
    first = euler_schedule(template, steps, 1.0)
    torch.testing.assert_close(first.sigmas, tensors["sigmas"], rtol=0, atol=1e-6)
    joined = euler_schedule(template, later, later / steps)
    torch.testing.assert_close(joined.timesteps, tensors["hr_timesteps"], rtol=0, atol=1e-3)
    assert float(joined.sigmas[0]) == pytest.approx(record["first_hr_sigma"], abs=1e-6)
    start = blend_noise(tensors["upsampled"], tensors["noise"], float(joined.sigmas[0]))
    torch.testing.assert_close(start, tensors["hr_init"], rtol=0, atol=2e-6)


@pytest.mark.parametrize("case", cases("rope"))
def test_rotary_tables_of_text_image_and_scaled_guide(case):
    record, tensors = load(case, "rope")
    embed = type("PosEmbed", (), {"theta": record["theta"], "axes_dim": record["axes_dim"]})
    factors = RopeFactors(record["ntk_factor"], record.get("linear_factor", 1.0))
    ids = tensors["ids"].float()
    cos, sin = rotary_table(embed, ids, factors)
    torch.testing.assert_close(cos[0, :, 0], tensors["cos"], rtol=0, atol=1e-6)
    torch.testing.assert_close(sin[0, :, 0], tensors["sin"], rtol=0, atol=1e-6)
    grid, low = grids_of(case[1])
    axes, count = ids.shape[1], low[0] * low[1]
    assert torch.equal(anchors(low, grid, rule="official", axes=axes), ids[-count:])
    assert torch.equal(anchors(grid, axes=axes), ids[-count - grid[0] * grid[1] : -count])


def grids_of(name):
    """Grids of a recorded name such as `flux1.t3_h8w8_l2x2_ntk10.0_lin1`."""
    _, high, low, *_ = name.split(".")[1].split("_")
    rows, columns = high.removeprefix("h").split("w")
    return (int(rows), int(columns)), tuple(int(part) for part in low.removeprefix("l").split("x"))


@pytest.mark.parametrize("case", cases("guidance"))
@pytest.mark.parametrize("schedule", ["cosine_decay", "cosine_shift", "constant", "constant_hp"])
def test_low_frequency_guidance(case, schedule):
    record, tensors = load(case, "guidance")
    progress = record["step_index"] / record["n_steps"]
    state = (tensors["velocity"], tensors["latents"], tensors["guidance_latents"])
    ours = guide_frequencies(*state, record["sigma"], progress, schedule)
    torch.testing.assert_close(ours, tensors[f"out.{schedule}"], rtol=0, atol=2e-6)
    assert torch.equal(guide_frequencies(*state, record["sigma"], progress, "none"), state[0])


@pytest.mark.parametrize("case", cases("attention"))
def test_attention_under_a_block_map(case):
    record, tensors = load(case, "attention")
    blocks = tensors["block_mask_128x64"]
    mask = blocks.repeat_interleave(128, 0).repeat_interleave(64, 1)
    query, key, value = (tensors[name].transpose(1, 2) for name in "qkv")
    out, _ = masked_attention(query, key, value, mask, query.shape[-1] ** -0.5)
    torch.testing.assert_close(out.transpose(1, 2), tensors["out"], rtol=0, atol=2e-5)
    height, width, text = (int(part[1:]) for part in case[1].split("_"))
    layout = AttentionLayout(text, (height // 16, width // 16), order="window_raster", dilate=(128, 64))
    if layout.length == record["n_tokens"]:  # else the trimmed sequence ends amid the low-res tokens
        assert torch.equal(layout.block_map().dense(), blocks)
        ours = hierarchical_local_attention(query, key, value, layout)
        torch.testing.assert_close(ours.transpose(1, 2), tensors["out"], rtol=0, atol=2e-5)

"""FLUX-type models with TENOR and the published adapter layout against the authors' code.

The authors' time embedding takes sines of numbers up to 4,000, so that the last bit of `exp` on the recording
machine (which no formula can foresee) moves the outputs by 3e-5. The tests therefore read the embedding
vector off the plain recorded output, by least squares, check that it differs from ours by rounding only, and
hold all other outputs against it at 1e-5.
"""

import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.compass.tenor import install_tenor, is_installed, remove_tenor
from pipelines.compass.weights_compass import official_strength, read_adapter, weights_kind
from tests.parity.compass.original_flux import build
from tests.parity.compass.recorded import recorded

CASES = recorded("tenor_flux_", "safetensors")


class Fixed(nn.Module):
    """A time embedding that is known."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = value

    def forward(self, *_: Any) -> Tensor:
        return self.value


def forward(model: Any, tensors: dict[str, Tensor], text: str = "in.txt", rows: Any = slice(None)) -> Tensor:
    guidance = tensors["in.guidance"][rows] if model.config.guidance_embeds else None
    return model(
        hidden_states=tensors["in.img"][rows],
        encoder_hidden_states=tensors[text][rows],
        pooled_projections=tensors["in.vec"][rows],
        timestep=tensors["in.timesteps"][rows],
        img_ids=tensors["in.img_ids"][0],
        txt_ids=tensors["in.txt_ids"][0],
        guidance=guidance,
    ).sample


def recorded_embedding(model: Any, tensors: dict[str, Tensor]) -> Tensor:
    """The recording machine's time embedding `[B, C]`, read off `out.base`."""
    times = [tensors["in.timesteps"] * 1000]
    times += [tensors["in.guidance"] * 1000] if model.config.guidance_embeds else []
    ours = model.time_text_embed(*times, tensors["in.vec"])
    precise = build_double(model)
    wide = {key: value.double() if value.is_floating_point() else value for key, value in tensors.items()}
    found, step = [], 1e-5
    for row in range(len(ours)):
        value = ours[row].double()
        steps = torch.cat([torch.zeros(1, len(value)), step * torch.eye(len(value))]).double()
        for _ in range(2):
            precise.time_text_embed = Fixed(value + steps)
            answers = forward(precise, wide, rows=[row] * len(steps)).flatten(1)
            slope = (answers[1:] - answers[0]).T / step
            rest = wide["out.base"][row].flatten() - answers[0]
            value = value + torch.linalg.lstsq(slope, rest[:, None]).solution[:, 0]
        found.append(value)
    embedding = torch.stack(found).float()
    assert (embedding - ours).abs().max() < 1e-3 * ours.abs().max()  # rounding only
    return embedding


def build_double(model: Any) -> Any:
    copy = type(model).from_config(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    return copy


def original(case: Any) -> tuple[Any, dict[str, Tensor], dict[str, Tensor]]:
    """(model, tensors, adapter in diffusers' keys) of a case."""
    tensors = case.tensors()
    config = case.described("tenor_flux_meta")["config"]
    part = {name: cut(tensors, name) for name in ("state.", "lora.")}
    model = build(config, part["state."], whole="out.base" in tensors)
    assert weights_kind(part["lora."]) == "xflux-lora"
    adapter, _ = read_adapter(part["lora."], "xflux-lora")
    return model, tensors, adapter


def cut(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_outputs_and_blocks(case):
    model, tensors, adapter = original(case)
    checked = 0
    if "out.base" in tensors:
        model.time_text_embed = Fixed(recorded_embedding(model, tensors))
        checked += check_outputs(model, tensors, adapter)
        model.delete_adapters("compass")
    if "block.in.img" in tensors:
        model.load_lora_adapter(dict(adapter), prefix="transformer", adapter_name="compass")
        check_block(model, tensors)
        checked += 1
    assert checked


def check_outputs(model: Any, tensors: dict[str, Tensor], adapter: dict[str, Tensor]) -> int:
    """Every recorded output: plain, with TENOR, with the adapter, with both, at another strength."""
    flipped = [key for key in tensors if key.startswith("in.txt_flip")]
    outputs = sorted((key for key in tensors if key.startswith("out.")), key=lambda key: ("lora" in key, key))
    for key in outputs:
        if "lora" in key and "compass" not in getattr(model, "peft_config", {}):
            model.load_lora_adapter(dict(adapter), prefix="transformer", adapter_name="compass")
        if "lora" in key:
            weight = re.search(r"weight_(\d+)p(\d+)_official", key)
            scale = official_strength(float(f"{weight[1]}.{weight[2]}")) if weight else 1.0
            model.set_adapters(["compass"], [scale])
        if "tenor" in key:
            install_tenor(model)
            assert is_installed(model)
        else:
            remove_tenor(model)
        text = flipped[0] if "flip" in key else "in.txt"
        torch.testing.assert_close(
            forward(model, tensors, text),
            tensors[key],
            rtol=1e-5,
            atol=1e-5,
            msg=lambda m, k=key: f"{k}: {m}",
        )
    remove_tenor(model)
    return len(outputs)


def check_block(model: Any, tensors: dict[str, Tensor]) -> None:
    """The first double block alone, with adapter and TENOR."""
    install_tenor(model)
    rope = tensors["block.rope"][0, 0]  # [S, D / 2, 2, 2]
    cos, sin = (rope[:, :, row, 0].repeat_interleave(2, -1) for row in (0, 1))
    text, image = model.transformer_blocks[0](
        hidden_states=tensors["block.in.img"],
        encoder_hidden_states=tensors["block.in.txt"],
        temb=tensors["block.in.vec"],
        image_rotary_emb=(cos, sin),
    )
    torch.testing.assert_close(image, tensors["block.out.img"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(text, tensors["block.out.txt"], rtol=1e-5, atol=1e-5)
    remove_tenor(model)


@pytest.mark.parametrize("case", CASES)
def test_the_adapter_file_is_read_as_recorded(case):
    tensors = case.tensors()
    meta = case.described("tenor_flux_meta")
    lora = cut(tensors, "lora.")
    for key, value in lora.items():
        assert list(value.shape) == meta["lora_keys"][key]
    adapter, _ = read_adapter(lora, "xflux-lora")
    expected = set(meta["diffusers_equivalence"]["converted_lora_keys"])
    assert set(adapter) <= expected
    if set(lora) == set(meta["lora_keys"]):
        assert set(adapter) == expected

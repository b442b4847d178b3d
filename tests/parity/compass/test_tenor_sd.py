"""UNets with TENOR, their attention maps, and both attention losses against the authors' code."""

from functools import cache
from typing import Any

import pytest
import torch

from pipelines.compass.grounding import (
    AttentionRecorder,
    attention_mask,
    find_words,
    pixel_loss,
    token_loss,
)
from pipelines.compass.tenor import install_tenor, remove_tenor
from tests.parity.compass.recorded import Recorded, recorded

CASES = recorded("tenor_sd_", "safetensors")


@cache
def loaded(case: Recorded) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """(UNet, tensors, description) of a case; the UNet is shared, tests leave it as it was."""
    from diffusers import UNet2DConditionModel

    tensors = case.tensors()
    assert case.path is not None
    described = case.described("tenor_sd_meta")["cases"][case.path.stem.removeprefix("tenor_sd_")]
    unet = UNet2DConditionModel(**described["config"]).eval()
    prefix = "state."
    unet.load_state_dict(
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    )
    return unet, tensors, described


def text_of(tensors: dict[str, Any], variant: str) -> tuple[Any, dict[str, Any]]:
    """The text states and masks of an output such as "flip", "long154" or "masked"."""
    name = "in.encoder_hidden_states"
    if variant in ("", "masked"):
        more = {"encoder_attention_mask": tensors["in.encoder_attention_mask"]} if variant else {}
        return tensors[name], more
    found = [key for key in tensors if key.startswith(f"{name}_{variant}")]
    assert len(found) == 1, variant
    return tensors[found[0]], {}


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_outputs(case):
    unet, tensors, _ = loaded(case)
    outputs = [key for key in tensors if key.startswith("out.")]
    assert {"out.tenor", "out.no_tenor"} <= set(outputs)
    try:
        for key in sorted(outputs):
            with_tenor = not key.startswith("out.no_tenor")
            if with_tenor:
                install_tenor(unet, "continuous")
            else:
                remove_tenor(unet)
            variant = key.removeprefix("out.no_tenor").removeprefix("out.tenor").removeprefix("_")
            text, more = text_of(tensors, variant)
            answer = unet(tensors["in.sample"], tensors["in.timestep"], text, **more).sample
            torch.testing.assert_close(
                answer, tensors[key], rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}"
            )
    finally:
        remove_tenor(unet)


@torch.no_grad()
@pytest.mark.parametrize("case", CASES)
def test_training_maps_and_losses(case):
    unet, tensors, described = loaded(case)
    grounding, count = described["grounding"], tensors["train.out.tenor"].shape[0]
    install_tenor(unet, "continuous")
    recorder = AttentionRecorder(unet)
    try:
        recorder.start()
        inputs = (tensors[f"in.{name}"][:count] for name in ("sample", "timestep", "encoder_hidden_states"))
        answer = unet(*inputs).sample
        maps = recorder.take()
    finally:
        recorder.remove()
        remove_tenor(unet)
    torch.testing.assert_close(answer, tensors["train.out.tenor"], rtol=1e-5, atol=1e-5)
    for key in (key for key in tensors if key.startswith("train.map.")):
        group, index = key.removeprefix("train.map.").split(".")
        expected = tensors[key]  # some are cut to their first tokens
        ours = maps[group][int(index)][..., : expected.shape[-1]]
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
    masks = torch.stack([recorded_mask(tensors[key]) for key in sorted(tensors) if "train.in.mask_" in key])
    words = grounding["word_token_idx"]
    assert set(grounding["per_layer"]) == set(maps)
    for group, expected in grounding["per_layer"].items():
        assert len(maps[group]) == expected["n_maps"]
        assert list(maps[group][0].shape) == expected["map_shape"]
        small = attention_mask(masks, maps[group][0].shape[1])
        assert float(token_loss(maps[group], small, words)) == pytest.approx(expected["token_loss"], rel=1e-5)
        assert float(pixel_loss(maps[group], small, words)) == pytest.approx(expected["pixel_loss"], rel=1e-5)


def recorded_mask(box: Any) -> Any:
    """1 inside [y0:y1, x0:x1] of 512 x 512, but 0.4 in its last ten rows, as the note beside it says."""
    top, bottom, left, right = box.tolist()
    mask = torch.zeros(512, 512)
    mask[top:bottom, left:right] = 1.0
    mask[bottom - 10 : bottom, left:right] = 0.4
    return mask


@pytest.mark.parametrize("case", recorded("tenor_sd_meta", "json"))
def test_word_positions(case):
    cases = case.json()["word_idx_cases"]["cases"]
    assert cases
    for record in cases:
        words = record["encoded_word"][1:-1]
        if isinstance(record["result"], str):
            with pytest.raises(ValueError, match="do not occur"):
                find_words(record["encoded_text"], words)
        else:
            assert find_words(record["encoded_text"], words) == record["result"]

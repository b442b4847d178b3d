"""The real door to painting with tiny published weights of CoMPaSS: loaded, switched, beside LongAlign's."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.compass import publish
from pipelines.compass.adapter_weights import AdapterWeights, add_adapter, compass_targets
from pipelines.compass.sidecar import Sidecar, write_sidecar
from pipelines.compass.support import adapter_scales, has_tenor
from pipelines.compass.tenor import find_tenor
from pipelines.compass.weights_compass import ADAPTER, load_compass
from pipelines.longalign.lora import lora_config
from pipelines.longalign.parts import LongAlignParts, write_lora
from studio.doors.painting import PipelinePainter
from tests.pipelines.compose.test_few_steps import write_adapter
from tests.pipelines.conftest import tiny_parts
from tests.pipelines.longalign.conftest import sd_parts

PROMPT = "a red ball to the left of a blue house in a meadow"
PAGE = "There is a red ball. It is to the left of a blue house. "
KINDS = ("flux", "sd")


def louder(model: Any) -> Any:
    """Make the text matter: a fresh tiny model hardly listens to it."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and ("attn" in name or "context" in name):
                parameter.mul_(3)
    return model


def publish_run(kind: str, folder: Path, state: Path, weights: dict[str, torch.Tensor]) -> None:
    """What a training run leaves behind, published into a model folder."""
    state.mkdir()
    variant, length = ("flux-double", 512) if kind == "flux" else ("unet", 77)
    torch.save(weights, state / "ema.pt")
    write_sidecar(state, Sidecar(True, variant, length))
    place = folder / ("compass-lora" if kind == "flux" else "compass")
    publish.main([kind, "--state", str(state), "--folder", str(place), "--parts", str(folder)])


def shaken(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(5)
    return {
        name: value + 0.1 * torch.randn(value.shape, generator=generator) for name, value in weights.items()
    }


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each kind with weights that were trained with TENOR."""
    from diffusers import FluxPipeline, StableDiffusionPipeline

    root = tmp_path_factory.mktemp("weights")
    parts = tiny_parts(num_layers=2)
    louder(parts["transformer"])
    FluxPipeline(**parts).save_pretrained(root / "storybook-tiny")
    add_adapter(parts["transformer"], 4, compass_targets(parts["transformer"]), ADAPTER)
    adapter = AdapterWeights(parts["transformer"], ADAPTER, "transformer").state_dict()
    publish_run("flux", root / "storybook-tiny", root / "flux", shaken(adapter))
    small = sd_parts()
    louder(small["unet"])
    StableDiffusionPipeline(**small, requires_safety_checker=False).save_pretrained(root / "storybook-small")
    publish_run("sd", root / "storybook-small", root / "sd", shaken(small["unet"].state_dict()))
    return {"flux": root / "storybook-tiny", "sd": root / "storybook-small"}


def paint(model: Any, tenor: bool | None = None, prompt: str = PROMPT) -> np.ndarray:
    result = PipelinePainter().paint(
        model,
        prompt=prompt,
        width=64,
        height=64,
        seed=3,
        steps=2,
        on_progress=None,
        should_stop=None,
        tenor=tenor,
    )
    return np.asarray(result.image)


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Any]:
    return {kind: PipelinePainter().load_model(folder) for kind, folder in folders.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_published_weights_come_with_tenor_and_it_can_be_left_out_for_one_picture(
    kind: str, models: dict[str, Any], folders: dict[str, Path]
) -> None:
    model = models[kind]
    assert has_tenor(model.composer)
    trained = paint(model)
    assert not np.array_equal(trained, paint(model, tenor=False))
    assert has_tenor(model.composer) and np.array_equal(trained, paint(model, tenor=True))
    assert np.array_equal(trained, paint(model))
    # against the same weights loaded by hand
    from pipelines.compose import painting

    by_hand = painting.load_model(folders[kind])
    plain = np.asarray(painting.paint(by_hand, prompt=PROMPT, width=64, height=64, seed=3, steps=2).image)
    assert not np.array_equal(trained, plain)
    load_compass(by_hand.composer, folders[kind] / ("compass-lora" if kind == "flux" else "compass"))
    assert np.array_equal(trained, paint(by_hand))


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], list[tuple[int, Any]]]:
    """Note at each step how long the text is, and what positions it has."""

    def watch(denoiser: Any) -> list[tuple[int, Any]]:
        seen: list[tuple[int, Any]] = []
        handle = find_tenor(denoiser)
        assert handle is not None
        table = type(handle.positions).table

        def noted(self: Any, text: torch.Tensor) -> torch.Tensor:
            seen.append((text.shape[1], self.custom))
            return table(self, text)

        monkeypatch.setattr(type(handle.positions), "table", noted)
        return seen

    return watch


@pytest.mark.parametrize(("kind", "repeats", "limit", "starts"), [("sd", 12, 77, 24), ("flux", 60, 512, 2)])
def test_positions_of_a_page_are_those_of_the_training(
    kind: str, repeats: int, limit: int, starts: int, models: dict[str, Any], watched: Callable[[Any], Any]
) -> None:
    model = models[kind]
    denoiser = model.composer.unet if kind == "sd" else model.composer.transformer
    seen = watched(denoiser)
    paint(model)
    assert seen and all(custom is None for _, custom in seen)  # a short prompt counts as in training
    seen.clear()
    paint(model, prompt=PAGE * repeats)
    assert seen
    for length, custom in seen:
        assert length > limit and len(custom) == length and int(custom.max()) < limit
        assert (custom == 0).sum() == starts  # sentences of CLIP, blocks of T5
    handle = find_tenor(denoiser)
    assert handle is not None and handle.positions.custom is None


def test_weights_of_longalign_act_beside_those_of_compass(
    folders: dict[str, Path], models: dict[str, Any], tmp_path: Path
) -> None:
    both = shutil.copytree(folders["sd"], tmp_path / "storybook-both")
    LongAlignParts("smart", 80, ()).write(both / "longalign")
    unet = sd_parts()["unet"]
    unet.add_adapter(lora_config(unet, rank=2), adapter_name="align")
    from peft import get_peft_model_state_dict

    lora = get_peft_model_state_dict(unet, adapter_name="align")
    write_lora(both / "longalign", "align", shaken(lora))
    model = PipelinePainter().load_model(both)
    composer = model.composer
    assert composer.is_aligned and adapter_scales(composer.unet) == {"align": 1.0} and has_tenor(composer)
    name = "down_blocks.0.resnets.0.conv1"
    under = composer.unet.get_submodule(name).base_layer.weight
    assert torch.equal(
        under, models["sd"].composer.unet.get_submodule(name).weight
    )  # CoMPaSS's, not the plain ones
    page = PAGE * 12  # what fits CLIP is painted without them
    together = paint(model, prompt=page)
    composer.unet.disable_adapters()
    assert not np.array_equal(together, paint(model, prompt=page))
    composer.unet.enable_adapters()
    assert np.array_equal(together, paint(model, prompt=page))
    assert not np.array_equal(together, paint(model, prompt=page, tenor=False))
    with pytest.raises(ValueError, match=r"adapters \['align'\] would be lost with the UNet"):
        load_compass(composer, both / "compass")
    assert np.array_equal(together, paint(model, prompt=page))


@pytest.fixture(scope="module")
def quick(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with weights for few steps beside those of CoMPaSS."""
    folder = shutil.copytree(folders["flux"], tmp_path_factory.mktemp("weights") / "storybook-quick")
    write_adapter(folder)
    return folder


def test_weights_of_compass_act_beside_those_for_few_steps(quick: Path) -> None:
    from diffusers import FluxPipeline

    from pipelines.compose import painting

    model = PipelinePainter().load_model(quick)
    assert len(model.composers) == 2 and all(map(has_tenor, model.composers))
    assert adapter_scales(model.quick.transformer) == {ADAPTER: 1.0}  # the other one is melted in
    together = paint(model)
    stock = FluxPipeline.from_pretrained(quick, dtype=model.pipeline.dtype)
    stock.set_progress_bar_config(disable=True)
    stock.load_lora_weights(quick / "fast-lora", adapter_name="fast")
    load_compass(stock, quick / "compass-lora")
    states, pooled, _ = painting.read_text(model, PROMPT)
    asked = stock(
        prompt_embeds=states, pooled_prompt_embeds=pooled, height=64, width=64, num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).images[0]  # fmt: skip
    without = painting.load_model(quick)
    plain = np.asarray(painting.paint(without, prompt=PROMPT, width=64, height=64, seed=3, steps=2).image)
    far, near = (np.abs(together.astype(int) - other).mean() for other in (plain, np.asarray(asked)))
    assert near < far / 3
    # TENOR can be left out there, too
    assert not np.array_equal(together, paint(model, tenor=False))
    assert all(map(has_tenor, model.composers)) and np.array_equal(together, paint(model))


def test_positions_of_a_page_hold_in_few_steps(quick: Path, watched: Callable[[Any], Any]) -> None:
    model = PipelinePainter().load_model(quick)
    seen = watched(model.quick.transformer)
    paint(model, prompt=PAGE * 60)
    assert seen and all(int(custom.max()) < 512 for _, custom in seen)

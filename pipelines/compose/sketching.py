"""First stages by Stable Diffusion: its UNet paints small, a Scale-DiT transformer beside it enlarges.

The sketch is handed on as a picture, so the two need nothing in common but the world they were trained on.
Free of torch until something is loaded: forecasts ask here too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose.few_steps import FEW
from pipelines.compose.spatial import add_compass, tenor_positions
from pipelines.storybook.guidance import SD_GUIDANCE

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from pipelines.scale_dit.stages import Stage

SKETCHES = ("StableDiffusionPipeline", "LongAlignPipeline")
CLIP_LIMIT = 77  # tokens
LONGEST_TEXT = 4096  # tokens
ENLARGER = "storybook-flux"  # the folder, beside that of an embedded model
ALIGNED = "longalign"  # the folder of LongAlign's weights, inside that of the model


def sketches(folder: Path) -> bool:
    """Whether a folder is of the Stable Diffusion type."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(index, dict) and index.get("_class_name") in SKETCHES


def enlarger_of(folder: Path) -> Path | None:
    """The model that enlarges what this one paints; None where there is none: it then paints small only."""
    beside = folder.parent / ENLARGER
    return beside if folder.name.startswith("storybook") and beside.is_dir() else None


def is_distilled(folder: Path, steps: int) -> bool:
    """Whether so many steps are painted by LongAlign's distilled stage, without guidance."""
    return steps <= FEW and (folder / ALIGNED / "lcm").is_dir()


def sketch_facts(folder: Path) -> tuple[int, int]:
    """(side in px of the square that the UNet was trained on, bytes of its weights).

    Raises:
        ValueError: the folder can't be read.
    """
    try:
        config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
        side = int(config["sample_size"]) * 8
        size = sum(path.stat().st_size for path in (folder / "unet").glob("*.safetensors"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder} is not a Stable Diffusion model folder ({error!r})") from error
    return side, size


def load_sketcher(folder: Path, dtype: torch.dtype, device: str, compass: Path | None = None) -> Any:
    """A `LongAlignPipeline`: prompts of any length, with aligned weights where the folder has them.

    Args:
        compass: see `spatial.add_compass`.
    """
    import torch

    from pipelines.compass.support import adapter_scales
    from pipelines.longalign.parts import FULL_PICTURE, LongAlignParts
    from pipelines.longalign.pipeline_longalign import LongAlignPipeline
    from pipelines.longalign.plan import WHERE_MEANT

    pipeline = LongAlignPipeline.from_pretrained(folder, dtype=dtype).to(device)
    add_compass(pipeline, folder, compass)
    if (folder / ALIGNED).is_dir():
        before = adapter_scales(pipeline.unet)
        loras = LongAlignParts.read(folder / ALIGNED).loras
        pipeline.load_longalign(folder / ALIGNED, dict.fromkeys(loras, 1.0))
        # it switches other adapters off, and those for few steps on
        own = {name: float(name in FULL_PICTURE) for name in loras}
        _set_adapters(pipeline.unet, {**own, **before})
    # alone: what was painted before must not change a bit of the same request
    pipeline.prompt_settings = replace(
        pipeline.prompt_settings, max_rows=LONGEST_TEXT, weights=WHERE_MEANT, alone=True
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.to(memory_format=torch.channels_last)
    return pipeline


def _set_adapters(unet: Any, strengths: Mapping[str, float]) -> None:
    """Let adapters act as strongly as it says, those of strength 0 not at all."""
    acting = {name: strength for name, strength in strengths.items() if strength}
    if acting:
        unet.enable_adapters()
        unet.set_adapters(list(acting), list(acting.values()))
    elif strengths:
        unet.disable_adapters()


@contextmanager
def _acting(pipeline: Any, stages: Collection[str]) -> Iterator[None]:
    """For one picture: these of LongAlign's LoRAs, as far as they are there, and none of its others."""
    from pipelines.compass.support import adapter_scales
    from pipelines.longalign.parts import LORA_NAMES

    before = adapter_scales(pipeline.unet)
    own = {name: float(name in stages) for name in before if name in LORA_NAMES}
    _set_adapters(pipeline.unet, {**before, **own})
    try:
        yield
    finally:
        _set_adapters(pipeline.unet, before)


@contextmanager
def _distilled(pipeline: Any) -> Iterator[None]:
    """For one picture: LongAlign's LoRAs for few steps, and their scheduler."""
    from pipelines.longalign.parts import FEW_STEPS

    scheduler = pipeline.scheduler
    pipeline.use_few_steps()
    try:
        with _acting(pipeline, FEW_STEPS):
            yield
    finally:
        pipeline.register_modules(scheduler=scheduler)


def reads_at_once(pipeline: Any, prompt: str) -> bool:
    """Whether CLIP reads the whole prompt as in training: it fits, and has neither emphasis nor `BREAK`."""
    from pipelines.longalign.prompt_weights import uses_syntax

    fits = len(pipeline.tokenizer(prompt, verbose=False).input_ids) <= CLIP_LIMIT
    return fits and not uses_syntax(prompt)


def sketch(
    pipeline: Any,
    prompt: str,
    stage: Stage,
    steps: int,
    generator: torch.Generator,
    on_step: Callable[[Any, int, Any, dict[str, Any]], dict[str, Any]],
    few: bool = False,
) -> Image.Image | None:
    """The first stage's picture; None when `on_step` stopped the pipeline.

    Args:
        few: paint by the distilled weights; see `is_distilled`. Only for what CLIP doesn't read at once.

    What it does is encoded and painted as in training, which is better in as few guided steps (in four, 80
    and 74 % of one-object prompts right, by the distilled weights 72 and 64 %). Longer texts, and those with
    emphasis or `BREAK`, are read sentence by sentence, with the weights that are aligned to that.
    """
    from diffusers import StableDiffusionPipeline

    at_once = reads_at_once(pipeline, prompt)
    if at_once:
        asked, plain = StableDiffusionPipeline.encode_prompt(pipeline, prompt, pipeline.device, 1, True)
        plans: Any = ()
    else:
        asked, plain = pipeline.encode_prompt(prompt, pipeline.device, 1, True)
        plans = pipeline.plans
    acting = _distilled(pipeline) if few else _acting(pipeline, ()) if at_once else nullcontext()
    with tenor_positions(pipeline, plans[0] if plans else ()), acting:
        result = pipeline(
            prompt_embeds=asked,
            negative_prompt_embeds=plain,
            height=stage.height,
            width=stage.width,
            num_inference_steps=steps,
            guidance_scale=0.0 if few else SD_GUIDANCE,
            generator=generator,
            callback_on_step_end=on_step,
        )
    pipeline.plans = plans
    return None if pipeline.interrupt else result.images[0]

"""The studio's door to painting: plain values in, a PIL picture out; progress, previews, stops."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose.forecast import (
    DEFAULT_STEPS,
    HIGH_RES_STEPS,
    Forecast,
    Work,
    count_work,
    forecast,
    learn_speed,
)
from pipelines.runtime import choose_runtime, peak_bytes
from pipelines.scale_dit.stages import size_problem
from pipelines.storybook.vocabulary import canonical_prompt, unknown_words

if TYPE_CHECKING:
    from PIL import Image

PREVIEW_EVERY_S = 0.3
PREVIEW_LATENTS = 32  # longest side of what a preview decodes, in latents

__all__ = [
    "Cancelled",
    "Forecast",
    "Painting",
    "Progress",
    "check_size",
    "default_steps",
    "forecast",
    "load_model",
    "paint",
]


class Cancelled(Exception):
    """`should_stop` said yes; nothing was painted."""


@dataclass(frozen=True)
class Progress:
    """What a watcher is told; see the fields of `studio.painter.ProgressReport`."""

    phase: str
    stage: int
    stages: int
    step: int
    steps: int
    fraction: float
    width: int
    height: int
    preview: Image.Image | None = None


@dataclass(frozen=True)
class Painting:
    """A finished picture, seconds per phase, and how it was made."""

    image: Image.Image
    seconds: dict[str, float]
    backend: str
    dtype: str
    device: str
    stages: tuple[tuple[int, int], ...]
    warnings: tuple[str, ...]
    peak_bytes: int


@dataclass(frozen=True)
class LoadedModel:
    """A pipeline and where it came from."""

    pipeline: Any
    folder: Path
    device: str
    dtype: str
    is_storybook: bool


def check_size(width: int, height: int) -> str | None:
    """None, or one sentence that says why this size can't be painted."""
    return size_problem(height, width)


def default_steps(folder: Path) -> int:
    """Steps of the first stage when none are asked for."""
    return DEFAULT_STEPS


def load_model(folder: Path) -> LoadedModel:
    """Load a model folder in the dtype that is fast here.

    Raises:
        ValueError, OSError: the folder isn't a model of this project or is damaged.
    """
    import torch

    from pipelines.loading import load_pipeline

    runtime = choose_runtime()
    pipeline = load_pipeline(Path(folder), dtype=getattr(torch, runtime.dtype)).to(runtime.device)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.vae.to(memory_format=torch.channels_last)
    # the words of its small world are known only for the embedded models
    return LoadedModel(
        pipeline, Path(folder), runtime.device, runtime.dtype, Path(folder).name.startswith("storybook")
    )


def paint(
    model: LoadedModel,
    *,
    prompt: str,
    width: int,
    height: int,
    seed: int,
    steps: int | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Painting:
    """Paint one picture; the same arguments give the same pixels on the same machine.

    Raises:
        Cancelled: `should_stop` answered True (asked after every step and every decoded tile).
        ValueError: bad size or steps.
    """
    import torch

    pipeline = model.pipeline
    steps = steps or DEFAULT_STEPS
    _, work = count_work(model.folder, width, height, steps)
    watcher = _Watcher(pipeline, work, steps, on_progress, should_stop)
    text, warnings = prompt, []
    if model.is_storybook:
        text = canonical_prompt(prompt).lower()
        unknown = unknown_words(prompt)
        if unknown:
            warnings.append(f"not in Storybook's world: {', '.join(unknown)}")
    watcher.enter("encode")
    text_states, pooled = _encode(pipeline, text)
    watcher.enter("paint")
    result = pipeline(
        prompt_embeds=text_states,
        pooled_prompt_embeds=pooled,
        height=height,
        width=width,
        num_inference_steps=steps,
        high_res_steps=HIGH_RES_STEPS,
        generator=torch.Generator().manual_seed(seed),
        callback_on_step_end=watcher.on_step,
        callback_on_step_end_tensor_inputs=["denoised"],
        callback_on_tile=watcher.on_tile,
    )
    if pipeline.interrupt:
        raise Cancelled
    seconds = watcher.finish()
    learn_speed(work, seconds["total"])
    sizes = tuple((stage.width, stage.height) for stage in result.stages)
    backend = pipeline.attention_backend or "dense"
    return Painting(
        result.images[0], seconds, backend, model.dtype, model.device, sizes, tuple(warnings), peak_bytes()
    )


def _encode(pipeline: Any, text: str) -> tuple[Any, Any]:
    import torch

    with torch.no_grad():
        return pipeline.encode_prompt(text)


class _Watcher:
    """Turns the pipeline's callbacks into `Progress`, takes the time of each phase, and polls for a stop."""

    def __init__(
        self,
        pipeline: Any,
        work: Work,
        steps: int,
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.pipeline, self.work, self.steps = pipeline, work, steps
        self.on_progress, self.should_stop = on_progress, should_stop
        self.seconds: dict[str, float] = {}
        self.began = self.entered = time.monotonic()
        self.phase = ""
        self.last_preview = 0.0

    def enter(self, phase: str) -> None:
        now = time.monotonic()
        if self.phase:
            self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now - self.entered
        self.phase, self.entered = phase, now
        if phase and self.should_stop is not None and self.should_stop():
            raise Cancelled

    def finish(self) -> dict[str, float]:
        """Seconds per phase and in total."""
        self.enter("")
        self.seconds["total"] = time.monotonic() - self.began
        return {name: round(value, 3) for name, value in self.seconds.items()}

    def on_step(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        index = pipeline.stage_index
        stage, count = pipeline.stages[index], self.steps if index == 0 else HIGH_RES_STEPS
        self.enter(f"stage {index + 1}")
        if self.should_stop is not None and self.should_stop():
            pipeline._interrupt = True
        done = self.work.encode + sum(self.work.stages[:index])
        done += self.work.stages[index] * (pipeline.step_in_stage + 1) / count
        preview = self._preview(tensors["denoised"], stage.grid)
        self._tell(
            "paint", index + 1, pipeline.step_in_stage + 1, count, done, stage.width, stage.height, preview
        )
        return {}

    def on_tile(self, done: int, tiles: int) -> bool:
        if self.phase != "decode":
            # the time since the last step belongs to decoding's first tile
            self.enter("decode")
        stage = self.pipeline.stages[-1]
        work = self.work.encode + sum(self.work.stages) + self.work.decode * done / tiles
        self._tell("decode", len(self.pipeline.stages), done, tiles, work, stage.width, stage.height, None)
        return self.should_stop is not None and self.should_stop()

    def _tell(
        self,
        phase: str,
        stage: int,
        step: int,
        steps: int,
        done: float,
        width: int,
        height: int,
        preview: Any,
    ) -> None:
        if self.on_progress is not None:
            fraction = min(done / self.work.total, 1.0)
            stages = len(self.pipeline.stages)
            self.on_progress(Progress(phase, stage, stages, step, steps, fraction, width, height, preview))

    def _preview(self, denoised: Any, grid: tuple[int, int]) -> Image.Image | None:
        """The present estimate, shrunk in latent space (the autoencoder is trained for that) and decoded."""
        now = time.monotonic()
        if self.on_progress is None or now - self.last_preview < PREVIEW_EVERY_S:
            return None
        import torch
        import torch.nn.functional as F

        from pipelines.scale_dit.transformer_scale_dit import unpack

        latents = unpack(denoised[:1], grid)
        shrink = max(1, max(latents.shape[-2:]) // PREVIEW_LATENTS)
        vae = self.pipeline.vae
        with torch.no_grad():
            small = F.avg_pool2d(latents, shrink).to(vae.device, vae.dtype)
            picture = vae.decode(small / vae.config.scaling_factor + (vae.config.shift_factor or 0.0)).sample
        self.last_preview = time.monotonic()
        return self.pipeline.image_processor.postprocess(
            picture.float().cpu().clamp(-1, 1), output_type="pil"
        )[0]

"""The studio's door to painting: plain values in, a PIL picture out; progress, previews, stops."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose.cutting import cut_text
from pipelines.compose.few_steps import FEW, is_quick, load_quick
from pipelines.compose.forecast import (
    DEFAULT_STEPS,
    Forecast,
    Work,
    count_work,
    forecast,
    high_res_steps,
    learn_speed,
)
from pipelines.compose.sketching import (
    LONGEST_TEXT,
    enlarger_of,
    is_distilled,
    load_sketcher,
    reads_at_once,
    sketch,
    sketches,
)
from pipelines.compose.spatial import add_compass, tenor_positions
from pipelines.longalign.prompt_weights import plain_words, rewrite_words, uses_syntax
from pipelines.runtime import choose_runtime, peak_bytes
from pipelines.scale_dit.stages import Stage, size_problem
from pipelines.storybook.vocabulary import canonical_prompt, unknown_words, world_summary

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from torch import Tensor

    from pipelines.longalign.conditioning import LongPromptEncoder
    from pipelines.longalign.plan import PromptPlan

DETAIL_ADAPTER = "scale-dit-lora"  # folder in a model folder: Scale-DiT's LoRA for the stages after the first
FEW_REMARK = f"Painted by weights for few steps, without guidance; from {FEW + 1} steps on by the full ones."
PREVIEW_EVERY_S = 0.3
PREVIEW_SHARE = 0.1  # of the time that previews may take, on slow machines
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
    """What a watcher is told.

    Attributes:
        phase: "encode", "enlarge", "paint" or "decode".
        stage, stages: which stage of how many, from 1.
        step, steps: steps done within the stage; tiles while enlarging or decoding.
        fraction: share of the whole work that is done, 0 to 1.
        width, height: pixels of the stage.
        preview: now and then, a small picture of what it will be.
    """

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
    """A finished picture, and how it was made.

    Attributes:
        seconds: time of each phase: "encode", "stage 1" and further ones, "enlarge" between them, "preview",
            "decode".
        backend: attention back end of the large stages, or "dense".
        stages: (width, height) of each stage.
        warnings: sentences that the person should read.
        peak_bytes: largest resident size of this process so far.
    """

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
    """Pipelines and where they came from.

    Attributes:
        pipeline: paints from nothing, or enlarges what `sketcher` painted; None where nothing enlarges it.
        sketcher: a Stable Diffusion pipeline that paints the first stage, or None.
        quick: `pipeline` with a transformer that paints the first stage in a few steps, or None.
    """

    pipeline: Any
    sketcher: Any
    quick: Any
    folder: Path
    device: str
    dtype: str
    is_storybook: bool

    @property
    def composer(self) -> Any:
        """The pipeline that decides what the picture shows."""
        return self.sketcher or self.pipeline

    @property
    def composers(self) -> tuple[Any, ...]:
        """It, and the one that does so in few steps: whatever is switched has to be switched in both."""
        return (self.composer,) if self.quick is None else (self.composer, self.quick)

    @cached_property
    def page_encoder(self) -> LongPromptEncoder:
        """What `pipeline` is told of pages and of emphasis; it remembers the blocks of earlier prompts."""
        from pipelines.longalign.conditioning import LongPromptEncoder
        from pipelines.longalign.plan import WHERE_MEANT, PromptSettings
        from pipelines.scale_dit.pipeline_scale_dit import TEXT_MULTIPLE

        # alone: what was painted before must not change a bit of the same request
        settings = PromptSettings(weights=WHERE_MEANT, max_rows=LONGEST_TEXT, alone=True)
        return LongPromptEncoder.from_pipeline(
            self.pipeline, settings, t5_window=self.pipeline.text_limit, t5_row_step=TEXT_MULTIPLE
        )


def check_size(width: int, height: int) -> str | None:
    """None, or one sentence that says why this size can't be painted."""
    return size_problem(height, width)


def default_steps(folder: Path) -> int:
    """Steps of the first stage when none are asked for."""
    return DEFAULT_STEPS


def load_model(folder: Path, compass: Path | None = None) -> LoadedModel:
    """Load a model folder in the dtype that is fast here.

    Args:
        compass: where in it the weights lie that were trained with TENOR; see `spatial.add_compass`.
    Raises:
        ValueError, OSError: the folder isn't a model of this project or is damaged.
    """
    import torch

    from pipelines.compose.quiet import quiet_loading
    from pipelines.loading import load_pipeline

    runtime, folder = choose_runtime(), Path(folder)
    dtype, sketcher, quick = getattr(torch, runtime.dtype), None, None
    staged: Path | None = folder
    with quiet_loading():
        if sketches(folder):
            sketcher = load_sketcher(folder, dtype, runtime.device, compass)
            staged = enlarger_of(folder)
        pipeline = None if staged is None else load_pipeline(staged, dtype=dtype).to(runtime.device)
        if sketcher is None:
            add_compass(pipeline, folder, compass)
    if pipeline is not None and staged is not None:
        if (staged / DETAIL_ADAPTER).is_dir():
            pipeline.load_scale_dit_lora(staged / DETAIL_ADAPTER)
        pipeline.set_progress_bar_config(disable=True)
        pipeline.vae.to(memory_format=torch.channels_last)
        if sketcher is None:
            with quiet_loading():
                quick = load_quick(pipeline, staged, compass)
    # the words of its small world are known only for the embedded models
    is_storybook = folder.name.startswith("storybook")
    return LoadedModel(pipeline, sketcher, quick, folder, runtime.device, runtime.dtype, is_storybook)


def paint(
    model: LoadedModel,
    *,
    prompt: str,
    width: int,
    height: int,
    seed: int,
    steps: int | None = None,
    cut_prompt: bool = False,
    on_progress: Callable[[Progress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Painting:
    """Paint one picture; the same arguments and threads give the same pixels on the same machine.

    Args:
        cut_prompt: read only what the deciding text encoder reads at once, as plain pipelines do, and no
            emphasis: what the rest of a page and its weights are good for can be seen beside it.
    Raises:
        Cancelled: `should_stop` answered True (asked around reading the prompt, after every step and every
            tile that is decoded or encoded).
        ValueError: bad size or steps.
    """
    import torch

    steps = DEFAULT_STEPS if steps is None else steps
    stages, work = count_work(model.folder, width, height, steps)
    watcher = _Watcher(stages, work, (steps, high_res_steps(model.folder, steps)), on_progress, should_stop)
    text, warnings = understood(prompt, has_emphasis=True) if model.is_storybook else (prompt, ())
    if cut_prompt:
        text, cut = cut_text(model.sketcher, model.pipeline, plain_words(text))
        warnings += cut
    watcher.begin()
    generator = torch.Generator().manual_seed(seed)
    image: Image.Image | None = None
    unread: tuple[str, ...] = ()
    backend = "dense"
    if model.sketcher is None:
        few = is_quick(model.folder, steps)
    else:
        few = is_distilled(model.folder, steps) and not reads_at_once(model.sketcher, text)
    warnings += (FEW_REMARK,) if few else ()
    if model.sketcher is not None:
        image = sketch(model.sketcher, text, stages[0], steps, generator, watcher.on_sketch_step, few)
        if image is None:
            raise Cancelled
        watcher.on_sketch(image)
        unread = _unread(sum(plans[0].dropped_tokens for plans in model.sketcher.plans))
    if image is None or len(stages) > 1:
        begins: dict[str, Any] = {}
        if image is not None:
            begins = {"image": image}
        elif few:
            begins = {"first_transformer": model.quick.transformer, "guidance_scale": 1.0}
        image, left_out = _paint_stages(model, text, begins, stages[-1], generator, watcher)
        unread, backend = unread or left_out, model.pipeline.attention_backend
    if model.sketcher is None:  # how fast a UNet is says nothing of the stages
        learn_speed(work, sum(watcher.seconds.values()) - watcher.seconds.get("preview", 0.0))
    return Painting(
        image=image,
        seconds={name: round(value, 3) for name, value in watcher.seconds.items()},
        backend=backend,
        dtype=model.dtype,
        device=model.device,
        stages=tuple((stage.width, stage.height) for stage in stages),
        warnings=warnings + unread,
        peak_bytes=peak_bytes(),
    )


def _paint_stages(
    model: LoadedModel,
    text: str,
    begins: dict[str, Any],
    size: Stage,
    generator: torch.Generator,
    watcher: _Watcher,
) -> tuple[Image.Image, tuple[str, ...]]:
    """The picture, and a sentence about words that were not read.

    Args:
        begins: arguments of the pipeline that tell how the first stage comes about.
    Raises:
        Cancelled: the watcher asked to stop.
    """
    states, pooled, plans = read_text(model, text)
    watcher.spend("encode")
    pipeline = model.pipeline
    with tenor_positions(pipeline, plans), tenor_positions(model.quick or pipeline, plans):
        result = pipeline(
            **begins,
            prompt_embeds=states,
            pooled_prompt_embeds=pooled,
            height=size.height,
            width=size.width,
            num_inference_steps=watcher.steps,
            high_res_steps=watcher.high_res_steps,
            generator=generator,
            callback_on_step_end=watcher.on_step,
            callback_on_step_end_tensor_inputs=["denoised"],
            callback_on_tile=watcher.on_tile,
            callback_on_enlarge=lambda done, tiles: watcher.on_enlarge(pipeline.stage_index, done, tiles),
        )
    if pipeline.interrupt:
        raise Cancelled
    watcher.spend("decode")
    return result.images[0], _unread(sum(plan.dropped_tokens for plan in plans))


def understood(prompt: str, *, has_emphasis: bool = False) -> tuple[str, tuple[str, ...]]:
    """A prompt in the world's own words, and a sentence about the words that it doesn't know.

    Args:
        has_emphasis: whether what reads it understands weights and `BREAK`; they are left out otherwise.
    """
    unknown = unfamiliar_words(prompt)
    remark = f"Not in Storybook's world: {', '.join(unknown)}; it knows: {world_summary()}"
    text = prompt if has_emphasis else plain_words(prompt)
    text = rewrite_words(text, lambda words: canonical_prompt(words).lower())
    return text, (remark,) if unknown else ()


def unfamiliar_words(prompt: str) -> list[str]:
    """Words of a prompt outside Storybook's world, each once; weights and `BREAK` are no words."""
    return unknown_words(plain_words(prompt))


def read_text(model: LoadedModel, text: str) -> tuple[Tensor, Tensor, Sequence[PromptPlan]]:
    """States and pooled vectors of a text, and the plan of its blocks where it isn't encoded in one piece.

    What T5 reads at once is encoded as stock pipelines do; longer texts in blocks of whole sentences, and
    those with emphasis or `BREAK` with the weights that they ask for.
    """
    import torch

    pipeline = model.pipeline
    with torch.no_grad():
        fits = len(pipeline.tokenizer_2(text, verbose=False).input_ids) <= pipeline.text_limit
        if fits and not uses_syntax(text):
            return *pipeline.encode_prompt(text), ()
        found = model.page_encoder(text, guided=False)
    assert found.pooled_prompt_embeds is not None  # FLUX.1 has them
    return found.prompt_embeds, found.pooled_prompt_embeds, found.plans[0]


def _unread(lost: int) -> tuple[str, ...]:
    """A sentence about the end of a prompt that even a page has no room for."""
    remark = f"The last {lost} tokens of the prompt were not read: {LONGEST_TEXT} are the most."
    return (remark,) if lost else ()


class _Watcher:
    """Turns the pipeline's callbacks into `Progress`, takes the time of each phase, and polls for a stop."""

    def __init__(
        self,
        stages: tuple[Stage, ...],
        work: Work,
        steps: tuple[int, int],
        on_progress: Callable[[Progress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.stages, self.work = stages, work
        self.steps, self.high_res_steps = steps
        self.on_progress, self.should_stop = on_progress, should_stop or (lambda: False)
        self.seconds: dict[str, float] = {}
        self.mark = time.monotonic()
        self.next_preview = self.mark + PREVIEW_EVERY_S

    def spend(self, phase: str) -> None:
        """Count the time since the last call as time of `phase`."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.mark
        self.mark = now

    def begin(self) -> None:
        """Reading the prompt starts.

        Raises:
            Cancelled: it needn't.
        """
        if self.should_stop():
            raise Cancelled
        self._tell("encode", 0, (0, 1), 0.0)

    def on_step(self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        index, done = pipeline.stage_index, pipeline.step_in_stage + 1
        self.spend(f"stage {index + 1}")
        pipeline._interrupt = self.should_stop()
        count = self.steps if index == 0 else self.high_res_steps
        work = self._before(index) + self.work.resizes[index] + self.work.stages[index] * done / count
        preview = None if pipeline.interrupt else self._preview(pipeline, tensors["denoised"], index)
        self._tell("paint", index, (done, count), work, preview)
        return {}

    def on_sketch_step(
        self, pipeline: Any, step: int, timestep: Any, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        """A step of a first stage that is painted for itself; its latents are too noisy to be shown."""
        self.spend("stage 1")
        pipeline._interrupt = self.should_stop()
        done = step + 1
        self._tell("paint", 0, (done, self.steps), self.work.encode + self.work.stages[0] * done / self.steps)
        return {}

    def on_sketch(self, picture: Image.Image) -> None:
        """What it painted."""
        self.spend("stage 1")
        self._tell("paint", 0, (self.steps, self.steps), self._before(1), picture)

    def on_enlarge(self, index: int, done: int, tiles: int) -> bool:
        self.spend("enlarge")
        self._tell(
            "enlarge", index, (done, tiles), self._before(index) + self.work.resizes[index] * done / tiles
        )
        return self.should_stop()

    def _before(self, index: int) -> float:
        """Work of all that comes before a stage."""
        return self.work.encode + sum(self.work.resizes[:index]) + sum(self.work.stages[:index])

    def on_tile(self, done: int, tiles: int) -> bool:
        self.spend("decode")
        work = self.work.total - self.work.decode * (tiles - done) / tiles
        self._tell("decode", len(self.stages) - 1, (done, tiles), work)
        return self.should_stop()

    def _tell(
        self, phase: str, index: int, steps: tuple[int, int], work: float, preview: Image.Image | None = None
    ) -> None:
        if self.on_progress is not None:
            stage, count = self.stages[index], len(self.stages)
            fraction = min(work / self.work.total, 1.0)
            self.on_progress(
                Progress(phase, index + 1, count, *steps, fraction, stage.width, stage.height, preview)
            )

    def _preview(self, pipeline: Any, denoised: Any, index: int) -> Image.Image | None:
        """The present estimate, shrunk in latent space (the autoencoder is trained for that) and decoded."""
        if self.on_progress is None or self.mark < self.next_preview:
            return None
        import torch
        import torch.nn.functional as F

        from pipelines.scale_dit.transformer_scale_dit import unpack

        latents = unpack(denoised[:1], self.stages[index].grid)
        height, width = latents.shape[-2:]
        shrink = min(max(1, max(height, width) // PREVIEW_LATENTS), height, width)
        vae = pipeline.vae
        with torch.no_grad():
            small = F.avg_pool2d(latents, shrink) / vae.config.scaling_factor
            picture = vae.decode((small + (vae.config.shift_factor or 0.0)).to(vae.dtype)).sample
        picture = pipeline.image_processor.postprocess(picture.float().clamp(-1, 1), output_type="pil")[0]
        began = self.mark
        self.spend("preview")
        self.next_preview = self.mark + max(PREVIEW_EVERY_S, (self.mark - began) / PREVIEW_SHARE)
        return picture

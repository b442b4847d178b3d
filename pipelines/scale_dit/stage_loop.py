"""The denoising loops of one picture: the first stage, and the steps that enlarge it."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pipelines.scale_dit.guided_stage import SequenceBuilder, StageSequence, pick_rows
from pipelines.scale_dit.high_res import HighResOptions
from pipelines.scale_dit.lora_routing import LoraRouting
from pipelines.scale_dit.schedule import blend_noise, euler_schedule, guide_frequencies, level_before_shift
from pipelines.scale_dit.stages import Stage
from pipelines.scale_dit.transformer_scale_dit import denoise, pack, unpack
from pipelines.scale_dit.words import Words

# (step of this stage, timestep, tensors to show) -> the tensors a watcher wants to put in their place
Report = Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor]]
# (finished latents, height and width of the next ones) -> the enlarged latents; None: it was stopped
Resize = Callable[[Tensor, tuple[int, int]], Tensor | None]


class CarryOn:
    """Adams and Bashforth's method of second order for steps of any size, as a correction of velocities.

    With h the size of this step and g that of the one before, an Euler step with v + h / (2 g) (v - v_before)
    is of second order; the first step is Euler's own.

    Args:
        levels: noise levels, one more than steps.
    """

    def __init__(self, levels: list[float]) -> None:
        self._sizes = [now - following for now, following in pairwise(levels)]
        self._before: Tensor | None = None

    def __call__(self, step: int, velocity: Tensor) -> Tensor:
        """The velocity to go on with in a step, given the network's."""
        before, self._before = self._before, velocity
        if before is None:
            return velocity
        return velocity + self._sizes[step] / (2 * self._sizes[step - 1]) * (velocity - before)


@dataclass
class StageLoop:
    """What the stages of one pipeline call share.

    Attributes:
        transformer, scheduler: as in the pipeline; the scheduler is only a template (its copies hold state).
        words, negative: texts to paint, and those to keep away from by classifier-free guidance (None: no
            such guidance). Both have the same widths.
        guidance_scale: of classifier-free guidance in the first stage, or what a guidance embedding is told.
        backend: attention back end of large stages.
        report: called after every step.
        is_stopped: polled before every step.
        resize: enlarges the latents of the stage before.
        options: of the stages after the first.
        routing: a LoRA adapter that acts on some tokens of those stages only, or None.
        patch: latents per token and side.
        used_backend: of the stage that was painted last: "dense", or a kernel's name.
    """

    transformer: nn.Module
    scheduler: FlowMatchEulerDiscreteScheduler
    words: Words
    negative: Words | None
    guidance_scale: float
    backend: str
    report: Report
    is_stopped: Callable[[], bool]
    resize: Resize
    options: HighResOptions = field(default_factory=HighResOptions)
    routing: LoraRouting | None = None
    patch: int = 2
    used_backend: str = "dense"

    def paint(self, noise: Tensor, stage: Stage, steps: int) -> Tensor:
        """The first stage: noise `[B, C, p h, p w]` fp32 for a grid of (h, w) -> latents of that shape."""
        scheduler = euler_schedule(self.scheduler, steps, 1.0, noise.device)
        sequence = self._builder.first(stage.grid, noise.device)
        x = self._run(pack(noise, self.patch), scheduler, sequence, self.guidance_scale)
        return unpack(x, stage.grid, self.patch)

    def enlarge(self, low: Tensor, noise: Tensor, stage: Stage, steps: int, strength: float) -> Tensor:
        """A further stage: finished latents `low` and noise of the new size -> latents of the new size.

        It starts from the enlarged latents at noise level `strength`, guided by `low` itself. Stopped before
        its first step, it returns `low`.
        """
        start = level_before_shift(self.scheduler, strength)
        scheduler = euler_schedule(self.scheduler, steps, start, noise.device)
        sequence = self._guided(low, stage)
        self.used_backend = sequence.backend
        enlarged = self.resize(low, (noise.shape[-2], noise.shape[-1]))
        if enlarged is None:
            return low
        enlarged, noise = (sequence.from_raster(pack(part, self.patch)) for part in (enlarged, noise))
        x = blend_noise(enlarged, noise, float(scheduler.sigmas[0]))
        if self.options.low_frequencies != "none":
            sequence = replace(sequence, enlarged=enlarged)
        x = self._run(x, scheduler, sequence, self._later_scale)
        return unpack(sequence.to_raster(x), stage.grid, self.patch)

    @property
    def _builder(self) -> SequenceBuilder:
        return SequenceBuilder(self.transformer, self.options, self.routing, self.backend)

    @property
    def _has_embedding(self) -> bool:
        return bool(self.transformer.config.guidance_embeds)

    @property
    def _later_scale(self) -> float:
        """Guidance scale of the stages after the first."""
        if self.options.guidance_scale is not None:
            return self.options.guidance_scale
        return self.guidance_scale if self._has_embedding else 1.0

    def _guided(self, low: Tensor, stage: Stage) -> StageSequence:
        texts = [self.words.pooled]
        if self.negative is not None and self.negative.pooled is not None and self._later_scale != 1.0:
            texts.append(self.negative.pooled)
        tokens = pack(low, self.patch).to(self.words.text.dtype)
        low_grid = (low.shape[-2] // self.patch, low.shape[-1] // self.patch)
        guidance = self._guidance(self.words.text, self._later_scale)
        return self._builder.guided(tokens, stage.grid, low_grid, texts, guidance)

    def _run(self, x: Tensor, scheduler: Any, sequence: StageSequence, scale: float) -> Tensor:
        """All steps of a stage on packed tokens; watchers see them in raster order."""
        steps = len(scheduler.timesteps)
        carry = CarryOn(scheduler.sigmas.tolist())
        multistep = sequence.guide is not None and self.options.solver == "adams_bashforth"
        for index, timestep in enumerate(scheduler.timesteps):
            if self.is_stopped():
                break
            velocity = self._velocity(x, timestep, sequence, scale)
            if sequence.enlarged is not None:
                schedule, sigma = self.options.low_frequencies, float(timestep) / 1000
                velocity = guide_frequencies(velocity, x, sequence.enlarged, sigma, index / steps, schedule)
            if multistep:
                velocity = carry(index, velocity)
            denoised = x - timestep / 1000 * velocity
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
            shown = {"latents": sequence.to_raster(x), "denoised": sequence.to_raster(denoised)}
            answer = self.report(index, timestep, {**shown, "prompt_embeds": self.words.text})
            if "latents" in answer:
                x = sequence.from_raster(answer["latents"])
            if "prompt_embeds" in answer:
                self.words = self.words.with_text(answer["prompt_embeds"])
        return x

    def _velocity(self, x: Tensor, timestep: Tensor, sequence: StageSequence, scale: float) -> Tensor:
        """Velocity `[B, N, C]` fp32, with classifier-free guidance where it is asked for."""
        out = torch.empty_like(x)
        negative = self.negative if self._takes_two_passes(sequence, timestep, scale) else None
        for width, rows in self.words.groups():
            tokens, asked = x[rows], self.words.pick(rows, width)
            if negative is None:
                out[rows] = self._pass(tokens, timestep, sequence, asked, rows, scale)
                continue
            avoided = negative.pick(rows, width)
            if sequence.guide is None:  # a small stage: both passes at once
                text = torch.cat([avoided[0], asked[0]])
                pooled = None if asked[1] is None else torch.cat([avoided[1], asked[1]])
                twice = torch.cat([tokens, tokens])
                both = self._pass(twice, timestep, sequence, (text, pooled), rows, scale)
                plain, wanted = both.chunk(2)
            else:
                wanted = self._pass(tokens, timestep, sequence, asked, rows, scale)
                other = replace(sequence, guide=sequence.negative_guide or sequence.guide)
                plain = self._pass(tokens, timestep, other, avoided, rows, scale)
            out[rows] = plain + scale * (wanted - plain)
        return out

    def _takes_two_passes(self, sequence: StageSequence, timestep: Tensor, scale: float) -> bool:
        """Whether classifier-free guidance acts in a step, if there are words to keep away from."""
        if scale == 1.0 or sequence.guide is None:
            return scale != 1.0
        low, high = self.options.guidance_interval
        return low <= float(timestep) / 1000 <= high

    def _pass(
        self,
        tokens: Tensor,
        timestep: Tensor,
        sequence: StageSequence,
        texts: tuple[Tensor, Tensor | None],
        rows: list[int],
        scale: float,
    ) -> Tensor:
        """One forward of the transformer for some pictures of the batch; velocity in fp32."""
        text, pooled = texts
        guide = sequence.guide
        if guide is not None and len(rows) < len(self.words.widths):
            guide = pick_rows(guide, rows)
        return denoise(
            self.transformer,
            tokens.to(text.dtype),
            text,
            pooled,
            (timestep / 1000).to(text.dtype).expand(len(tokens)),
            image_ids=sequence.ids,
            attend=sequence.attend(text.shape[1]),
            guide=guide,
            guidance=self._guidance(text, scale),
            rope=None if guide is None else self.options.rope,
            routing=self.routing,
        ).float()

    def _guidance(self, text: Tensor, scale: float) -> Tensor | None:
        """What a guidance embedding is told, `[B]`; None without one."""
        return torch.full_like(text[:, 0, 0], scale) if self._has_embedding else None

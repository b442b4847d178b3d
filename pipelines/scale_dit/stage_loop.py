"""The denoising loops of one picture: the first stage, and the steps that enlarge it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor, nn

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import choose
from pipelines.scale_dit.stages import DENSE_LIMIT, Stage
from pipelines.scale_dit.transformer_scale_dit import (
    Attend,
    GuideCache,
    anchors,
    denoise,
    dense_attention,
    encode_guide,
    local_attention,
    pack,
    unpack,
)

# (step of this stage, timestep, tensors to show) -> the tensors a watcher wants to put in their place
Report = Callable[[int, Tensor, dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class Words:
    """Encoded text of a batch of pictures.

    Attributes:
        text: T5 states `[B, T, J]`; pooled: CLIP vectors `[B, P]`.
        widths: states that belong to each picture. Its row is never read beyond them, so that a picture does
            not depend on how long the other texts of its batch are.
    """

    text: Tensor
    pooled: Tensor
    widths: tuple[int, ...]

    def repeat(self, count: int) -> "Words":
        """Each row `count` times, neighbours together."""
        widths = tuple(width for width in self.widths for _ in range(count))
        return Words(self.text.repeat_interleave(count, 0), self.pooled.repeat_interleave(count, 0), widths)

    def with_text(self, text: Tensor) -> "Words":
        """Other states of the same shape.

        Raises:
            ValueError: another shape.
        """
        if text.shape != self.text.shape:
            raise ValueError(f"prompt_embeds are {list(text.shape)}; expected {list(self.text.shape)}")
        return replace(self, text=text.to(self.text))

    def groups(self) -> list[tuple[int, list[int]]]:
        """(width, rows) of the pictures that share a width."""
        found: dict[int, list[int]] = {}
        for row, width in enumerate(self.widths):
            found.setdefault(width, []).append(row)
        return list(found.items())


@dataclass(frozen=True)
class _Sequence:
    """The image tokens of a stage: positions in their order, attention by text width, encoded guide."""

    ids: Tensor
    attend: Callable[[int], Attend]
    guide: GuideCache | None = None


@dataclass
class StageLoop:
    """What the stages of one pipeline call share.

    Attributes:
        transformer, scheduler: as in the pipeline; the scheduler is only a template (its copies hold state).
        words, negative: texts to paint, and those to keep away from by classifier-free guidance of the
            first stage (None: no such guidance). Both have the same widths.
        guidance_scale: of classifier-free guidance, or what a guidance embedding is told.
        backend: attention back end of large stages.
        report: called after every step.
        is_stopped: polled before every step.
    """

    transformer: nn.Module
    scheduler: FlowMatchEulerDiscreteScheduler
    words: Words
    negative: Words | None
    guidance_scale: float
    backend: str
    report: Report
    is_stopped: Callable[[], bool]
    used_backend: str = "dense"

    def paint(self, noise: Tensor, stage: Stage, steps: int) -> Tensor:
        """The first stage: noise `[B, C, H / 8, W / 8]` fp32 -> latents of the same shape."""
        scheduler = self._schedule(steps, 1.0, noise.device)
        sequence = _Sequence(anchors(stage.grid).to(noise.device), dense_attention)
        return unpack(self._run(pack(noise), scheduler, sequence), stage.grid)

    def enlarge(self, low: Tensor, noise: Tensor, stage: Stage, steps: int, strength: float) -> Tensor:
        """A further stage: finished latents `low` and noise of the new size -> latents of the new size.

        It starts from the enlarged latents at noise level `strength`, guided by `low` itself.
        """
        scheduler = self._schedule(steps, strength, noise.device)
        level = float(scheduler.sigmas[0])
        enlarged = F.interpolate(low, size=noise.shape[-2:], mode="bicubic", align_corners=False)
        x = pack((1 - level) * enlarged + level * noise)
        order, inverse, sequence = self._guided(low, stage)
        x = self._run(x[:, order], scheduler, sequence, order, inverse)
        return unpack(x[:, inverse], stage.grid)

    def _schedule(self, steps: int, start: float, device: torch.device) -> Any:
        """Steps from noise level `start` on, with the scheduler's static shift as in the authors' code."""
        scheduler = type(self.scheduler).from_config(self.scheduler.config, use_dynamic_shifting=False)
        scheduler.set_timesteps(sigmas=torch.linspace(start, start / steps, steps).tolist(), device=device)
        scheduler.set_begin_index(0)
        return scheduler

    def _run(
        self,
        x: Tensor,
        scheduler: Any,
        sequence: _Sequence,
        order: Tensor | None = None,
        inverse: Tensor | None = None,
    ) -> Tensor:
        """All steps of a stage on packed tokens; watchers see them in raster order."""
        for index, timestep in enumerate(scheduler.timesteps):
            if self.is_stopped():
                break
            velocity = self._velocity(x, timestep, sequence)
            denoised = x - timestep / 1000 * velocity
            x = scheduler.step(velocity, timestep, x, return_dict=False)[0]
            shown = {"latents": x, "denoised": denoised, "prompt_embeds": self.words.text}
            if inverse is not None:
                shown.update(latents=x[:, inverse], denoised=denoised[:, inverse])
            answer = self.report(index, timestep, shown)
            if "latents" in answer:
                x = answer["latents"] if order is None else answer["latents"][:, order]
            if "prompt_embeds" in answer:
                self.words = self.words.with_text(answer["prompt_embeds"])
        return x

    def _velocity(self, x: Tensor, timestep: Tensor, sequence: _Sequence) -> Tensor:
        """Velocity `[B, N, C]` fp32; with classifier-free guidance when there is no encoded guide."""
        out = torch.empty_like(x)
        negative = self.negative if sequence.guide is None else None
        groups = self.words.groups()
        for width, rows in groups:
            text, pooled = self.words.text[rows, :width], self.words.pooled[rows]
            tokens = x[rows]
            if negative is not None:
                tokens = torch.cat([tokens, tokens])
                text = torch.cat([negative.text[rows, :width], text])
                pooled = torch.cat([negative.pooled[rows], pooled])
            guide = sequence.guide
            if guide is not None and len(groups) > 1:
                guide = [(key[rows], value[rows]) for key, value in guide]
            times = (timestep / 1000).to(text.dtype).expand(len(tokens))
            velocity = denoise(
                self.transformer,
                tokens.to(text.dtype),
                text,
                pooled,
                times,
                image_ids=sequence.ids,
                attend=sequence.attend(width),
                guide=guide,
                guidance=self._guidance(pooled),
            ).float()
            if negative is not None:
                plain, asked = velocity.chunk(2)
                velocity = plain + self.guidance_scale * (asked - plain)
            out[rows] = velocity
        return out

    def _guidance(self, pooled: Tensor) -> Tensor | None:
        if not self.transformer.config.guidance_embeds:
            return None
        return torch.full_like(pooled[:, 0], self.guidance_scale)

    def _guided(self, low: Tensor, stage: Stage) -> tuple[Tensor, Tensor, _Sequence]:
        """Order of the image tokens, its inverse, and the sequence with the encoded guide."""
        low_grid = (low.shape[-2] // 2, low.shape[-1] // 2)
        pooled, device = self.words.pooled, low.device
        tokens = pack(low).to(pooled.dtype)
        ids, guide_ids = anchors(stage.grid).to(device), anchors(low_grid, stage.grid).to(device)
        guidance = self._guidance(pooled)
        if stage.tokens <= DENSE_LIMIT:
            order = torch.arange(stage.tokens, device=device)
            cache = encode_guide(self.transformer, tokens, pooled, guide_ids, dense_attention(0), guidance)
            return order, order, _Sequence(ids, dense_attention, cache)
        layout = AttentionLayout(0, stage.grid, low_grid)
        alone = AttentionLayout(0, low_grid)  # the guide attends to itself alone, as a picture of its own
        own = alone.image_order.order.to(device)
        attend = dense_attention(0) if alone.image <= DENSE_LIMIT else local_attention(alone, self.backend)
        cache = encode_guide(self.transformer, tokens[:, own], pooled, guide_ids[own], attend, guidance)
        back = alone.image_order.inverse[layout.guide_order.order].to(device)
        cache = [(key[:, back], value[:, back]) for key, value in cache]
        self.used_backend = choose(layout, cache[0][0], self.backend).backend
        order, inverse = (part.to(device) for part in (layout.image_order.order, layout.image_order.inverse))

        def attend_with(width: int) -> Attend:
            return local_attention(replace(layout, text=width), self.backend)

        return order, inverse, _Sequence(ids[order], attend_with, cache)

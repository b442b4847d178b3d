"""The denoising loop of one clip, and of one clip after another; knows neither text nor pictures.

Works with any sampler of diffusers whose per-call input can be kept: its state is reset for every clip, which
multistep samplers need. Symbols and orders: `handover.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from pipelines.vidrd.handover import Handover, closing_frames, closing_selection
from pipelines.vidrd.noise import NoiseSource
from pipelines.vidrd.trajectory import (
    FRAMES,
    Guide,
    Recorder,
    Trajectory,
    clean_guide,
    head_guide,
    starting_latents,
)


class ClipDenoiser(Protocol):
    """A backbone: latents `[B, C, N, h, w]` and a condition of its own kind in, a prediction out.

    `temporal_ratio` says how many frames share one latent; the mirror order needs 1, since reversing latents
    reverses the frames inside one only then.
    """

    temporal_ratio: int

    def predict(self, x: torch.Tensor, timestep: torch.Tensor, condition: Any) -> torch.Tensor:
        """What the sampler's `step` expects, in the shape and dtype of `x`.

        Args:
            timestep: one number, or `[B, N]` where some frames are given clean.
        """


@dataclass
class Step:
    """What a watcher is told after a call; `latents` may be replaced.

    Attributes:
        clip, call, calls: which call of which clip, from 0.
        timestep: of the sampler.
        latents: after the call. denoised: the present estimate of the result.
    """

    clip: int
    call: int
    calls: int
    timestep: torch.Tensor
    latents: torch.Tensor
    denoised: torch.Tensor


class Stopped(Exception):
    """A watcher asked for an end; the clip is not finished."""


@dataclass
class ClipLatents:
    """A finished clip.

    Attributes:
        index: number of the clip, from 0.
        latents: `[B, C, N, h, w]`.
        trajectory: what the next clip needs. opening: what the last clip of a loop needs of the first one.
        handover: how the clip was entered; None for a film's first one.
        closes: it ends a loop.
    """

    index: int
    latents: torch.Tensor
    trajectory: Trajectory
    opening: Trajectory | None = None
    handover: Handover | None = None
    closes: bool = False

    def shown(self) -> tuple[int, int]:
        """First frame that is shown, and the one behind the last."""
        head = self.handover.dropped() if self.handover else 0
        last = self.latents.shape[FRAMES]
        if self.closes and self.handover:
            last -= self.handover.dropped()
        return head, last


@dataclass(frozen=True)
class ClipPlan:
    """One clip to film.

    Attributes:
        index: its number, from 0; decides its noise.
        handover: how it is entered; not used without a clip before.
        next_handover: how the next one will be; decides what is kept.
        condition_at: call -> what the denoiser reads (prompts may change on the way).
        opens_loop, closes_loop: first and last clip of a loop.
    """

    index: int
    handover: Handover
    next_handover: Handover
    condition_at: Callable[[int], Any]
    opens_loop: bool = False
    closes_loop: bool = False


@dataclass
class ClipLoop:
    """Films clips one by one with one backbone and sampler.

    Attributes:
        num_steps: asked of the sampler; some make more calls.
        noise: unit normal noise of the film.
        report: called after every call; raise `Stopped` in it to end.
        as_published: the released code's slice at M = N (`starting_latents`).
    """

    denoiser: ClipDenoiser
    scheduler: Any
    num_steps: int
    noise: NoiseSource
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    report: Callable[[Step], None] | None = None
    as_published: bool = False

    def prepare(self) -> int:
        """Reset the sampler; returns the number of denoiser calls per clip."""
        self.scheduler.set_timesteps(self.num_steps, device=self.device)
        return len(self.scheduler.timesteps)

    def film(
        self,
        plan: ClipPlan,
        previous: Trajectory | None = None,
        ending: tuple[Guide, torch.Tensor] | None = None,
    ) -> ClipLatents:
        """Film one clip.

        Args:
            previous: of the clip before, or made up from pictures; None for a first clip.
            ending: guide of the last frames, and their starting latents `[B, C, M, h, w]`.
        """
        calls = self.prepare()
        guides: list[Guide] = []
        if previous is None:
            x = self._scaled(self.noise.initial() if plan.index == 0 else self.noise.fresh(plan.index))
        else:
            fresh = self._scaled(self.noise.fresh(plan.index))
            x = starting_latents(previous, plan.handover, fresh, self.as_published)
            guides.append(head_guide(previous, plan.handover, calls))
        num_frames = x.shape[FRAMES]
        if ending is not None:
            guides.insert(0, ending[0])  # where both reach, the clip before wins
            size = min(ending[1].shape[FRAMES], num_frames - (plan.handover.overlap if previous else 0))
            x[:, :, num_frames - size :] = ending[1][:, :, ending[1].shape[FRAMES] - size :]
        keep = Recorder(plan.next_handover.selection(num_frames, calls))
        recorders = [keep]
        if plan.opens_loop:
            recorders.append(Recorder(closing_selection(plan.next_handover, num_frames, calls)))
        latents = self._denoise(plan, x, guides, recorders)
        assert keep.trajectory is not None
        opening = recorders[1].trajectory if plan.opens_loop else None
        for trajectory in (keep.trajectory, opening):
            if trajectory is not None:
                trajectory.finished = latents
        entered = plan.handover if previous is not None else None
        return ClipLatents(plan.index, latents, keep.trajectory, opening, entered, plan.closes_loop)

    def _scaled(self, noise: torch.Tensor) -> torch.Tensor:
        """Unit noise at the level of the sampler's first call."""
        return noise.to(self.device, torch.float32) * getattr(self.scheduler, "init_noise_sigma", 1.0)

    def _denoise(
        self, plan: ClipPlan, x: torch.Tensor, guides: Sequence[Guide], recorders: Sequence[Recorder]
    ) -> torch.Tensor:
        timesteps, standing = self.scheduler.timesteps, [guide for guide in guides if guide.clean]
        scale = getattr(self.scheduler, "scale_model_input", lambda sample, _: sample)
        for call, timestep in enumerate(timesteps):
            for guide in guides:
                if not guide.clean:
                    guide.apply(call, x)
            for recorder in recorders:
                recorder.record(call, x)
            given, times = scale(x, timestep), timestep
            if standing:
                given, times = given.clone(), timestep.expand(len(x), x.shape[FRAMES]).clone()
            for guide in standing:
                guide.apply(call, given)
                guide.mark(times)
            prediction = self.denoiser.predict(given, times, plan.condition_at(call))
            before, out = x, self.scheduler.step(prediction, timestep, x)
            x = out.prev_sample
            if call + 1 == len(timesteps):
                for guide in standing:
                    guide.apply(call, x)
            if self.report is not None:
                clean = estimate(self.scheduler, out, prediction, before, call)
                step = Step(plan.index, call, len(timesteps), timestep, x, clean)
                self.report(step)
                x = step.latents
        return x


def ending_from(opening: Trajectory, handover: Handover) -> tuple[Guide, torch.Tensor]:
    """Guide and starting latents of the last frames of a loop, from its first clip."""
    frames = torch.tensor(closing_frames(handover), dtype=torch.long, device=opening.start.device)
    start = opening.start.index_select(FRAMES, frames)
    if handover.clean:
        return clean_guide(opening, closing_frames(handover), at_end=True), start
    return Guide(opening.steps, at_end=True), start


def estimate(scheduler: Any, out: Any, prediction: torch.Tensor, x: torch.Tensor, call: int) -> torch.Tensor:
    """The present estimate of the clean latents, for previews; the latents themselves where none is known."""
    clean = getattr(out, "pred_original_sample", None)
    if clean is not None:
        return clean
    if hasattr(scheduler, "scale_noise"):  # flow matching: x = clean + s (noise - clean)
        return x - scheduler.sigmas[call].to(x) * prediction
    return out.prev_sample

"""What is kept of a clip's way from noise to picture, and how it guides another clip.

Tensors are `[B, C, N, h, w]`, frames on axis 2. Symbols and orders: `handover.py`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.vidrd.handover import Handover
from pipelines.vidrd.noise import noise_shares

FRAMES = 2  # the axis of frames


@dataclass
class Trajectory:
    """What later clips need of a clip's way from noise to picture; the rest of the way is forgotten.

    Attributes:
        start: latents at the first call, `[B, C, N, h, w]`, in the clip's own frame order.
        steps: for each guided call the chosen frames, `[B, C, m, h, w]`, in the order of the selection.
        finished: the clip itself, `[B, C, N, h, w]`, which clean hand-overs go on from.
    """

    start: torch.Tensor
    steps: list[torch.Tensor] = field(default_factory=list)
    finished: torch.Tensor | None = None

    def elements(self) -> int:
        """Numbers kept beside the clip itself."""
        return sum(tensor.numel() for tensor in (self.start, *self.steps))


class Recorder:
    """Fills a `Trajectory` while a clip is denoised.

    Args:
        selection: frames to keep at each call, from the first call on.
    """

    def __init__(self, selection: Sequence[Sequence[int]]) -> None:
        self.selection = selection
        self.trajectory: Trajectory | None = None

    def record(self, call: int, x: torch.Tensor) -> None:
        if call == 0:
            self.trajectory = Trajectory(x.clone())
        if call < len(self.selection):
            assert self.trajectory is not None
            self.trajectory.steps.append(_pick(x, self.selection[call]))


@dataclass(frozen=True)
class Guide:
    """Latents that the first (or last) frames of a clip are set to before its first calls.

    Attributes:
        steps: for each guided call `[B, C, m, h, w]`.
        at_end: they belong to the last m frames instead of the first.
        clean: there is one step, finished frames that hold in all calls.
    """

    steps: Sequence[torch.Tensor]
    at_end: bool = False
    clean: bool = False

    def apply(self, call: int, x: torch.Tensor) -> None:
        """Overwrite frames of `x` in place."""
        call = 0 if self.clean else call
        if call < len(self.steps):
            value = self.steps[call]
            x[:, :, self._frames(x.shape[FRAMES], value.shape[FRAMES])] = value

    def mark(self, times: torch.Tensor) -> None:
        """Set the times `[B, F]` of clean frames to 0 in place."""
        times[:, self._frames(times.shape[1], self.steps[0].shape[FRAMES])] = 0

    def _frames(self, num_frames: int, count: int) -> slice:
        return slice(num_frames - count, num_frames) if self.at_end else slice(0, count)


def head_guide(previous: Trajectory, handover: Handover, calls: int) -> Guide:
    """Guidance of a clip's first frames by the clip before.

    Raises:
        ValueError: the trajectory was kept for a hand-over with less guidance.
    """
    if handover.clean:
        return clean_guide(previous, handover.sources(previous.start.shape[FRAMES])[: handover.overlap])
    wanted = handover.guided_frames(calls)
    kept = [step.shape[FRAMES] for step in previous.steps]
    if len(kept) < len(wanted) or any(have < want for have, want in zip(kept, wanted, strict=False)):
        raise ValueError(
            f"the clip before was kept for less guidance than overlap_frames={handover.overlap}, "
            f"denoise_guidance={handover.guidance} need; choose smaller values or film it again"
        )
    steps = zip(previous.steps, wanted, strict=False)
    return Guide([step.narrow(FRAMES, 0, count) for step, count in steps])


def clean_guide(trajectory: Trajectory, frames: Iterable[int], at_end: bool = False) -> Guide:
    """Frames of a finished clip, held in all calls."""
    assert trajectory.finished is not None
    return Guide([_pick(trajectory.finished, frames)], at_end, clean=True)


def starting_latents(
    previous: Trajectory, handover: Handover, fresh: torch.Tensor, as_published: bool = False
) -> torch.Tensor:
    """Latents of a new clip at its first call: old noise for the first M frames, a mixture for the others.

    Args:
        fresh: noise of the new clip, in the scale of the sampler's first call.
        as_published: with M = N mix all frames (the released code's slice wraps around) instead of none.
    Returns:
        For a clean hand-over all of the new noise: the old one holds where things were.
    """
    if handover.clean:
        return fresh
    old = _pick(previous.start, handover.sources(previous.start.shape[FRAMES]))
    keep, new = noise_shares(handover.recycle)
    overlap = 0 if as_published and handover.overlap == old.shape[FRAMES] else handover.overlap
    x = old.clone()
    x[:, :, overlap:] = keep * old[:, :, overlap:] + new * fresh[:, :, overlap:]
    return x


def made_up_trajectory(
    scheduler: Any, latents: torch.Tensor, noise: torch.Tensor, selection: Sequence[Sequence[int]]
) -> Trajectory:
    """A way from noise to given pictures, for starts from a picture or video and for clips filmed again.

    The latents are mixed with one fixed noise per frame at each of the sampler's levels. `scheduler` has its
    timesteps set.
    """

    def at(call: int) -> torch.Tensor:
        times = scheduler.timesteps[call : call + 1].to(latents.device).expand(len(latents))
        mix = scheduler.scale_noise if hasattr(scheduler, "scale_noise") else None
        return scheduler.add_noise(latents, noise, times) if mix is None else mix(latents, times, noise)

    steps = [_pick(at(call), frames) for call, frames in enumerate(selection)]
    return Trajectory(at(0), steps)


def _pick(x: torch.Tensor, frames: Iterable[int]) -> torch.Tensor:
    return x.index_select(FRAMES, torch.tensor(list(frames), dtype=torch.long, device=x.device))

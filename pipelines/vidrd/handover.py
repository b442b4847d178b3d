"""How a clip goes on from the one before: which frames meet, what noise is kept, how long they are guided.

Symbols: N frames per clip, M of them meet the clip before, T denoiser calls, i = 0 ... T - 1 from the
noisiest; x_i is the latent that the denoiser is given at call i. Tensors are `[B, C, N, h, w]`; frames are on
axis 2.

Two orders:
* "mirror" (the paper's): frame f of the new clip starts from frame N - 1 - f of the old one. All frames are
  shown; the first M retrace the old ones backwards in time before the clip departs.
* "chronological": frame f starts from frame N - M + f. The first M frames are the old clip's last M once more
  and are left out, so motion goes on forward.

Source: arXiv 2309.03549 (VidRD): frame-level noise reversion, past-dependent noise sampling, denoising with
staged guidance. The chronological order is this project's.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from pipelines.vidrd.noise import noise_shares

FRAMES = 2  # the axis of frames


@dataclass(frozen=True)
class Handover:
    """How a clip continues the one before.

    Attributes:
        overlap: M, frames that meet the clip before; 0 to N (N - 1 in chronological order).
        recycle: alpha >= 0 of `noise_shares`: how much of the old noise the other frames keep. 0: none.
        guidance: beta in [0, 1]: share of the calls in which the first frame is set to the old trajectory;
            later frames are let go earlier.
        order: "chronological" or "mirror".
    """

    overlap: int = 4
    recycle: float = 4.0
    guidance: float = 0.4
    order: str = "chronological"

    def __post_init__(self) -> None:
        if self.order not in ("chronological", "mirror"):
            raise ValueError(f"order is {self.order!r}; it must be 'chronological' or 'mirror'")
        if self.overlap < 0:
            raise ValueError(f"overlap_frames is {self.overlap}; it must be at least 0")
        if not self.recycle >= 0:
            raise ValueError(f"noise_recycle is {self.recycle}; it must be at least 0")
        if not 0 <= self.guidance <= 1:
            raise ValueError(f"denoise_guidance is {self.guidance}; it must lie in [0, 1]")

    def check(self, num_frames: int) -> None:
        """Raise ValueError when clips of `num_frames` can't meet in this way."""
        most = num_frames if self.order == "mirror" else num_frames - 1
        if self.overlap > most:
            raise ValueError(
                f"overlap_frames is {self.overlap}; {self.order} clips of {num_frames} allow 0 to {most}"
            )

    def sources(self, num_frames: int) -> list[int]:
        """For each frame of the new clip the frame of the old one whose noise it starts from."""
        if self.order == "mirror":
            return list(range(num_frames - 1, -1, -1))
        return [(frame - self.overlap) % num_frames for frame in range(num_frames)]

    def dropped(self) -> int:
        """Frames at the head of the new clip that repeat shown ones."""
        return self.overlap if self.order == "chronological" else 0

    def guided_frames(self, calls: int) -> list[int]:
        """For each call the number of guided frames; they are the first ones, frame 0 longest."""
        steps = guided_steps(calls, self.overlap, self.guidance)
        counts = [sum(step > call for step in steps) for call in range(calls)]
        return [count for count in counts if count]

    def selection(self, num_frames: int, calls: int) -> list[list[int]]:
        """Frames of the old clip that guidance needs, for each guided call."""
        sources = self.sources(num_frames)
        return [sources[:count] for count in self.guided_frames(calls)]


def guided_steps(calls: int, overlap: int, guidance: float) -> list[int]:
    """Number of guided calls of each of the first `overlap` frames: those with i < (M - f) (T / M) beta."""
    return [
        min(calls, math.ceil((overlap - frame) * (calls / overlap) * guidance)) for frame in range(overlap)
    ]


@dataclass
class Trajectory:
    """What later clips need of a clip's way from noise to picture; the rest of the way is forgotten.

    Attributes:
        start: latents at the first call, `[B, C, N, h, w]`, in the clip's own frame order.
        steps: for each guided call the chosen frames, `[B, C, m, h, w]`, in the order of the selection.
    """

    start: torch.Tensor
    steps: list[torch.Tensor] = field(default_factory=list)

    def elements(self) -> int:
        """Numbers kept."""
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
    """

    steps: Sequence[torch.Tensor]
    at_end: bool = False

    def apply(self, call: int, x: torch.Tensor) -> None:
        """Overwrite frames of `x` in place."""
        if call < len(self.steps):
            value = self.steps[call]
            first = x.shape[FRAMES] - value.shape[FRAMES] if self.at_end else 0
            x.narrow(FRAMES, first, value.shape[FRAMES]).copy_(value)


def head_guide(previous: Trajectory, handover: Handover, calls: int) -> Guide:
    """Staged guidance of a clip's first frames by the clip before.

    Raises:
        ValueError: the trajectory was kept for a hand-over with less guidance.
    """
    wanted = handover.guided_frames(calls)
    kept = [step.shape[FRAMES] for step in previous.steps]
    if len(kept) < len(wanted) or any(have < want for have, want in zip(kept, wanted, strict=False)):
        raise ValueError(
            f"the clip before was kept for less guidance than overlap_frames={handover.overlap}, "
            f"denoise_guidance={handover.guidance} need; choose smaller values or film it again"
        )
    steps = zip(previous.steps, wanted, strict=False)
    return Guide([step.narrow(FRAMES, 0, count) for step, count in steps])


def starting_latents(
    previous: Trajectory, handover: Handover, fresh: torch.Tensor, as_published: bool = False
) -> torch.Tensor:
    """Latents of a new clip at its first call: old noise for the first M frames, a mixture for the others.

    Args:
        fresh: noise of the new clip, in the scale of the sampler's first call.
        as_published: with M = N mix all frames (the released code's slice wraps around) instead of none.
    """
    old = _pick(previous.start, handover.sources(previous.start.shape[FRAMES]))
    keep, new = noise_shares(handover.recycle)
    overlap = 0 if as_published and handover.overlap == old.shape[FRAMES] else handover.overlap
    x = old.clone()
    x[:, :, overlap:] = keep * old[:, :, overlap:] + new * fresh[:, :, overlap:]
    return x


def closing_selection(handover: Handover, num_frames: int, calls: int) -> list[list[int]]:
    """Frames of the first clip that the end of a loop is guided towards, for each guided call.

    The very last frame is guided longest. In mirror order it meets frame 0 again; in chronological order the
    last M frames are the first M once more.
    """
    counts = handover.guided_frames(calls)
    if handover.order == "mirror":
        return [list(range(count - 1, -1, -1)) for count in counts]
    return [list(range(handover.overlap - count, handover.overlap)) for count in counts]


def closing_frames(handover: Handover) -> list[int]:
    """Frames of the first clip whose starting noise the last M frames of a loop take, in their order."""
    frames = list(range(handover.overlap))
    return frames[::-1] if handover.order == "mirror" else frames


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

"""How a clip goes on from the one before: which frames meet, what noise is kept, how long they are guided.

Symbols: N frames per clip, M of them meet the clip before, T denoiser calls, i = 0 ... T - 1 from the
noisiest; x_i is the latent that the denoiser is given at call i. Nothing here needs
tensors; what is done with them: `trajectory.py`.

Two orders:
* "mirror" (the paper's): frame f of the new clip starts from frame N - 1 - f of the old one. All frames are
  shown; the first M retrace the old ones backwards in time before the clip departs.
* "chronological": frame f starts from frame N - M + f. The first M frames are the old clip's last M once more
  and are left out, so motion goes on forward.

Two ways to meet: staged guidance, in which frames are set to the old trajectory before each call and let go
one by one; or clean, in which they are the old frames themselves in every call, told apart by times of their
own (Diffusion Forcing, arXiv 2407.01392). Weights have to know the second (`VidRDUNet3DModel.knows_context`);
then a network sees where its motion has come to, which noisy frames hardly show while that is decided.

Source: arXiv 2309.03549 (VidRD): frame-level noise reversion, past-dependent noise sampling, denoising with
staged guidance. The chronological order is this project's.
"""

import math
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Handover:
    """How a clip continues the one before.

    Attributes:
        overlap: M, frames that meet the clip before; 0 to N (N - 1 in chronological order).
        recycle: alpha >= 0 of `noise_shares`: how much of the old noise the other frames keep. 0: none.
        guidance: beta in [0, 1]: share of the calls in which the first frame is set to the old trajectory;
            later frames are let go earlier.
        order: "chronological" or "mirror".
        clean: the frames that meet are the old ones themselves; `recycle` and `guidance` play no part then.
            None: where the weights know that, and the order is chronological.
    """

    overlap: int = 4
    recycle: float = 4.0
    guidance: float = 0.4
    order: str = "chronological"
    clean: bool | None = None

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

    def settled(self, knows_context: bool) -> "Handover":
        """With `clean` decided.

        Args:
            knows_context: whether the weights have learned to go on from clean frames.
        Raises:
            ValueError: clean frames are asked of weights that don't know them.
        """
        if self.clean and not knows_context:
            raise ValueError("clean is True; these weights have not learned to go on from clean frames")
        if self.clean is not None:
            return self
        return replace(self, clean=knows_context and self.order == "chronological")

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
        if self.clean:
            return [self.overlap] * calls
        steps = guided_steps(calls, self.overlap, self.guidance)
        counts = [sum(step > call for step in steps) for call in range(calls)]
        return [count for count in counts if count]

    def selection(self, num_frames: int, calls: int) -> list[list[int]]:
        """Frames of the old clip's way that guidance needs, for each guided call; clean ones need none."""
        if self.clean:
            return []
        sources = self.sources(num_frames)
        return [sources[:count] for count in self.guided_frames(calls)]


def guided_steps(calls: int, overlap: int, guidance: float) -> list[int]:
    """Number of guided calls of each of the first `overlap` frames: those with i < (M - f) (T / M) beta."""
    return [
        min(calls, math.ceil((overlap - frame) * (calls / overlap) * guidance)) for frame in range(overlap)
    ]


def closing_selection(handover: Handover, num_frames: int, calls: int) -> list[list[int]]:
    """Frames of the first clip that the end of a loop is guided towards, for each guided call.

    The very last frame is guided longest. In mirror order it meets frame 0 again; in chronological order the
    last M frames are the first M once more.
    """
    if handover.clean:
        return []
    counts = handover.guided_frames(calls)
    if handover.order == "mirror":
        return [list(range(count - 1, -1, -1)) for count in counts]
    return [list(range(handover.overlap - count, handover.overlap)) for count in counts]


def closing_frames(handover: Handover) -> list[int]:
    """Frames of the first clip whose starting noise the last M frames of a loop take, in their order."""
    frames = list(range(handover.overlap))
    return frames[::-1] if handover.order == "mirror" else frames

"""What a film is made of, checked once: clips, prompts over time, how each clip goes on from the last."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from pipelines.vidrd.handover import Handover

MAX_CLIP_FRAMES = 128
MAX_CLIPS = 10_000
# where the prompt changes, the new text must be able to act: at most this much of the old clip is kept
CHANGE_RECYCLE = 1.0
CHANGE_GUIDANCE = 0.2


@dataclass(frozen=True)
class ClipSettings:
    """What is different in one clip; None means as in the film.

    Attributes:
        prompt: holds on for the following clips.
        overlap_frames, noise_recycle, denoise_guidance: of this clip's hand-over (`Handover`); the last two
            ask for staged guidance.
        guidance_scale: how much the text counts in this clip.
        seed: noise of this clip alone.
    """

    prompt: str | None = None
    overlap_frames: int | None = None
    noise_recycle: float | None = None
    denoise_guidance: float | None = None
    guidance_scale: float | None = None
    seed: int | None = None


@dataclass(frozen=True)
class ClipOrder:
    """One clip, settled: its texts (one per video), hand-over, guidance and seed (None: the film's)."""

    prompts: tuple[str, ...]
    handover: Handover
    guidance_scale: float
    seed: int | None
    is_change: bool


@dataclass(frozen=True)
class FilmPlan:
    """A film (or a batch of films with the same schedule).

    Attributes:
        prompts: one per video. negative_prompts: likewise.
        seeds: one per video; each clip draws from its own generator.
        num_clips: 1 to 10,000. num_frames: of a clip, 1 to 128.
        height, width: pixels.
        num_inference_steps: of each clip. guidance_scale: 1 or less switches guidance off.
        handover: between clips. settings: changes by clip number, from 0.
        prompt_fade: share of a clip's calls in which a changed prompt fades in.
        is_loop: the end leads back to the beginning.
    """

    prompts: tuple[str, ...]
    negative_prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    height: int
    width: int
    num_clips: int = 1
    num_frames: int = 8
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    handover: Handover = field(default_factory=Handover)
    settings: Mapping[int, ClipSettings] = field(default_factory=dict)
    prompt_fade: float = 0.2
    is_loop: bool = False

    def __post_init__(self) -> None:
        _check_count("num_clips", self.num_clips, MAX_CLIPS)
        _check_count(
            "num_frames", self.num_frames, MAX_CLIP_FRAMES, " (of one clip; long films have more clips)"
        )
        _check_count("num_inference_steps", self.num_inference_steps, 1000)
        if not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be finite")
        if not 0 <= self.prompt_fade <= 1:
            raise ValueError(f"prompt_fade is {self.prompt_fade}; it must lie in [0, 1]")
        if not len(self.prompts) == len(self.negative_prompts) == len(self.seeds) >= 1:
            raise ValueError(
                f"{len(self.prompts)} prompts, {len(self.negative_prompts)} negative prompts and "
                f"{len(self.seeds)} seeds were given; they must be as many, and at least 1"
            )
        late = sorted(number for number in self.settings if not 0 <= number < self.num_clips)
        if late:
            raise ValueError(
                f"the schedule names clip {late[0]}; a film of {self.num_clips} clips has 0 to "
                f"{self.num_clips - 1}"
            )
        self.handover.check(self.num_frames)
        clips = self.clips()
        for clip in clips:
            clip.handover.check(self.num_frames)
        if self.is_loop:
            self._check_loop(clips)

    def _check_loop(self, clips: Sequence[ClipOrder]) -> None:
        if self.num_clips < 2:
            raise ValueError("a loop needs at least 2 clips")
        ends = clips[-1].handover.overlap + self.handover.overlap
        room = self.num_frames - (self.handover.order == "chronological")  # something must be left to show
        if ends > room:
            raise ValueError(
                f"the last clip of a loop meets two clips: its overlaps have {ends} frames together, at most "
                f"{room} are allowed"
            )

    def clips(self) -> list[ClipOrder]:
        """Every clip with what holds in it."""
        settled, prompts = [], self.prompts
        for number in range(self.num_clips):
            own = self.settings.get(number, ClipSettings())
            before = prompts
            if own.prompt is not None:
                prompts = (own.prompt,) * len(self.prompts)
            is_change = number > 0 and prompts != before
            handover = self.handover
            if is_change:
                handover = replace(
                    handover,
                    recycle=min(handover.recycle, CHANGE_RECYCLE),
                    guidance=min(handover.guidance, CHANGE_GUIDANCE),
                )
            given: dict[str, Any] = {
                "overlap": own.overlap_frames,
                "recycle": own.noise_recycle,
                "guidance": own.denoise_guidance,
            }
            asked = {k: v for k, v in given.items() if v is not None}
            if asked.keys() - {"overlap"}:
                asked["clean"] = False  # staged guidance is meant
            handover = replace(handover, **asked)
            scale = self.guidance_scale if own.guidance_scale is None else own.guidance_scale
            settled.append(ClipOrder(prompts, handover, scale, own.seed, is_change))
        return settled

    @property
    def total_frames(self) -> int:
        """Frames that are shown, all clips together (without a start)."""
        clips = self.clips()
        total = self.num_frames * self.num_clips - sum(clip.handover.dropped() for clip in clips[1:])
        return total - (self.handover.dropped() if self.is_loop else 0)


def read_settings(schedule: Mapping[int, "ClipSettings | str"] | None) -> dict[int, ClipSettings]:
    """A schedule in which a plain text stands for a change of the prompt.

    Raises:
        ValueError: a number or an entry of another kind.
    """
    settings = {}
    for number, entry in (schedule or {}).items():
        if not isinstance(number, int) or isinstance(number, bool):
            raise ValueError(f"the schedule names clip {number!r}; clips are numbered from 0")
        if isinstance(entry, str):
            entry = ClipSettings(prompt=entry)
        if not isinstance(entry, ClipSettings):
            raise ValueError(f"clip {number} is given {entry!r:.60}; it must be a text or ClipSettings")
        settings[number] = entry
    return settings


def _check_count(name: str, value: int, most: int, what: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise ValueError(f"{name} is {value!r}; it must be a whole number from 1 to {most:,}{what}")

"""Asking for videos."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from studio.checks import (
    MAX_SEED,
    MAX_STEPS,
    check_integer,
    check_name,
    check_number,
    check_side,
    clean_prompt,
    shown,
)
from studio.errors import StudioError
from studio.jobs.identifiers import is_identifier
from studio.requests.base import DEFAULT_MODEL, Kind, Request, split_source

MAX_CLIPS = 200
MAX_FRAMES = 64
MAX_FPS = 120
MAX_VIDEO_SIDE = 1024
ORDERS = ("chronological", "mirror")
SMOOTH = (1, 2, 4)


@dataclass(frozen=True)
class VideoRequest(Request):
    """A video of one clip or more, each going on where the one before ended. Clips are numbered from 1.

    Args:
        prompt: Of the first clip, and of all that follow until it changes; 1 to 20,000 characters.
        prompts_at: Pairs (clip, text): the prompt from that clip on, for clips from 2.
        clips: 1 to 200.
        frames: Of each clip, 2 to 64.
        fps: Frames per second when played, above 0, at most 120; it never changes their number.
        seed: 0 to 4294967295.
        width, height: Pixels, multiples of 16 from 64 to 1024. Default: None, the model's own.
        steps: Of each clip, 1 to 200. Default: None, the model's own.
        order: How clips continue: "chronological", or "mirror" (the end of one, reversed, begins the next).
        overlap: Frames a clip shares with the one before, below `frames`. Default: None, 4 or half of them
            (a quarter in loops).
        is_loop: Whether the end leads back to the beginning.
        smooth: 2 or 4 puts frames in between; 1 does not.
        start: "picture:ID" or "upload:ID" of a picture to begin with. Default: None.
        clip_seeds: Pairs (clip, seed) of clips that were filmed again.
        redo: (job, clip): film this one clip of a finished video again, the others stay. Default: None.
        model: A name the registry knows. Default: "storybook".
    Raises:
        StudioError: kind "bad_input" or "too_long", naming the field, what was given and what is allowed.
    """

    kind: ClassVar[Kind] = "video"

    prompt: str
    prompts_at: tuple[tuple[int, str], ...] = ()
    clips: int = 4
    frames: int = 8
    fps: float = 8.0
    seed: int = 0
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    order: str = ORDERS[0]
    overlap: int | None = None
    is_loop: bool = False
    smooth: int = 1
    start: str | None = None
    clip_seeds: tuple[tuple[int, int], ...] = ()
    redo: tuple[str, int] | None = None
    model: str = DEFAULT_MODEL

    def __post_init__(self) -> None:
        object.__setattr__(self, "prompt", clean_prompt(self.prompt))
        check_integer("clips", self.clips, 1, MAX_CLIPS)
        check_integer("frames", self.frames, 2, MAX_FRAMES)
        check_number("fps", self.fps, 0.1, MAX_FPS)
        check_integer("seed", self.seed, 0, MAX_SEED)
        self._check_size()
        if self.steps is not None:
            check_integer("steps", self.steps, 1, MAX_STEPS)
        for name, value, allowed in (("order", self.order, ORDERS), ("smooth", self.smooth, SMOOTH)):
            if type(value) not in (int, str) or value not in allowed:
                listing = ", ".join(map(str, allowed))
                raise StudioError("bad_input", f"{name}: given {shown(value)}, allowed {listing}.")
        if self.overlap is not None:
            check_integer("overlap", self.overlap, 0, self.frames - 1)
        if type(self.is_loop) is not bool:
            raise StudioError("bad_input", f"is_loop: given {shown(self.is_loop)}, allowed true or false.")
        if self.start is not None:
            split_source(self.start)
        self._check_schedules()
        check_name("model", self.model)

    def _check_size(self) -> None:
        if (self.width is None) != (self.height is None):
            raise StudioError("bad_input", "size: given one side, allowed both or none.")
        if self.width is not None:
            check_side("width", self.width, MAX_VIDEO_SIDE)
            check_side("height", self.height, MAX_VIDEO_SIDE)

    def _check_schedules(self) -> None:
        prompts = _pairs("prompts_at", self.prompts_at, 2, self.clips)
        object.__setattr__(self, "prompts_at", tuple((clip, clean_prompt(text)) for clip, text in prompts))
        seeds = _pairs("clip_seeds", self.clip_seeds, 1, self.clips)
        for _, seed in seeds:
            check_integer("clip_seeds", seed, 0, MAX_SEED)
        object.__setattr__(self, "clip_seeds", tuple(seeds))
        if self.redo is not None:
            fits = isinstance(self.redo, list | tuple) and len(self.redo) == 2 and is_identifier(self.redo[0])
            if not fits:
                raise StudioError("bad_input", f"redo: given {shown(self.redo)}, allowed a job and a clip.")
            check_integer("redo", self.redo[1], 1, self.clips)
            object.__setattr__(self, "redo", (self.redo[0], self.redo[1]))

    @property
    def shared_frames(self) -> int:
        """Frames a clip shares with the one before."""
        if self.overlap is not None:
            return self.overlap
        # the last clip of a loop meets two others, and something of it must be left to show
        return min(4, max(1, self.frames // 4) if self.is_loop else self.frames // 2)

    @property
    def title(self) -> str:
        """The prompt."""
        return self.prompt

    @property
    def amount(self) -> int:
        """Pixels of all frames that are computed; the model's own size counts as 256 x 256."""
        clips = 1 if self.redo else self.clips
        return (self.width or 256) * (self.height or 256) * self.frames * clips


def _pairs(name: str, pairs: object, first: int, last: int) -> list[tuple[int, object]]:
    """Pairs of a clip's number and something else; each clip at most once."""
    if not isinstance(pairs, Iterable) or isinstance(pairs, str | bytes):
        raise StudioError("bad_input", f"{name}: given {shown(pairs)}, allowed pairs of clip and value.")
    found: dict[int, object] = {}
    for pair in pairs:
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise StudioError("bad_input", f"{name}: given {shown(pair)}, allowed pairs of clip and value.")
        if type(pair[0]) is not int or not first <= pair[0] <= last:
            allowed = f"clips {first} to {last}" if first <= last else "none for a single clip"
            raise StudioError("bad_input", f"{name}: given clip {shown(pair[0])}, allowed {allowed}.")
        if pair[0] in found:
            raise StudioError("bad_input", f"{name}: given clip {pair[0]} twice, allowed once.")
        found[pair[0]] = pair[1]
    return sorted(found.items())

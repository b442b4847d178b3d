"""Videos as the studio sees them: what is asked of whoever films."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from studio.painter import ProgressReport
from studio.requests import VideoRequest


@dataclass(frozen=True)
class FilmCost:
    """What a video will take: seconds, bytes of memory, and how many frames it will show."""

    seconds: float
    memory_bytes: int
    frames: int


@dataclass(frozen=True)
class VideoFacts:
    """A written video.

    Args:
        frames, fps, width, height: What it shows.
        poster: Its most telling frame.
    """

    frames: int
    fps: float
    width: int
    height: int
    poster: Image.Image


@dataclass(frozen=True)
class Film:
    """A finished video.

    Args:
        clips: Frames clip by clip; each round may read them anew from the store, one clip at a time, and may
            raise ValueError or `PaintingStopped` then.
        seconds: Per phase; what reading the clips costs is added by it.
        warnings: Sentences the person should read.
    """

    clips: Iterable[Sequence[Image.Image]]
    fps: float
    width: int
    height: int
    seconds: dict[str, float]
    dtype: str
    device: str
    warnings: tuple[str, ...]
    peak_bytes: int

    def frames(self) -> Iterator[Image.Image]:
        """All frames, one after another."""
        for clip in self.clips:
            yield from clip

    def all_seconds(self, load: float, save: float) -> dict[str, float]:
        """Per phase; `save` is the time of writing, in which frames in between may have been made too."""
        return {**self.seconds, "save": max(0.0, save - self.seconds.get("smooth", 0.0)), "load": load}


@dataclass(frozen=True)
class Shoot:
    """One run.

    Args:
        request: What to film.
        start: Pictures to begin with, none for a video from text alone.
        store: Folder that keeps finished clips, so that an interrupted run goes on behind them.
        redo: Number of the one clip to film again; 0 for all.
    """

    request: VideoRequest
    start: tuple[Image.Image, ...] = ()
    store: Path | None = None
    redo: int = 0


class Filmer(Protocol):
    """What films. The real one is `studio.doors.filming.PipelineFilmer`.

    Values it refuses give ValueError with one sentence; a stop gives `PaintingStopped`.
    """

    def load(self, folder: Path) -> Any:
        """An opaque handle of the model in `folder`. Raises ValueError or OSError when it can't be read."""

    def problem(self, request: VideoRequest) -> str:
        """Why this can't be filmed, in one sentence, or ""; quick, loads nothing."""

    def forecast(self, folder: Path, request: VideoRequest, start: Sequence[Image.Image]) -> FilmCost:
        """Time and memory, without loading anything."""

    def film(
        self,
        model: Any,
        shoot: Shoot,
        on_progress: Callable[[ProgressReport], None] | None,
        on_clip: Callable[[int, Sequence[Image.Image]], None],
        should_stop: Callable[[], bool],
    ) -> Film:
        """Film; `on_clip` hears number (from 1) and frames of each clip as soon as it is done."""

    def write(
        self, frames: Iterable[Image.Image], path: Path, fps: float, recipe: dict[str, Any]
    ) -> VideoFacts:
        """Write .mp4, .webp, .gif, or without ending a folder of PNG; whole or not at all.

        Frames are taken one by one, and .mp4 and folders let each go before the next.

        Raises:
            ValueError: a format or rate that is not allowed. OSError: the place can't be written.
        """

    def read_start(self, path: Path, frames: int) -> tuple[Image.Image, ...]:
        """A picture to begin with, or the last frames of a video to continue."""

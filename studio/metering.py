"""How long a prompt is for a model's text encoders, and how visible the seams of a picture are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class SentenceLength:
    """One sentence of a prompt.

    Args:
        text: In the model's own words.
        tokens: Rows of what the model is told that it takes.
        lost: Its end, as far as nobody reads it, or "".
    """

    text: str
    tokens: int
    lost: str = ""


@dataclass(frozen=True)
class Gauge:
    """A prompt as one text encoder takes it.

    Args:
        encoder: "T5" or "CLIP".
        limit: Tokens it reads at once, its start and end marks included.
        tokens: Rows that words and marks take, without those that are dropped.
        sentences: In order.
        whole: Tokens of the text in one piece, marks included.
        reading: "whole", "blocks" of several sentences one after the other, or "sentences" one by one.
        dropped: Tokens that it does not read.
        lost: Their words, or the beginning of them.
        is_summary: Whether it only gives one vector for the whole text, so that a cut loses no detail.
    """

    encoder: str
    limit: int
    tokens: int
    sentences: tuple[SentenceLength, ...]
    whole: int
    reading: str = "whole"
    dropped: int = 0
    lost: str = ""
    is_summary: bool = False


@dataclass(frozen=True)
class Seams:
    """How a picture differs along the borders of its tiles from how it is beside them.

    Args:
        ratio: 1 where borders look like the rest; 1.2 is barely visible.
        worst: The same of the worst border alone.
        column, row: Where that one lies, in pixels; one of them is None, both without any border.
    """

    ratio: float
    worst: float
    column: int | None = None
    row: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, numbers to three places."""
        return {**asdict(self), "ratio": round(self.ratio, 3), "worst": round(self.worst, 3)}


class Meters(Protocol):
    """What measures. The real one is `studio.doors.metering.PipelineMeters`; nothing in it needs a model."""

    def gauges(self, folder: Path, prompt: str) -> Sequence[Gauge]:
        """A prompt as each text encoder of the model in `folder` takes it, the one that decides first.

        Empty when the folder has no tokenizer that can be read.
        """

    def has_borders(self, width: int, height: int) -> bool:
        """Whether a picture of that size is put together from tiles."""

    def seams(self, picture: Image.Image) -> Seams:
        """What the seam meter says about a finished picture."""

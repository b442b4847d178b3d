"""Pictures as ordered tokens, as the studio sees them: strips, what is made of them, who does the work."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from studio.checks import shown
from studio.errors import StudioError
from studio.painter import ProgressReport

if TYPE_CHECKING:
    from PIL import Image

MAX_TOKENS = 256
# 64 tiles of 256 tokens of two bytes, with room for the header
MAX_STRIP_BYTES = 40_000


@dataclass(frozen=True)
class Strip:
    """A picture as tokens.

    Args:
        data: Content of an .fxtk file.
        tiles: Ids of each tile; one tile for a whole picture.
        width, height: Pixels of the picture they stand for.
        codes: How many different ids there are.
        model: What made them.
    """

    data: bytes
    tiles: tuple[tuple[int, ...], ...]
    width: int
    height: int
    codes: int
    model: str

    @property
    def count(self) -> int:
        """Tokens per tile."""
        return len(self.tiles[0])

    @property
    def payload_bytes(self) -> int:
        """Two bytes per token."""
        return 2 * self.count * len(self.tiles)

    def to_json(self) -> dict[str, Any]:
        """What a page shows of it, plain JSON values."""
        return {
            "tokens": list(self.tiles[0]),
            "tiles": len(self.tiles),
            "count": self.count,
            "codes": self.codes,
            "width": self.width,
            "height": self.height,
            "model": self.model,
            "bytes": self.payload_bytes,
            "bits_per_pixel": round(8 * self.payload_bytes / (self.width * self.height), 4),
        }


@dataclass(frozen=True)
class Point:
    """What so many tokens keep of a picture: PSNR in dB and mean absolute error, 0 to 1."""

    count: int
    psnr: float
    error: float


@dataclass(frozen=True)
class Decoded:
    """A picture from tokens, and what it took."""

    image: Image.Image
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    device: str
    dtype: str


@dataclass(frozen=True)
class Generated(Decoded):
    """A picture from text, with its tokens."""

    strip: Strip


@dataclass(frozen=True)
class DecodeOptions:
    """How tokens become pictures: seed of the noise, steps (None: the model's own)."""

    seed: int = 0
    steps: int | None = None


@dataclass(frozen=True)
class GenerateOptions:
    """How tokens are drawn from text; `prefix` are ids to go on from."""

    keep: int | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 0.0
    steps: int | None = None
    prefix: tuple[int, ...] = ()


OnProgress = Callable[[ProgressReport], None] | None
ShouldStop = Callable[[], bool]


class Tokenizer(Protocol):
    """What turns pictures into tokens and back. The real one is `studio.doors.tokenizing.PipelineTokenizer`.

    Values it refuses give ValueError with one sentence; a stop gives `PaintingStopped`.
    """

    def load(self, folder: Path) -> Any:
        """An opaque handle of the model in `folder`. Raises ValueError or OSError when it can't be read."""

    def tokens_drawn(self, folder: Path) -> int:
        """Tokens a model draws from text unless asked for another number; 0: none. Loads nothing."""

    def read(self, data: bytes) -> Strip:
        """What an .fxtk file holds."""

    def kept(self, data: bytes, keep: int) -> bytes:
        """An .fxtk file of the first `keep` tokens."""

    def splice(self, first: bytes, second: bytes, places: Sequence[int]) -> bytes:
        """An .fxtk file of the first picture with the tokens at `places` (from 0) taken from the second."""

    def encode(
        self,
        model: Any,
        picture: Image.Image,
        keep: int | None,
        fit: str,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Strip:
        """A picture of any size as tokens; `fit` is "letterbox", "crop" or "tiles"."""

    def decode(
        self,
        model: Any,
        data: bytes,
        keep: int | None,
        options: DecodeOptions,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Decoded:
        """The picture of the first `keep` tokens, at the size of the picture they were made from."""

    def stops(
        self,
        model: Any,
        data: bytes,
        stops: Sequence[int] | None,
        options: DecodeOptions,
        should_stop: ShouldStop,
    ) -> Iterator[tuple[int, Image.Image]]:
        """Pictures of growing prefixes (1, 2, 4, ... without `stops`), as the model makes them."""

    def framed(self, model: Any, picture: Image.Image, fit: str) -> Image.Image:
        """The picture as the model sees it: in its square, or at its own size where it is tiled."""

    def measure(self, count: int, decoded: Image.Image, reference: Image.Image) -> Point:
        """What a decoded prefix keeps of a framed picture."""

    def generate(
        self,
        model: Any,
        prompt: str,
        options: GenerateOptions,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Generated:
        """Tokens from text, and the picture they show."""


def pack(data: bytes) -> str:
    """A strip's file as text, for requests."""
    return base64.b64encode(data).decode()


def unpack(text: object) -> bytes:
    """The bytes that `pack` was given.

    Raises:
        StudioError: "bad_input": not such text, or too long for a strip.
    """
    if not isinstance(text, str) or not 0 < len(text) <= 4 * MAX_STRIP_BYTES // 3 + 4:
        raise StudioError("bad_input", f"strip: given {shown(text)}, allowed a token file in base 64.")
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error as error:
        raise StudioError("bad_input", "strip: it can't be unpacked as base 64.") from error

"""A film's frames, read clip by clip whenever somebody asks: memory stays that of one clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Frames = tuple["Image.Image", ...]


class FilmClips:
    """Shown frames of a film, clip by clip; each round reads (and fills in) them anew.

    Args:
        read: gives the frames of a clip, counted from 0.
        lengths: frames of each clip.
        fill: puts frames between the frames of a stream; None for none. They go to the clip before them.
        factor: frames that each frame becomes; only the last has none behind it.
    """

    def __init__(
        self,
        read: Callable[[int], Frames],
        lengths: Sequence[int],
        fill: Callable[[Iterator[Image.Image]], Iterator[Image.Image]] | None = None,
        factor: int = 1,
    ) -> None:
        self._read, self._lengths, self._fill, self._factor = read, tuple(lengths), fill, factor

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[Frames]:
        if self._fill is None:
            yield from map(self._read, range(len(self)))
            return
        filled = self._fill(self._given())
        for length in self._lengths:
            yield tuple(islice(filled, length * self._factor))

    def _given(self) -> Iterator[Image.Image]:
        for number in range(len(self)):
            yield from self._read(number)

    def frames(self) -> Iterator[Image.Image]:
        """All frames, one after another."""
        for clip in self:
            yield from clip

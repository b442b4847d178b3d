"""A meter for seams: how a picture differs along the borders of its tiles from how it is beside them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipelines.scale_dit.tiles import OVERLAP, TILE, tile_starts

if TYPE_CHECKING:
    from PIL import Image

REACH = 192  # pixels to each side of a border that it is compared with
EVERY = 2  # lines across a border that are looked at: every second one
SEGMENT = 32  # of these lines make a piece, which is judged alone
FLOOR = 0.5 / 255  # differences that nobody sees count as none
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Seams:
    """What the meter says.

    Attributes:
        ratio: 1 where borders look like the rest of the picture; 1.2 is barely visible.
        worst: the same of the worst border alone.
        column, row: where that one lies in pixels; one of them is None, both without any border.
    """

    ratio: float
    worst: float
    column: int | None = None
    row: int | None = None


class SeamMeter:
    """Looks for seams of tiled decoding (`decode_tiled`) in finished pictures, which are judged together.

    Three things betray the zone in which two tiles are blended: a step at one of its ends, a shift of tone
    from one side to the other, and detail that is weaker or stronger than beside it. Each is the mean
    difference there over that on both sides (their geometric mean), per piece of 64 px, with differences of
    half a grey level counted as none. The logarithms of the middle half of the pieces are averaged, so that
    what a picture shows at a border by chance cancels out; the largest of the three is the ratio. Drawn
    pictures of 4096 px, which have no seam, read about 1.02.
    """

    def __init__(self) -> None:
        self._borders: list[tuple[str, int, Tensor]] = []

    def add(self, picture: "Image.Image | Tensor") -> None:
        """Take in a picture: PIL, or `[3, H, W]` in [0, 1]."""
        luma = _luma(picture)
        for name, across in (("column", luma), ("row", luma.T.contiguous())):
            starts = tile_starts(across.shape[1] // 8)
            for before, start in zip(starts, starts[1:], strict=False):
                zone = (start * 8, (before + TILE) * 8)
                self._borders.append((name, start * 8, _differences(across[::EVERY], zone)))

    @classmethod
    def together(cls, meters: "Iterable[SeamMeter]") -> "SeamMeter":
        """One that has seen the pictures of all these; a meter given twice counts twice."""
        found = cls()
        found._borders = [border for meter in meters for border in meter._borders]
        return found

    @property
    def ratio(self) -> float:
        """`result().ratio`, without a look at single borders."""
        return _verdict(torch.cat([logs for _, _, logs in self._borders])) if self._borders else 1.0

    def result(self) -> Seams:
        """The verdict so far; ratio 1 when all pictures are single tiles."""
        if not self._borders:
            return Seams(1.0, 1.0)
        single = [_verdict(logs) for _, _, logs in self._borders]
        worst = max(range(len(single)), key=lambda index: single[index])
        name, at, _ = self._borders[worst]
        return Seams(self.ratio, single[worst], **{name: at})


def measure_seams(picture: "Image.Image | Tensor") -> Seams:
    """The verdict of `SeamMeter` on one picture."""
    meter = SeamMeter()
    meter.add(picture)
    return meter.result()


def _luma(picture: "Image.Image | Tensor") -> Tensor:
    if not isinstance(picture, Tensor):
        picture = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1) / 255
    red, green, blue = picture.float().cpu()
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def _differences(luma: Tensor, zone: tuple[int, int]) -> Tensor:
    """Log ratios `[pieces, 3]` of step, shift and detail at a zone of columns."""
    left, right = max(zone[0] - REACH, 0), min(zone[1] + REACH, luma.shape[1])
    band = luma[:, left:right]
    first, last = zone[0] - left, zone[1] - left
    fine = band.diff(dim=1).abs()  # entry i: between columns i and i + 1
    before, inside, after = fine[:, : first - 1], fine[:, first - 1 : last], fine[:, last:]
    steps = fine[:, [first - 1, last - 1]]
    width = OVERLAP * 8
    sums = F.pad(band.cumsum(1), (1, 0))
    means = (sums[:, width:] - sums[:, :-width]) / width  # entry i: of columns i ... i + width - 1
    coarse = (means[:, 2 * width :] - means[:, : -2 * width]).abs()  # of two pieces with one between them
    centre = first - width  # of the pieces just before and just after the zone
    shifts = (coarse[:, : max(centre - width, 1)], coarse[:, [centre]], coarse[:, centre + width :])
    return torch.stack(
        [
            _log_ratio(before, steps, after),
            _log_ratio(*shifts),
            _log_ratio(before, inside, after),
        ],
        1,
    )


def _log_ratio(before: Tensor, here: Tensor, after: Tensor) -> Tensor:
    """Per piece of rows: log of mean `here` over the geometric mean of both sides."""
    pieces = max(1, here.shape[0] // SEGMENT)
    logs = []
    for part in (before, here, after):
        rows = part[: pieces * SEGMENT] if part.shape[0] >= SEGMENT else part
        logs.append(torch.log(rows.reshape(pieces, -1).mean(1) + FLOOR))
    return logs[1] - (logs[0] + logs[2]) / 2


def _verdict(logs: Tensor) -> float:
    """One number of `[pieces, 3]` log ratios, from the middle half of the pieces.

    Weaker steps and shifts than around are no seam.
    """
    quarter = len(logs) // 4
    step, shift, detail = logs.sort(0).values[quarter : len(logs) - quarter].mean(0).tolist()
    return math.exp(max(step, shift, abs(detail), 0.0))

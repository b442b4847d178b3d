"""Anti-aliased vector canvas for any crop of a drawing, and marks that show when one looks closer.

Everything is given in scene units (see `scene.py`); a canvas knows which pixels of the full drawing it holds.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import aggdraw
import numpy as np
from numpy.typing import NDArray
from PIL import Image

Points = NDArray[np.float64]  # [N, 2]
RGB = tuple[int, int, int]


def mix_rgb(first: RGB, second: RGB, share: float) -> RGB:
    """Blend two 8-bit colours; `share` in [0, 1] is the part of the second."""
    return tuple(round(a + (b - a) * share) for a, b in zip(first, second, strict=True))  # type: ignore[return-value]


def ramp(value: float, low: float, high: float) -> float:
    """0 below `low`, 1 above `high`, linear between."""
    return min(max((value - low) / (high - low), 0.0), 1.0)


def hashed(columns: NDArray, rows: NDArray, seed: int, count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1) that depend only on cell and seed: `[count, N]`.

    The same cell gives the same numbers whatever crop is drawn, which is what makes crops agree.
    """
    keys = columns.astype(np.uint32) * np.uint32(374761393) + rows.astype(np.uint32) * np.uint32(668265263)
    out = np.empty((count, len(columns)))
    for index in range(count):
        value = keys ^ np.uint32((seed * 2246822519 + index * 3266489917) & 0xFFFFFFFF)
        for shift, factor in ((15, 2246822519), (13, 3266489917)):
            value = (value ^ (value >> np.uint32(shift))) * np.uint32(factor)
        out[index] = (value ^ (value >> np.uint32(16))) / 2.0**32
    return out


def ellipse(x: float, y: float, rx: float, ry: float, rotation: float = 0.0, count: int = 40) -> Points:
    angle = np.linspace(0.0, 2 * math.pi, count, endpoint=False)
    px, py = rx * np.cos(angle), ry * np.sin(angle)
    cos, sin = math.cos(rotation), math.sin(rotation)
    return np.stack([x + px * cos - py * sin, y + px * sin + py * cos], axis=1)


def smooth(points: list[tuple[float, float]], per_span: int = 8, closed: bool = True) -> Points:
    """Catmull-Rom curve through `points`."""
    p = np.asarray(points, dtype=float)
    if closed:
        before, after, last = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    else:
        before = np.concatenate([p[:1], p[:-2]])
        after, last = p[1:], np.concatenate([p[2:], p[-1:]])
        p = p[:-1]
    t = np.linspace(0, 1, per_span, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (part[:, None, :] for part in (before, p, after, last))
    curve = 0.5 * (
        2 * p1 + (p2 - p0) * t + (2 * p0 - 5 * p1 + 4 * p2 - p3) * t**2 + (3 * p1 - p0 - 3 * p2 + p3) * t**3
    )
    curve = curve.reshape(-1, 2)
    return curve if closed else np.concatenate([curve, np.asarray(points[-1:], dtype=float)])


def inside(points: Points, polygon: Points) -> NDArray[np.bool_]:
    """Even-odd test of `[M, 2]` points against a polygon `[N, 2]`."""
    x, y = points[:, 0:1], points[:, 1:2]
    ax, ay = polygon[:, 0], polygon[:, 1]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    crosses = (ay > y) != (by > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = (bx - ax) * (y - ay) / (by - ay) + ax
    return (np.sum(crosses & (x < at), axis=1) % 2).astype(bool)


def clip_band(polygon: Points, normal: tuple[float, float], low: float, high: float) -> Points:
    """The part of a polygon with `low <= p . normal <= high` (Sutherland-Hodgman on two half planes)."""
    axis = np.asarray(normal)
    for sign, limit in ((1.0, low), (-1.0, -high)):
        if len(polygon) == 0:
            break
        distance = sign * (polygon @ axis) - limit
        following = np.roll(polygon, -1, 0)
        next_distance = np.roll(distance, -1)
        kept: list[Points] = []
        for point, d, after, e in zip(polygon, distance, following, next_distance, strict=True):
            if d >= 0:
                kept.append(point)
            if (d >= 0) != (e >= 0):
                kept.append(point + (after - point) * (d / (d - e)))
        polygon = np.asarray(kept) if kept else np.empty((0, 2))
    return polygon


@dataclass(frozen=True)
class Marks:
    """How the small marks of a drawing (grass, grain, fur) come out; the default is how they ought to.

    Attributes:
        shift: added to their seeds: another number puts them elsewhere.
        share: of them that is drawn. strength: of their colour, 0 to 1.
    """

    shift: int = 0
    share: float = 1.0
    strength: float = 1.0


class Canvas:
    """Pixels of one crop.

    Args:
        pixels: `[h, w, 3]` uint8 background, taken over.
        scale: pixels of the full drawing per scene unit.
        left, top: pixel of the full drawing at the crop's corner.
        marks: how `scatter` draws.
    """

    def __init__(
        self,
        pixels: NDArray[np.uint8],
        scale: float,
        left: float = 0.0,
        top: float = 0.0,
        marks: Marks = Marks(),  # noqa: B008  (frozen)
    ) -> None:
        self.height, self.width = pixels.shape[:2]
        self.scale, self.left, self.top, self.marks = scale, left, top, marks
        self._image = Image.fromarray(pixels)
        self._draw = aggdraw.Draw(self._image)

    def view(self) -> tuple[float, float, float, float]:
        """(left, top, right, bottom) of the crop in scene units."""
        s = self.scale
        return self.left / s, self.top / s, (self.left + self.width) / s, (self.top + self.height) / s

    def _place(self, points: Points, margin: float = 1.0) -> list[float] | None:
        placed = points * self.scale - (self.left, self.top)
        low, high = placed.min(0), placed.max(0)
        if (
            high[0] < -margin
            or high[1] < -margin
            or low[0] > self.width + margin
            or low[1] > self.height + margin
        ):
            return None
        return placed.ravel().tolist()

    def polygon(self, points: Points, colour: RGB, alpha: float = 1.0) -> None:
        if len(points) > 2 and (placed := self._place(points)):
            self._draw.polygon(placed, None, aggdraw.Brush(colour, round(255 * alpha)))

    def line(
        self, points: Points, colour: RGB, width: float, alpha: float = 1.0, closed: bool = False
    ) -> None:
        """A stroke of `width` scene units; below 0.7 px it fades instead of getting thinner."""
        pixels = width * self.scale
        alpha *= min(1.0, pixels / 0.7)
        pixels = max(pixels, 0.7)
        placed = self._place(points, pixels)
        if placed and alpha > 0.02:
            pen = aggdraw.Pen(colour, pixels, round(255 * alpha))
            if closed:
                self._draw.polygon(placed, pen)
            else:
                self._draw.line(placed, pen)

    def scatter(
        self,
        box: tuple[float, float, float, float],
        cell: float,
        seed: int,
        mark: Callable[[float, float, NDArray[np.float64], float], None],
        *,
        polygon: Points | None = None,
        appear: tuple[float, float] = (5.0, 11.0),
    ) -> None:
        """Call `mark(x, y, numbers, alpha)` for each visible cell of a jittered grid.

        Args:
            box: region in scene units; cells outside it or outside the crop are left out.
            cell: cell side in scene units. Marks fade in while a cell grows through `appear` pixels.
            seed: chooses the numbers (four per cell, uniform in [0, 1)).
            polygon: marks only where the cell's point lies inside it.
        """
        alpha = ramp(cell * self.scale, *appear) * self.marks.strength
        view = self.view()
        left, top = max(box[0], view[0] - cell), max(box[1], view[1] - 2 * cell)
        right, bottom = min(box[2], view[2] + cell), min(box[3], view[3] + 2 * cell)
        if alpha <= 0 or left >= right or top >= bottom:
            return
        columns = np.arange(math.floor(left / cell), math.ceil(right / cell))
        rows = np.arange(math.floor(top / cell), math.ceil(bottom / cell))
        grid_y, grid_x = (part.ravel() for part in np.meshgrid(rows, columns, indexing="ij"))
        numbers = hashed(grid_x, grid_y, seed + self.marks.shift, 7)
        points = np.stack([(grid_x + numbers[4]) * cell, (grid_y + numbers[5]) * cell], axis=1)
        keep = (
            (points[:, 0] >= box[0])
            & (points[:, 0] <= box[2])
            & (points[:, 1] >= box[1])
            & (points[:, 1] <= box[3])
        )
        keep &= numbers[6] < self.marks.share
        if polygon is not None:
            keep &= inside(points, polygon)
        for (x, y), row in zip(points[keep], numbers.T[keep], strict=True):
            mark(x, y, row, alpha)

    def pixels(self) -> NDArray[np.uint8]:
        """`[h, w, 3]` uint8."""
        self._draw.flush()
        return np.asarray(self._image)

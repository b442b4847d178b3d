"""The sixteen kinds of the Storybook world, each a few shapes in local coordinates.

Local coordinates: x right, y down, the drawing within the half extents of `scene.EXTENTS` (about [-1, 1]).
"""

import math
from collections.abc import Callable
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipelines.storybook.canvas import RGB, Canvas, Points, clip_band, ellipse, inside, mix_rgb, smooth
from pipelines.storybook.scene import SceneObject
from pipelines.storybook.vocabulary import COLOUR_RGB

INK: RGB = (58, 46, 60)
BROWN: RGB = (134, 88, 54)
CREAM: RGB = (246, 232, 204)
LEAF: RGB = (92, 156, 70)
GLASS: RGB = (196, 224, 238)
BEAK: RGB = (242, 170, 56)


class Figure:
    """One object on a canvas: local coordinates, its colours, cel shading, pattern and texture."""

    def __init__(self, canvas: Canvas, item: SceneObject) -> None:
        self.canvas, self.item = canvas, item
        self.rng = Random(item.seed)
        self.colour = COLOUR_RGB[item.colour]
        dark = item.colour == "black"
        self.shade = mix_rgb(self.colour, (20, 14, 40), 0.28)
        self.light = mix_rgb(self.colour, (255, 255, 255), 0.22 if dark else 0.38)
        self.outline = (116, 110, 126) if dark else mix_rgb(mix_rgb(self.colour, INK, 0.72), INK, 0.3)
        self.mark = (236, 232, 226) if item.colour not in ("white", "yellow") else (104, 96, 122)
        tilt = self.rng.uniform(-0.06, 0.06)
        cos, sin = math.cos(tilt) * item.scale, math.sin(tilt) * item.scale
        flip = -1.0 if item.flip else 1.0
        self._matrix = np.array([[cos * flip, sin * flip], [-sin, cos]])
        self._pixels = item.scale * canvas.scale  # per local unit
        # local units shrink a little so that outline and tilt stay inside the extents
        self._matrix *= 0.94

    def to_scene(self, points: Points) -> Points:
        return points @ self._matrix + (self.item.x, self.item.y)

    def round(self, x: float, y: float, rx: float, ry: float, rotation: float = 0.0) -> Points:
        count = int(min(max(math.pi * math.sqrt(5.0 * max(rx, ry) * self._pixels), 8), 220))
        return ellipse(x, y, rx, ry, rotation, count)

    def curve(self, points: list[tuple[float, float]], closed: bool = True) -> Points:
        return smooth(points, int(min(max(math.sqrt(self._pixels) * 0.8, 3), 24)), closed)

    def fill(self, points: Points, colour: RGB, alpha: float = 1.0) -> None:
        self.canvas.polygon(self.to_scene(points), colour, alpha)

    def stroke(
        self, points: Points, colour: RGB, width: float, alpha: float = 1.0, closed: bool = False
    ) -> None:
        self.canvas.line(self.to_scene(points), colour, width * self.item.scale, alpha, closed)

    def part(self, points: Points, colour: RGB) -> None:
        """A plain part with an outline."""
        self.fill(points, colour)
        self.stroke(points, mix_rgb(colour, INK, 0.6), 0.035, closed=True)

    def body(self, points: Points, texture: str = "", pattern: bool = True) -> None:
        """The coloured part: shade, base, pattern, texture, outline."""
        self.fill(points, self.shade)
        centre = points.mean(0)
        lit = centre + (points - centre) * 0.87 + (-0.035, -0.05)
        self.fill(lit, self.colour)
        if pattern and self.item.pattern != "plain":
            self._pattern(points)
        if texture:
            self._texture(points, texture)
        self.stroke(points, self.outline, 0.045, closed=True)

    def _pattern(self, points: Points) -> None:
        low, high = points.min(0), points.max(0)
        if self.item.pattern == "striped":
            angle = self.rng.choice((0.0, 0.5, -0.5))
            normal = (math.cos(angle), math.sin(angle))
            reach = points @ np.asarray(normal)
            period = 0.36
            for k in range(math.floor(reach.min() / period), math.ceil(reach.max() / period)):
                band = clip_band(points, normal, (k + 0.28) * period, (k + 0.72) * period)
                self.fill(band, self.mark)
            return
        step, radius = 0.34, 0.085
        rows = np.arange(math.floor(low[1] / step), math.ceil(high[1] / step) + 1)
        for row in rows:
            for column in range(math.floor(low[0] / step) - 1, math.ceil(high[0] / step) + 1):
                spot = np.array([[(column + 0.5 * (row % 2) + 0.25) * step, (row + 0.25) * step]])
                rim = spot + radius * np.array([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]])
                if inside(rim, points).all():
                    self.fill(self.round(spot[0, 0], spot[0, 1], radius, radius), self.mark)

    def _texture(self, points: Points, style: str) -> None:
        """Marks that show the material; they appear from about 12 px per mark on."""
        cell, draw = _TEXTURES[style]
        scene_points = self.to_scene(points)
        low, high = scene_points.min(0), scene_points.max(0)
        size = cell * self.item.scale
        tones = (mix_rgb(self.shade, INK, 0.15), self.light)

        def mark(x: float, y: float, numbers: NDArray[np.float64], alpha: float) -> None:
            draw(self.canvas, x, y, size, numbers, tones, alpha)

        # marks keep clear of the rim so that none reaches over the outline
        core = scene_points.mean(0) + (scene_points - scene_points.mean(0)) * 0.86
        box = (low[0], low[1], high[0], high[1])
        for level in (1.0, 0.3):
            size = cell * self.item.scale * level
            self.canvas.scatter(box, size, self.item.seed + round(1 / level), mark, polygon=core)


Tones = tuple[RGB, RGB]
Mark = Callable[[Canvas, float, float, float, NDArray[np.float64], Tones, float], None]


def _fur(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    lean = (numbers[0] - 0.5) * 0.7 * size
    curve = np.array(
        [(x, y), (x + lean * 0.4, y + 0.4 * size), (x + lean, y + size * (0.6 + 0.5 * numbers[1]))]
    )
    canvas.line(curve, tones[int(numbers[2] < 0.45)], 0.09 * size, 0.6 * alpha)


def _brick(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    column, row = math.floor(x / size), math.floor(y / size)
    left, top = (column + 0.5 * (row % 2)) * size, row * size
    right, bottom = left + 0.92 * size, top + 0.82 * size
    face = np.array([(left, top), (right, top), (right, bottom), (left, bottom)])
    canvas.polygon(face, mix_rgb(tones[0], tones[1], 0.25 + 0.7 * numbers[0]), 0.45 * alpha)


def _grain(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    half = size * (0.5 + 0.6 * numbers[0])
    curve = np.array([(x - half, y), (x, y + (numbers[1] - 0.5) * 0.25 * size), (x + half, y)])
    canvas.line(curve, tones[int(numbers[2] < 0.4)], 0.07 * size, 0.6 * alpha)


def _scales(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    angle = np.linspace(-1.3, 1.3, 7)
    arc = np.stack([x + 0.5 * size * np.cos(angle), y + 0.5 * size * np.sin(angle)], axis=1)
    canvas.line(arc, tones[int(numbers[0] < 0.35)], 0.08 * size, 0.65 * alpha)


def _knit(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    x, y = (math.floor(x / size) + 0.5) * size, (math.floor(y / size) + 0.5) * size
    vee = np.array(
        [(x - 0.42 * size, y - 0.4 * size), (x, y + 0.35 * size), (x + 0.42 * size, y - 0.4 * size)]
    )
    canvas.line(vee, tones[int(numbers[0] < 0.3)], 0.13 * size, 0.6 * alpha)


def _speckle(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    radius = size * (0.06 + 0.13 * numbers[0])
    canvas.polygon(ellipse(x, y, radius, radius * 0.8, count=9), tones[int(numbers[1] < 0.55)], 0.6 * alpha)


def _leaves(
    canvas: Canvas, x: float, y: float, size: float, numbers: NDArray, tones: Tones, alpha: float
) -> None:
    leaf = ellipse(x, y, 0.5 * size, 0.24 * size, numbers[0] * math.pi, 10)
    canvas.polygon(leaf, mix_rgb(tones[0], tones[1], numbers[1]), 0.6 * alpha)


_TEXTURES: dict[str, tuple[float, Mark]] = {
    "fur": (0.12, _fur),
    "brick": (0.16, _brick),
    "grain": (0.14, _grain),
    "scales": (0.13, _scales),
    "knit": (0.09, _knit),
    "speckle": (0.1, _speckle),
    "leaves": (0.15, _leaves),
}


def draw_object(canvas: Canvas, item: SceneObject, ground: RGB) -> None:
    """Draw one object with a soft contact shadow in the colour of its ground."""
    left, top, right, bottom = item.box
    shadow = ellipse((left + right) / 2, bottom - 0.02 * item.scale, 0.42 * (right - left), 0.1 * item.scale)
    canvas.polygon(shadow, mix_rgb(ground, INK, 0.6), 0.4)
    figure = Figure(canvas, item)
    _KINDS[item.kind](figure)


def _poly(*points: tuple[float, float]) -> Points:
    return np.array(points, dtype=float)


def _apple(f: Figure) -> None:
    wide = f.rng.uniform(0.74, 0.82)
    f.body(f.curve([(0, -0.42), (0.4, -0.58), (wide, -0.2), (0.66, 0.5), (0.28, 0.9), (0, 0.8),
                    (-0.28, 0.9), (-0.66, 0.5), (-wide, -0.2), (-0.4, -0.58)]), "speckle")  # fmt: skip
    f.stroke(f.curve([(0, -0.4), (0.04, -0.66), (0.14, -0.88)], closed=False), BROWN, 0.09)
    f.part(f.curve([(0.1, -0.68), (0.34, -0.9), (0.62, -0.84), (0.4, -0.66)]), LEAF)
    f.fill(f.round(-0.4, -0.18, 0.1, 0.2, 0.4), f.light, 0.9)


def _ball(f: Figure) -> None:
    disc = f.round(0, 0, 0.86, 0.86)
    f.body(disc, "knit")
    if f.item.pattern == "plain":
        angle = f.rng.uniform(-0.5, 0.5)
        for bow in (-0.45, 0.45):
            ends = [(math.cos(angle + a) * 0.84, math.sin(angle + a) * 0.84) for a in (-1.2, 1.2)]
            middle = (bow * math.cos(angle), bow * math.sin(angle))
            if bow < 0:
                ends = [(-x, -y) for x, y in ends]
            f.stroke(f.curve([ends[0], middle, ends[1]], closed=False), f.outline, 0.06)
    f.fill(f.round(-0.34, -0.4, 0.16, 0.11, -0.6), f.light, 0.95)


def _bird(f: Figure) -> None:
    for x in (-0.05, 0.18):
        f.stroke(_poly((x, 0.4), (x, 0.76)), BEAK, 0.06)
    f.body(_poly((-0.55, 0.0), (-1.0, -0.28), (-0.9, 0.1), (-1.0, 0.28), (-0.5, 0.24)), pattern=False)
    f.body(
        f.curve([(-0.62, 0.08), (-0.2, -0.34), (0.3, -0.34), (0.58, 0.0), (0.36, 0.44), (-0.16, 0.5)]), "fur"
    )
    f.body(f.round(0.48, -0.38, 0.36, 0.34), "fur", pattern=False)
    f.part(_poly((0.78, -0.44), (1.0, -0.3), (0.76, -0.24)), BEAK)
    f.part(f.curve([(-0.34, 0.0), (0.1, -0.16), (0.24, 0.1), (-0.1, 0.28), (-0.52, 0.22)]), f.light)
    f.fill(f.round(0.58, -0.44, 0.085, 0.095), (252, 252, 252))
    f.fill(f.round(0.6, -0.43, 0.05, 0.06), INK)


def _boat(f: Figure) -> None:
    f.stroke(_poly((0.0, 0.4), (0.0, -0.92)), BROWN, 0.09)
    f.part(f.curve([(0.08, -0.86), (0.5, -0.4), (0.78, 0.22), (0.08, 0.24)]), f.light)
    f.part(f.curve([(-0.08, -0.66), (-0.36, -0.2), (-0.58, 0.22), (-0.08, 0.24)]), CREAM)
    f.body(f.curve([(-0.98, 0.36), (-0.4, 0.42), (0.4, 0.42), (0.98, 0.34), (0.68, 0.86), (0.2, 0.94),
                    (-0.4, 0.94), (-0.72, 0.82)]), "grain")  # fmt: skip


def _book(f: Figure) -> None:
    f.part(_poly((-0.78, -0.56), (0.86, -0.64), (0.88, 0.7), (-0.7, 0.78)), CREAM)
    for k in range(3):
        y = 0.56 + 0.07 * k
        f.stroke(_poly((-0.62, y + 0.03), (0.86, y - 0.06)), (190, 170, 140), 0.02)
    cover = _poly((-0.86, -0.62), (0.74, -0.74), (0.78, 0.5), (-0.8, 0.62))
    f.body(cover, "knit")
    f.stroke(_poly((-0.64, -0.63), (-0.58, 0.6)), f.outline, 0.06)
    f.part(_poly((-0.3, -0.4), (0.44, -0.46), (0.45, -0.12), (-0.28, -0.06)), CREAM)
    f.stroke(_poly((-0.14, -0.3), (0.3, -0.33)), INK, 0.035)
    f.stroke(_poly((-0.1, -0.2), (0.2, -0.22)), INK, 0.03)


def _car(f: Figure) -> None:
    cabin = f.curve(
        [(-0.62, -0.08), (-0.46, -0.52), (-0.2, -0.62), (0.24, -0.62), (0.46, -0.5), (0.66, -0.08)]
    )
    f.body(cabin, pattern=False)
    f.part(_poly((-0.46, -0.14), (-0.34, -0.48), (-0.04, -0.5), (-0.04, -0.14)), GLASS)
    f.part(_poly((0.08, -0.14), (0.08, -0.5), (0.32, -0.46), (0.48, -0.14)), GLASS)
    f.body(f.curve([(-1.06, 0.1), (-0.94, -0.12), (-0.4, -0.16), (0.5, -0.16), (0.94, -0.06), (1.06, 0.2),
                    (0.98, 0.4), (0.3, 0.42), (-0.5, 0.42), (-1.0, 0.38)]), "speckle")  # fmt: skip
    f.fill(f.round(0.94, 0.06, 0.08, 0.09), (255, 240, 170))
    for x in (-0.56, 0.56):
        f.part(f.round(x, 0.38, 0.26, 0.26), (64, 60, 68))
        f.part(f.round(x, 0.38, 0.11, 0.11), (206, 208, 212))


def _cat(f: Figure) -> None:
    side = 1
    f.stroke(
        f.curve([(0.36 * side, 0.84), (0.66, 0.7), (0.72, 0.32), (0.6, 0.1)], closed=False), f.outline, 0.24
    )
    f.stroke(
        f.curve([(0.36 * side, 0.84), (0.66, 0.7), (0.72, 0.32), (0.6, 0.1)], closed=False), f.colour, 0.16
    )
    f.body(
        f.curve(
            [(0, -0.16), (0.36, 0.1), (0.52, 0.62), (0.4, 0.96), (-0.4, 0.96), (-0.52, 0.62), (-0.36, 0.1)]
        ),
        "fur",
    )
    for x in (-1.0, 1.0):
        f.body(_poly((0.52 * x, -0.56), (0.5 * x, -0.99), (0.14 * x, -0.78)), pattern=False)
        f.fill(_poly((0.46 * x, -0.66), (0.45 * x, -0.88), (0.25 * x, -0.76)), (240, 170, 170))
    f.body(f.round(0, -0.4, 0.56, 0.46), "fur", pattern=False)
    for x in (-0.22, 0.22):
        f.fill(f.round(x, -0.44, 0.1, 0.12), (236, 242, 190))
        f.fill(f.round(x, -0.43, 0.045, 0.1), INK)
        for lean in (-0.06, 0.06):
            f.stroke(_poly((x * 1.0, -0.22), (x * 3.2, -0.26 + lean * 2)), f.outline, 0.018)
    f.fill(_poly((-0.07, -0.3), (0.07, -0.3), (0, -0.22)), (236, 130, 140))
    f.stroke(f.curve([(-0.12, -0.14), (0, -0.2), (0.12, -0.14)], closed=False), f.outline, 0.03)
    f.stroke(_poly((0, 0.5), (0, 0.92)), f.outline, 0.035)


def _chair(f: Figure) -> None:
    for x, top in ((-0.36, 0.1), (0.5, 0.1)):
        f.part(_poly((x - 0.06, top), (x + 0.06, top), (x + 0.06, 0.8), (x - 0.06, 0.8)), f.shade)
    f.body(_poly((-0.6, -0.96), (0.42, -0.96), (0.42, 0.04), (-0.6, 0.04)), "grain")
    f.part(_poly((-0.4, -0.7), (0.22, -0.7), (0.22, -0.24), (-0.4, -0.24)), f.light)
    f.body(_poly((-0.62, 0.0), (0.46, 0.0), (0.64, 0.24), (-0.5, 0.24)), "grain", pattern=False)
    for x in (-0.48, 0.56):
        f.part(_poly((x - 0.07, 0.22), (x + 0.07, 0.22), (x + 0.07, 0.98), (x - 0.07, 0.98)), f.colour)


def _cup(f: Figure) -> None:
    f.stroke(f.curve([(0.44, -0.34), (0.84, -0.3), (0.8, 0.14), (0.4, 0.3)], closed=False), f.outline, 0.2)
    f.stroke(f.curve([(0.44, -0.34), (0.84, -0.3), (0.8, 0.14), (0.4, 0.3)], closed=False), f.colour, 0.12)
    f.body(
        f.curve(
            [(-0.58, -0.5), (-0.54, 0.1), (-0.38, 0.54), (0, 0.62), (0.38, 0.54), (0.54, 0.1), (0.58, -0.5)]
        ),
        "speckle",
    )
    f.part(f.round(0, -0.5, 0.58, 0.17), f.light)
    f.fill(f.round(0, -0.48, 0.46, 0.11), (122, 76, 48))
    f.part(f.round(0, 0.66, 0.72, 0.12), f.light)


def _fish(f: Figure) -> None:
    f.body(f.curve([(-0.5, 0), (-0.98, -0.42), (-0.9, 0.0), (-0.98, 0.42)]), pattern=False)
    f.body(f.curve([(-0.2, -0.36), (0.14, -0.64), (0.42, -0.36)]), pattern=False)
    outline = [
        (-0.64, 0.0), (-0.2, -0.42), (0.4, -0.46), (0.86, -0.2), (1.02, 0.06), (0.84, 0.28), (0.36, 0.46),
        (-0.22, 0.4),
    ]  # fmt: skip
    f.body(f.curve(outline), "scales")
    f.part(f.curve([(0.1, 0.04), (-0.22, 0.06), (-0.3, 0.3), (0.04, 0.26)]), f.light)
    f.fill(f.round(0.64, -0.1, 0.13, 0.13), (252, 252, 252))
    f.fill(f.round(0.67, -0.09, 0.07, 0.08), INK)
    f.stroke(f.curve([(0.98, 0.1), (0.88, 0.16), (0.78, 0.14)], closed=False), f.outline, 0.035)


def _flower(f: Figure) -> None:
    f.stroke(f.curve([(0, -0.2), (0.05, 0.3), (-0.02, 0.96)], closed=False), (70, 120, 60), 0.13)
    f.part(f.curve([(0.02, 0.6), (0.3, 0.3), (0.62, 0.34), (0.4, 0.62)]), LEAF)
    f.part(f.curve([(0.0, 0.74), (-0.3, 0.46), (-0.6, 0.5), (-0.36, 0.76)]), LEAF)
    count = f.rng.choice((5, 6, 7))
    turn = f.rng.uniform(0, 1)
    for k in range(count):
        angle = 2 * math.pi * (k + turn) / count
        x, y = 0.37 * math.cos(angle), -0.36 + 0.37 * math.sin(angle)
        f.body(f.round(x, y, 0.29, 0.2, angle), "grain")
    f.part(f.round(0, -0.36, 0.22, 0.22), (250, 206, 70) if f.item.colour != "yellow" else (168, 104, 50))


def _house(f: Figure) -> None:
    f.part(_poly((0.36, -0.86), (0.58, -0.86), (0.58, -0.3), (0.36, -0.3)), (150, 120, 110))
    f.body(_poly((-0.68, -0.22), (0.68, -0.22), (0.68, 0.97), (-0.68, 0.97)), "brick")
    roof = mix_rgb(f.shade, (120, 60, 50), 0.35)
    f.part(_poly((-0.9, -0.16), (0, -0.97), (0.9, -0.16)), roof)
    for k in range(3):
        y = -0.3 - 0.2 * k
        f.stroke(_poly((-0.74 + 0.22 * k, y), (0.74 - 0.22 * k, y)), mix_rgb(roof, INK, 0.4), 0.025)
    f.part(_poly((-0.16, 0.38), (0.2, 0.38), (0.2, 0.97), (-0.16, 0.97)), BROWN)
    f.fill(f.round(0.13, 0.68, 0.035, 0.035), (246, 210, 90))
    for x in (-0.42, 0.46):
        pane = _poly((x - 0.15, 0.02), (x + 0.15, 0.02), (x + 0.15, 0.32), (x - 0.15, 0.32))
        f.part(pane, (255, 236, 160))
        f.stroke(_poly((x, 0.02), (x, 0.32)), INK, 0.025)
        f.stroke(_poly((x - 0.15, 0.17), (x + 0.15, 0.17)), INK, 0.025)


def _mushroom(f: Figure) -> None:
    f.part(
        f.curve(
            [(-0.24, 0.0), (0.24, 0.0), (0.26, 0.5), (0.34, 0.86), (0, 0.9), (-0.34, 0.86), (-0.26, 0.5)]
        ),
        CREAM,
    )
    f.part(f.round(0, 0.06, 0.6, 0.14), mix_rgb(CREAM, BROWN, 0.3))
    cap = [
        (-0.86, 0.06), (-0.74, -0.46), (-0.32, -0.82), (0.32, -0.82), (0.74, -0.46), (0.86, 0.06),
        (0.4, 0.14), (-0.4, 0.14),
    ]  # fmt: skip
    f.body(f.curve(cap), "speckle")
    f.fill(f.round(-0.36, -0.5, 0.16, 0.09, -0.6), f.light, 0.9)


def _star(f: Figure) -> None:
    turn = f.rng.uniform(-0.15, 0.15) - math.pi / 2
    tips = [(r * math.cos(turn + k * math.pi / 5), 0.04 + r * math.sin(turn + k * math.pi / 5))
            for k, r in ((k, 0.94 if k % 2 == 0 else 0.44) for k in range(10))]  # fmt: skip
    f.body(_poly(*tips), "speckle")
    for x in (-0.15, 0.15):
        f.fill(f.round(x, -0.06, 0.05, 0.08), f.outline)
    f.stroke(f.curve([(-0.14, 0.14), (0, 0.22), (0.14, 0.14)], closed=False), f.outline, 0.04)


def _tree(f: Figure) -> None:
    trunk = f.curve(
        [(-0.13, 0.1), (0.13, 0.1), (0.14, 0.6), (0.28, 1.0), (0, 0.96), (-0.28, 1.0), (-0.14, 0.6)]
    )
    f.part(trunk, BROWN)
    f.stroke(_poly((-0.03, 0.3), (-0.05, 0.9)), mix_rgb(BROWN, INK, 0.4), 0.025)
    f.stroke(_poly((0.05, 0.4), (0.08, 0.86)), mix_rgb(BROWN, INK, 0.4), 0.025)
    wide = f.rng.uniform(0.66, 0.78)
    crown = [
        (-0.3, 0.26), (-wide, 0.06), (-0.7, -0.4), (-0.42, -0.66), (-0.2, -0.98), (0.22, -0.98),
        (0.44, -0.64), (0.7, -0.38), (wide, 0.08), (0.3, 0.28),
    ]  # fmt: skip
    f.body(f.curve(crown), "leaves")


def _umbrella(f: Figure) -> None:
    f.stroke(_poly((0, -0.98), (0, 0.72)), BROWN, 0.08)
    f.stroke(f.curve([(0, 0.7), (0.08, 0.92), (0.26, 0.9), (0.3, 0.7)], closed=False), BROWN, 0.09)
    dome = [(-0.94, 0.0), (-0.8, -0.46), (-0.42, -0.8), (0.0, -0.9), (0.42, -0.8), (0.8, -0.46), (0.94, 0.0),
            (0.62, -0.12), (0.32, 0.02), (0.0, -0.12), (-0.32, 0.02), (-0.62, -0.12)]  # fmt: skip
    f.body(f.curve(dome), "knit")
    for x in (-0.32, 0.32):
        f.stroke(f.curve([(0, -0.88), (x * 1.5, -0.5), (x, 0.0)], closed=False), f.outline, 0.03)


_KINDS: dict[str, Callable[[Figure], None]] = {
    "apple": _apple, "ball": _ball, "bird": _bird, "boat": _boat, "book": _book, "car": _car, "cat": _cat,
    "chair": _chair, "cup": _cup, "fish": _fish, "flower": _flower, "house": _house, "mushroom": _mushroom,
    "star": _star, "tree": _tree, "umbrella": _umbrella,
}  # fmt: skip

"""The six places of the Storybook world: wide shapes, then marks that appear when one looks closer."""

import math
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipelines.storybook.canvas import RGB, Canvas, Points, ellipse, mix_rgb, smooth
from pipelines.storybook.scene import Scene

# sky top, sky bottom, ground top, ground bottom
_GRADIENTS: dict[str, tuple[RGB, RGB, RGB, RGB]] = {
    "meadow": ((126, 198, 240), (214, 238, 246), (176, 214, 104), (128, 184, 72)),
    "beach": ((120, 204, 236), (236, 244, 236), (240, 222, 170), (226, 198, 138)),
    "night sky": ((18, 22, 60), (56, 60, 122), (34, 46, 74), (20, 28, 52)),
    "snowy field": ((176, 202, 226), (228, 234, 242), (240, 244, 250), (206, 220, 238)),
    "desert": ((250, 200, 130), (254, 232, 184), (232, 170, 96), (204, 134, 70)),
    "room": ((232, 208, 190), (222, 192, 172), (182, 130, 88), (146, 98, 64)),
}


def background(scene: Scene, rows: NDArray[np.floating], width: int) -> NDArray[np.uint8]:
    """Gradients of sky and ground: `[len(rows), width, 3]` uint8; `rows` are heights in scene units."""
    colours = np.asarray(_GRADIENTS[scene.place], dtype=np.float64)
    horizon = scene.horizon * scene.height
    sky = np.clip(rows / horizon, 0, 1)[:, None]
    ground = np.clip((rows - horizon) / (scene.height - horizon), 0, 1)[:, None]
    column = np.where((rows < horizon)[:, None], colours[0] * (1 - sky) + colours[1] * sky,
                      colours[2] * (1 - ground) + colours[3] * ground)  # fmt: skip
    return np.repeat(np.round(column).astype(np.uint8)[:, None, :], width, axis=1)


def draw_place(canvas: Canvas, scene: Scene) -> None:
    """Everything behind the objects."""
    _DRAWERS[scene.place](canvas, scene, Random(scene.seed))


def _hill(scene: Scene, rng: Random, base: float, height: float, bumps: int) -> Points:
    top = [(scene.width * i / bumps, base - height * rng.uniform(0.2, 1.0)) for i in range(-1, bumps + 2)]
    curve = smooth(top, 8, closed=False)
    return np.concatenate([curve, [(scene.width * 1.3, scene.height), (-scene.width * 0.3, scene.height)]])


def _ground_box(scene: Scene) -> tuple[float, float, float, float]:
    return (0.0, scene.horizon * scene.height, scene.width, scene.height)


def _sky_box(scene: Scene) -> tuple[float, float, float, float]:
    return (0.0, 0.0, scene.width, scene.horizon * scene.height)


def _cloud(canvas: Canvas, x: float, y: float, size: float, colour: RGB, rng: Random) -> None:
    for _ in range(4):
        dx, dy, r = rng.uniform(-1, 1), rng.uniform(-0.2, 0.2), rng.uniform(0.35, 0.55)
        canvas.polygon(ellipse(x + dx * size * 0.8, y + dy * size, r * size, r * size * 0.72), colour, 0.9)


def _meadow(canvas: Canvas, scene: Scene, rng: Random) -> None:
    horizon = scene.horizon * scene.height
    sun_x = rng.uniform(0.1, 0.9) * scene.width
    canvas.polygon(ellipse(sun_x, horizon * rng.uniform(0.18, 0.4), 0.06, 0.06), (255, 236, 150))
    for _ in range(rng.randint(1, 2)):
        _cloud(
            canvas,
            rng.uniform(0.1, 0.9) * scene.width,
            horizon * rng.uniform(0.15, 0.6),
            0.09,
            (250, 252, 253),
            rng,
        )
    canvas.polygon(_hill(scene, rng, horizon + 0.01, 0.09, 3), (158, 202, 128))
    canvas.polygon(_hill(scene, rng, horizon + 0.03, 0.04, 4), (172, 212, 102))
    for cell, length in ((0.045, 0.03), (0.016, 0.014), (0.006, 0.006)):
        _grass(canvas, scene, cell, length)
    petals = ((248, 248, 240), (250, 226, 120), (236, 160, 190))

    def flower(x: float, y: float, numbers: NDArray, alpha: float) -> None:
        if numbers[0] < 0.3:
            for k in range(5):
                angle = k * 2 * math.pi / 5 + numbers[1]
                centre = (x + 0.004 * math.cos(angle), y + 0.004 * math.sin(angle))
                canvas.polygon(ellipse(*centre, 0.003, 0.003, count=9), petals[int(numbers[2] * 3)], alpha)
            canvas.polygon(ellipse(x, y, 0.0022, 0.0022, count=9), (240, 180, 60), alpha)

    left, top, right, bottom = _ground_box(scene)
    canvas.scatter((left, top + 0.05, right, bottom), 0.05, scene.seed + 7, flower, appear=(20.0, 40.0))


def _grass(canvas: Canvas, scene: Scene, cell: float, length: float) -> None:
    dark, light = (92, 150, 56), (202, 228, 124)

    def blade(x: float, y: float, numbers: NDArray, alpha: float) -> None:
        lean = (numbers[0] - 0.5) * 0.8 * length
        tip = y - length * (0.6 + 0.6 * numbers[1])
        half = 0.09 * length
        colour = mix_rgb(dark, light, numbers[2])
        canvas.polygon(np.array([(x - half, y), (x + lean, tip), (x + half, y)]), colour, 0.75 * alpha)

    left, top, right, bottom = _ground_box(scene)
    canvas.scatter((left, top + 0.03, right, bottom + length), cell, scene.seed + round(1 / cell), blade)


def _grains(canvas: Canvas, scene: Scene, dark: RGB, light: RGB, top: float) -> None:
    for cell in (0.02, 0.0065):

        def grain(x: float, y: float, numbers: NDArray, alpha: float, cell: float = cell) -> None:
            radius = cell * (0.08 + 0.1 * numbers[0])
            colour = mix_rgb(dark, light, numbers[1])
            canvas.polygon(ellipse(x, y, radius, radius * 0.8, count=8), colour, 0.8 * alpha)

        canvas.scatter((0.0, top, scene.width, scene.height), cell, scene.seed + round(1 / cell), grain)


def _ripples(
    canvas: Canvas, box: tuple[float, float, float, float], cell: float, colour: RGB, seed: int
) -> None:
    def ripple(x: float, y: float, numbers: NDArray, alpha: float) -> None:
        half = cell * (0.3 + 0.4 * numbers[0])
        bow = cell * 0.12 * (numbers[1] + 0.3)
        curve = np.array([(x - half, y), (x - half / 2, y - bow), (x + half / 2, y - bow), (x + half, y)])
        canvas.line(curve, colour, 0.05 * cell, 0.7 * alpha)

    canvas.scatter(box, cell, seed, ripple)


def _beach(canvas: Canvas, scene: Scene, rng: Random) -> None:
    horizon = scene.horizon * scene.height
    sea_top = horizon - 0.13
    canvas.polygon(ellipse(rng.uniform(0.1, 0.9) * scene.width, sea_top * 0.4, 0.055, 0.055), (255, 240, 170))
    _cloud(
        canvas,
        rng.uniform(0.1, 0.9) * scene.width,
        sea_top * rng.uniform(0.3, 0.7),
        0.08,
        (252, 252, 250),
        rng,
    )
    sea = np.array(
        [(-0.1, sea_top), (scene.width + 0.1, sea_top), (scene.width + 0.1, horizon), (-0.1, horizon)]
    )
    canvas.polygon(sea, (56, 150, 196))
    canvas.polygon(_hill(scene, rng, horizon + 0.005, 0.02, 4), (236, 246, 242))
    canvas.polygon(_hill(scene, rng, horizon + 0.022, 0.016, 5), (240, 222, 170))
    for cell in (0.06, 0.02):
        _ripples(
            canvas, (0.0, sea_top + 0.01, scene.width, horizon - 0.03), cell, (190, 228, 240), scene.seed
        )
    _grains(canvas, scene, (196, 164, 106), (252, 240, 206), horizon + 0.03)


def _night_sky(canvas: Canvas, scene: Scene, rng: Random) -> None:
    horizon = scene.horizon * scene.height
    moon = (rng.uniform(0.12, 0.88) * scene.width, horizon * rng.uniform(0.2, 0.5))
    canvas.polygon(ellipse(*moon, 0.07, 0.07), (244, 238, 204))
    canvas.polygon(ellipse(moon[0] + 0.02, moon[1] + 0.012, 0.012, 0.012), (222, 214, 176))
    canvas.polygon(ellipse(moon[0] - 0.02, moon[1] - 0.02, 0.016, 0.016), (226, 218, 182))

    for cell, size, appear in (
        (0.11, 0.006, (0.0, 1.0)),
        (0.04, 0.0025, (6.0, 14.0)),
        (0.012, 0.0009, (6.0, 14.0)),
    ):

        def star(x: float, y: float, numbers: NDArray, alpha: float, size: float = size) -> None:
            if numbers[0] < 0.6:
                radius = size * (0.5 + numbers[1])
                rays = [(k * math.pi / 4, radius * (1 if k % 2 == 0 else 0.4)) for k in range(8)]
                tips = [(x + r * math.cos(a), y + r * math.sin(a)) for a, r in rays]
                canvas.polygon(np.array(tips), mix_rgb((255, 250, 220), (190, 210, 255), numbers[2]), alpha)

        canvas.scatter(_sky_box(scene), cell, scene.seed + round(1 / cell), star, appear=appear)
    canvas.polygon(_hill(scene, rng, horizon + 0.02, 0.08, 3), (38, 52, 86))
    canvas.polygon(_hill(scene, rng, horizon + 0.07, 0.05, 4), (30, 40, 68))
    for cell, length in ((0.03, 0.02), (0.01, 0.009)):

        def tuft(x: float, y: float, numbers: NDArray, alpha: float, length: float = length) -> None:
            lean = (numbers[0] - 0.5) * length
            curve = np.array([(x, y), (x + lean, y - length * (0.5 + 0.5 * numbers[1]))])
            canvas.line(curve, (66, 86, 128), 0.08 * length, 0.8 * alpha)

        left, top, right, bottom = _ground_box(scene)
        canvas.scatter((left, top + 0.05, right, bottom), cell, scene.seed + round(1 / cell) + 1, tuft)


def _snowy_field(canvas: Canvas, scene: Scene, rng: Random) -> None:
    horizon = scene.horizon * scene.height
    for _ in range(rng.randint(3, 6)):
        x, size = rng.uniform(0.02, 0.98) * scene.width, rng.uniform(0.05, 0.1)
        for step in range(3):
            y, half = horizon + 0.01 - size * (0.5 * step), size * (0.5 - 0.12 * step)
            canvas.polygon(np.array([(x - half, y), (x, y - size * 0.8), (x + half, y)]), (96, 132, 132))
            rim = y - size * 0.4
            cap = np.array([(x - half * 0.5, rim), (x, y - size * 0.8), (x + half * 0.5, rim)])
            canvas.polygon(cap, (236, 242, 248))
    canvas.polygon(_hill(scene, rng, horizon + 0.02, 0.05, 3), (244, 248, 252))
    canvas.polygon(_hill(scene, rng, horizon + 0.18, 0.08, 2), (230, 238, 247))
    for cell in (0.03, 0.009):

        def glint(x: float, y: float, numbers: NDArray, alpha: float, cell: float = cell) -> None:
            radius = cell * (0.05 + 0.1 * numbers[0])
            colour = (176, 198, 226) if numbers[1] < 0.5 else (255, 255, 255)
            canvas.polygon(
                np.array([(x - radius, y), (x, y - radius), (x + radius, y), (x, y + radius)]), colour, alpha
            )

        left, top, right, bottom = _ground_box(scene)
        canvas.scatter((left, top + 0.02, right, bottom), cell, scene.seed + round(1 / cell), glint)

    def flake(x: float, y: float, numbers: NDArray, alpha: float) -> None:
        if numbers[0] < 0.5:
            radius = 0.006 * (0.5 + numbers[1])
            canvas.polygon(ellipse(x, y, radius, radius, count=12), (252, 253, 255), 0.9 * alpha)

    canvas.scatter(_sky_box(scene), 0.09, scene.seed + 3, flake, appear=(0.0, 1.0))


def _desert(canvas: Canvas, scene: Scene, rng: Random) -> None:
    horizon = scene.horizon * scene.height
    sun = rng.uniform(0.1, 0.9) * scene.width, horizon * rng.uniform(0.25, 0.6)
    canvas.polygon(ellipse(*sun, 0.085, 0.085), (255, 246, 206))
    canvas.polygon(_hill(scene, rng, horizon + 0.01, 0.13, 2), (240, 186, 114))
    canvas.polygon(_hill(scene, rng, horizon + 0.06, 0.07, 3), (230, 168, 94))
    for _ in range(rng.randint(0, 2)):
        x, size = rng.uniform(0.05, 0.95) * scene.width, rng.uniform(0.05, 0.08)
        y = horizon + 0.05
        for dx, dy, half, tall in ((0, 0, 0.16, 1.3), (-0.45, -0.35, 0.12, 0.5), (0.45, -0.2, 0.12, 0.6)):
            stem = ellipse(x + dx * size, y + dy * size - tall * size / 2, half * size, tall * size / 2)
            canvas.polygon(stem, (104, 146, 92))
    for cell in (0.05, 0.017):
        _ripples(
            canvas, (0.0, horizon + 0.04, scene.width, scene.height), cell, (196, 126, 64), scene.seed + 5
        )
    _grains(canvas, scene, (186, 116, 58), (250, 214, 150), horizon + 0.05)


def _room(canvas: Canvas, scene: Scene, rng: Random) -> None:
    horizon = scene.horizon * scene.height
    wall_stripe = 0.1
    for k in range(0, math.ceil(scene.width / wall_stripe) + 1, 2):
        stripe = np.array([(k, 0), (k + 1, 0), (k + 1, horizon), (k, horizon)], dtype=float) * (
            wall_stripe,
            1.0,
        )
        canvas.polygon(stripe, (226, 198, 178), 0.8)
    x, y = rng.uniform(0.15, 0.7) * scene.width, horizon * rng.uniform(0.12, 0.25)
    half, tall = 0.11, 0.2
    frame = np.array([(x, y), (x + 2 * half, y), (x + 2 * half, y + tall), (x, y + tall)])
    canvas.polygon(frame, (188, 222, 238))
    canvas.line(frame, (250, 246, 238), 0.016, closed=True)
    canvas.line(np.array([(x + half, y), (x + half, y + tall)]), (250, 246, 238), 0.01)
    skirting = np.array([(-0.1, horizon - 0.025), (9, horizon - 0.025), (9, horizon), (-0.1, horizon)])
    canvas.polygon(skirting, (248, 240, 230))
    board = 0.075
    for k in range(math.ceil((scene.height - horizon) / board)):
        top = horizon + k * board
        canvas.line(np.array([(-0.1, top), (scene.width + 0.1, top)]), (118, 78, 50), 0.004, 0.8)
    for cell in (0.028, 0.011):

        def grain(x: float, y: float, numbers: NDArray, alpha: float, cell: float = cell) -> None:
            half = cell * (0.4 + 0.8 * numbers[0])
            bow = cell * 0.1 * (numbers[1] - 0.5)
            curve = np.array([(x - half, y), (x, y + bow), (x + half, y)])
            canvas.line(curve, (122, 80, 50), 0.05 * cell, 0.55 * alpha)

        canvas.scatter((0.0, horizon, scene.width, scene.height), cell, scene.seed + round(1 / cell), grain)

    def weave(x: float, y: float, numbers: NDArray, alpha: float) -> None:
        canvas.line(np.array([(x - 0.004, y), (x + 0.004, y)]), (206, 174, 154), 0.0009, 0.8 * alpha)
        canvas.line(np.array([(x, y - 0.004), (x, y + 0.004)]), (242, 224, 210), 0.0009, 0.8 * alpha)

    canvas.scatter((0.0, 0.0, scene.width, horizon - 0.025), 0.009, scene.seed + 11, weave)


_DRAWERS = {
    "meadow": _meadow,
    "beach": _beach,
    "night sky": _night_sky,
    "snowy field": _snowy_field,
    "desert": _desert,
    "room": _room,
}

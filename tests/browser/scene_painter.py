"""A painter for browser tests and screenshots: slow on purpose, in stages, with previews worth looking at."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from pipelines.storybook import vocabulary
from studio.painter import PaintingStopped
from tests.studio.painters import Cost, DrawingPainter, Report, Result

BASE_SIDE = 256
STEPS = 4


@dataclass
class ScenePainter(DrawingPainter):
    """Draws a landscape from the seed, stage by stage; each step takes `step_s` seconds."""

    step_s: float = 0.15

    def paint(
        self,
        model: Any,
        *,
        prompt: str,
        width: int,
        height: int,
        seed: int,
        steps: int | None,
        on_progress: Callable[[Report], None] | None,
        should_stop: Callable[[], bool] | None,
        tenor: bool | None = None,
        cut_prompt: bool = False,
    ) -> Result:
        stages = stages_of(width, height)
        course = [("encode", 0, 1)]
        course += [("paint", stage, step) for stage in range(len(stages)) for step in range(1, STEPS + 1)]
        course += [("decode", len(stages) - 1, tile) for tile in range(1, 4)]
        seconds = dict.fromkeys(("encode", "paint", "decode"), 0.0)
        for place, (phase, stage, step) in enumerate(course):
            began = time.perf_counter()
            self._wait(phase, should_stop)
            seconds[phase] += time.perf_counter() - began
            if on_progress:
                preview = (
                    None if phase == "encode" else sketch(width, height, seed, (place + 1) / len(course))
                )
                count = {"encode": 1, "paint": STEPS, "decode": 3}[phase]
                fraction = (place + 1) / (len(course) + 1)
                on_progress(
                    Report(phase, stage + 1, len(stages), step, count, fraction, *stages[stage], preview)
                )
        if should_stop and should_stop():
            raise PaintingStopped
        self.painted.append((prompt, seed))
        return Result(landscape(width, height, seed + cut_prompt), seconds, stages, peak_bytes=700_000_000)

    def forecast(self, folder: Path, width: int, height: int, steps: int | None) -> Cost:
        stages = stages_of(width, height)
        count = 1 + STEPS * len(stages) + 3
        return Cost(count * max(self.step_s, 0.01), 400_000_000 + width * height * 60, stages, self.fits)

    def default_steps(self, folder: Path) -> int:
        return STEPS

    def few_steps(self, folder: Path) -> int:
        return 0

    def unknown_words(self, prompt: str) -> list[str]:
        return vocabulary.unknown_words(prompt)

    def world_summary(self) -> str:
        return vocabulary.world_summary()


def stages_of(width: int, height: int) -> tuple[tuple[int, int], ...]:
    """Sizes from about `BASE_SIDE` up to the wanted one, four times larger each time."""
    sizes = [(width, height)]
    while max(sizes[0]) > BASE_SIDE:
        sizes.insert(0, (max(16, sizes[0][0] // 4), max(16, sizes[0][1] // 4)))
    return tuple(sizes)


def sketch(width: int, height: int, seed: int, fraction: float) -> Image.Image:
    """A small estimate that clears up as `fraction` goes to 1."""
    scale = 192 / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    clear = landscape(*size, seed)
    coarse = clear.resize(
        (max(1, round(size[0] * (0.03 + 0.5 * fraction))), max(1, round(size[1] * (0.03 + 0.5 * fraction))))
    )
    return coarse.resize(size, Image.Resampling.BICUBIC)


def landscape(width: int, height: int, seed: int) -> Image.Image:
    """Sky, sun, hills and a house; where and in which colour depends on the seed."""
    chance = random.Random(seed)
    sky = Image.new("RGB", (1, 256))
    low = chance.choice([(250, 214, 165), (214, 232, 240), (238, 205, 208)])
    high = chance.choice([(120, 170, 205), (96, 128, 176), (150, 190, 200)])
    for y in range(256):
        sky.putpixel((0, y), tuple(round(a + (b - a) * y / 255) for a, b in zip(high, low, strict=True)))
    image = sky.resize((width, height), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(image)
    unit = min(width, height)
    x, y, r = chance.uniform(0.2, 0.8) * width, chance.uniform(0.18, 0.35) * height, 0.09 * unit
    pen.ellipse((x - r, y - r, x + r, y + r), fill=(255, 244, 214))
    for layer, colour in enumerate([(132, 160, 128), (96, 134, 96), (62, 104, 70)]):
        points = [(0, height)]
        ground = height * (0.58 + 0.13 * layer)
        swell = [chance.uniform(-0.05, 0.05) * unit for _ in range(9)]
        points += [(width * index / 8, ground + value) for index, value in enumerate(swell)]
        pen.polygon([*points, (width, height)], fill=colour)
    w, left, top = 0.2 * unit, chance.uniform(0.15, 0.6) * width, 0.62 * height
    pen.rectangle((left, top, left + w, top + 0.8 * w), fill=(52, 108, 212))
    pen.polygon(
        [(left - 0.1 * w, top), (left + w / 2, top - 0.5 * w), (left + 1.1 * w, top)], fill=(180, 60, 50)
    )
    pen.rectangle((left + 0.4 * w, top + 0.4 * w, left + 0.6 * w, top + 0.8 * w), fill=(60, 42, 36))
    return image

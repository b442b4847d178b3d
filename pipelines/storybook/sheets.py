"""Sheets of drawings for the documentation: `python -m pipelines.storybook.sheets docs/images`."""

import sys
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, sample_scene
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES


def grid(pictures: list[np.ndarray], columns: int) -> Image.Image:
    """Pictures of one size in rows of `columns`."""
    rows = [np.concatenate(pictures[i : i + columns], axis=1) for i in range(0, len(pictures), columns)]
    return Image.fromarray(np.concatenate(rows, axis=0))


def kinds_sheet(side: int = 192) -> Image.Image:
    """One large object of each kind, all colours, patterns and places among them."""
    pictures = []
    for index, kind in enumerate(KINDS):
        pattern = PATTERNS[index // 2 % 3]
        item = SceneObject(kind, COLOURS[index % 8], pattern, "large", 0.5, 0.58, 0.32, seed=5 + index)
        pictures.append(draw_scene(Scene(PLACES[index % 6], (item,), horizon=0.5, seed=9), side, side))
    return grid(pictures, 8)


def scenes_sheet(side: int = 192, count: int = 16) -> Image.Image:
    """The first scenes of a stream, nothing picked."""
    rng = Random(7)
    return grid([draw_scene(sample_scene(rng, SceneMix()), side, side) for _ in range(count)], 8)


def zoom_sheet(side: int = 256) -> Image.Image:
    """The same place of one scene in drawings of 256, 1024 and 4096 px, pixel for pixel."""
    items = (
        SceneObject("house", "blue", "plain", "large", 0.66, 0.62, 0.24, seed=3),
        SceneObject("cat", "red", "plain", "medium", 0.3, 0.72, 0.17, seed=4),
    )
    scene = Scene("meadow", items, horizon=0.52, seed=21)
    pictures = []
    for full in (256, 1024, 4096):
        left, top = round(0.36 * full - side / 2), round(0.7 * full - side / 2)
        left, top = (min(max(value, 0), full - side) for value in (left, top))
        pictures.append(draw_scene(scene, full, full, (left, top, side, side)))
    return grid(pictures, 3)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    sheets = {
        "storybook_kinds": kinds_sheet(),
        "storybook_scenes": scenes_sheet(),
        "storybook_zoom": zoom_sheet(),
    }
    for name, sheet in sheets.items():
        sheet.save(folder / f"{name}.webp", quality=88, method=4)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images"))

"""Seeded streams of drawings: sample i is the same for every worker, machine and resumed run."""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, sample_scene


def sample_rng(seed: int, index: int) -> Random:
    """The generator of sample `index` of stream `seed`."""
    return Random(f"{seed}/{index}")


@dataclass(frozen=True)
class CropMix:
    """Crops of large drawings: `sizes` are sides of the full square drawing in pixels with their weights."""

    sizes: tuple[tuple[int, float], ...]
    crop: int = 128
    on_objects: float = 0.6  # share of crops whose centre lies on an object


def sample_crop(rng: Random, scene: Scene, mix: CropMix) -> tuple[int, tuple[int, int, int, int]]:
    """Side of the full drawing, and the crop (left, top, width, height) in its pixels, aligned to 16."""
    sizes, weights = zip(*mix.sizes, strict=True)
    side = rng.choices(sizes, weights)[0]
    room = side - mix.crop
    if room <= 0:
        return mix.crop, (0, 0, mix.crop, mix.crop)
    left, top = rng.uniform(0, room), rng.uniform(0, room)
    if scene.objects and rng.random() < mix.on_objects:
        box = rng.choice(scene.objects).box
        left = rng.uniform(box[0], box[2]) * side - mix.crop / 2
        top = rng.uniform(box[1], box[3]) * side - mix.crop / 2
    left, top = (min(max(round(value / 16) * 16, 0), room) for value in (left, top))
    return side, (left, top, mix.crop, mix.crop)


def to_tensor(pictures: list[NDArray[np.uint8]]) -> torch.Tensor:
    """`[B, 3, H, W]` float32 in [-1, 1] from `[H, W, 3]` uint8 pictures."""
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1.0)


def crops(seed: int, first: int, count: int, scenes: SceneMix, mix: CropMix) -> list[NDArray[np.uint8]]:
    """Crops `first ... first + count - 1` of a stream."""
    pictures = []
    for index in range(first, first + count):
        rng = sample_rng(seed, index)
        scene = sample_scene(rng, scenes)
        side, crop = sample_crop(rng, scene, mix)
        pictures.append(draw_scene(scene, side, side, crop))
    return pictures

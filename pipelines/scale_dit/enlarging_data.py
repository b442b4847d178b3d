"""Samples of enlarging steps: crops of large drawings, their enlarged guides, and the guides themselves.

Latents are made as painting makes them. The autoencoder's group norms look at whole pictures: a crop encoded
by itself differs by 0.4 of the deviation from the same place of the whole. All crops are therefore encoded
with the statistics of the picture that they are cut from, as `encode_tiled` does it.

Painted guides have less detail than drawn ones, at other places. In most guides grass, grain and the like
stand elsewhere, are fewer, fainter and blurred: otherwise the adapter learns that nothing is where its guide
shows nothing.
"""

from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor, nn

from pipelines.scale_dit.positions import anchors
from pipelines.scale_dit.shared_norm import REFERENCE, shared_encoder_statistics
from pipelines.storybook.canvas import Marks
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.latents import encode, named_by, place_crop, place_guide, sample_sides
from pipelines.storybook.scene import Scene, SceneMix, sample_scene

CROP, GUIDE = 16, 8  # tokens per side of a crop, and of the guide around it
MARGIN = 2  # tokens around the guide that only help to enlarge and encode it
CROPS = 6  # of each drawing
CHANNELS = 16
SOFTENED = 0.7  # share of guides that lose detail, and of those that are blurred
SOFTEST_PX = 6.4  # standard deviation of the widest blur; the narrowest is a sixteenth of it


@dataclass(frozen=True)
class Step:
    """An enlarging step: sides of both drawings in tokens, and how the small one lost its detail."""

    low_side: int
    side: int
    marks: Marks = Marks()
    blur_px: float = 0.0

    def low_at(self, at: tuple[int, int], extent: int) -> tuple[int, int]:
        """First tokens of the part of `extent` tokens around a crop's centre in the small drawing."""
        return place_guide(at, CROP, self.side, self.low_side, extent)


def sample_step(rng: Random) -> Step:
    """Sides of an enlarging step; most guides lose detail."""
    low_side, side = sample_sides(rng)
    if rng.random() >= SOFTENED:
        return Step(low_side, side)
    marks = Marks(rng.randint(1, 1 << 20), rng.random(), rng.uniform(0.3, 1.0))
    return Step(low_side, side, marks, SOFTEST_PX * 2 ** rng.uniform(-4.0, 0.0) * (rng.random() < SOFTENED))


@dataclass(frozen=True)
class Sample:
    """One crop: its scene, its step, and where it lies."""

    scene: Scene
    step: Step
    at: tuple[int, int]

    def ids(self) -> tuple[Tensor, Tensor]:
        """Positions `[CROP^2, 3]` of the crop's tokens and `[GUIDE^2, 3]` of the guide's."""
        side, low = self.step.side, self.step.low_side
        image = _cut(anchors((side, side)).view(side, side, 3), self.at, CROP)
        guide = anchors((low, low), (side, side)).view(low, low, 3)
        return image, _cut(guide, self.step.low_at(self.at, GUIDE), GUIDE)


def _cut(grid: Tensor, at: tuple[int, int], extent: int) -> Tensor:
    return grid[at[0] : at[0] + extent, at[1] : at[1] + extent].flatten(0, 1)


@dataclass(frozen=True)
class Batch:
    """Latents `[B, 16, h, w]` float32: crops and enlarged guides of 32 x 32, guides of 16 x 16."""

    drawing: Tensor
    enlarged: Tensor
    guide: Tensor
    samples: list[Sample]


_SHAPES = ((CHANNELS, 2 * CROP, 2 * CROP), (CHANNELS, 2 * CROP, 2 * CROP), (CHANNELS, 2 * GUIDE, 2 * GUIDE))
_SIZES = [int(np.prod(shape)) for shape in _SHAPES]


class EnlargingStream:
    """Seeded samples; latents are computed when a drawing is first needed, and kept in a file.

    Args:
        vae: frozen autoencoder. folder: where the file lies; tied to the autoencoder by the caller's choice.
        drawings: number of different drawings; each has `CROPS` crops.
    """

    def __init__(self, vae: nn.Module, folder: Path, drawings: int, mix: SceneMix, seed: int) -> None:
        self.vae, self.drawings, self.mix, self.seed = vae, drawings, mix, seed
        folder.mkdir(parents=True, exist_ok=True)
        shape = (drawings, CROPS, sum(_SIZES))
        path = folder / f"enlarging_{seed}_{drawings}_{named_by(self.crops_of)}.npy"
        mode = "r+" if path.exists() else "w+"
        self._file = np.lib.format.open_memmap(
            path, mode=mode, dtype=np.float16, shape=None if mode == "r+" else shape
        )

    def crops_of(self, drawing: int) -> list[Sample]:
        """The crops of one drawing."""
        rng = sample_rng(self.seed, drawing)
        scene, step = sample_scene(rng, self.mix), sample_step(rng)
        return [Sample(scene, step, place_crop(rng, scene, step.side, CROP)) for _ in range(CROPS)]

    def batch(self, first: int, count: int) -> Batch:
        """Samples `first` to `first + count`: first one crop of each drawing, then the second ones."""
        rows, samples = [], []
        for index in range(first, first + count):
            drawing, crop = index % self.drawings, index // self.drawings % CROPS
            crops = self.crops_of(drawing)
            if not self._file[drawing].any():
                self._file[drawing] = _latents(self.vae, crops)
            rows.append(torch.from_numpy(self._file[drawing, crop].astype(np.float32)))
            samples.append(crops[crop])
        parts = torch.stack(rows).split(_SIZES, 1)
        drawing, enlarged, guide = (
            part.unflatten(1, shape) for part, shape in zip(parts, _SHAPES, strict=True)
        )
        return Batch(drawing, enlarged, guide, samples)


def whole_drawing(sample: Sample) -> NDArray[np.uint8]:
    """The large drawing at the size from which statistics are taken (at most 512 px)."""
    return _draw(sample.scene, sample.step.side, Marks(), 0.0)


def _draw(scene: Scene, side: int, marks: Marks, blur_px: float) -> NDArray[np.uint8]:
    """A whole drawing of `side` tokens, or of 512 px where that is less."""
    size = min(side * 16, 8 * REFERENCE)
    return _blurred(draw_scene(scene, size, size, marks=marks), blur_px * size / (side * 16))


def _draw_part(sample: Sample, low: bool, at: tuple[int, int], extent: int) -> NDArray[np.uint8]:
    step = sample.step
    side, marks, blur = (step.low_side, step.marks, step.blur_px) if low else (step.side, Marks(), 0.0)
    part = (at[1] * 16, at[0] * 16, extent * 16, extent * 16)
    return _blurred(draw_scene(sample.scene, side * 16, side * 16, part, marks), blur)


def _blurred(picture: NDArray[np.uint8], deviation: float) -> NDArray[np.uint8]:
    if not deviation:
        return picture
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(deviation)))


def _latents(vae: nn.Module, crops: list[Sample]) -> NDArray[np.float16]:
    """All latents of one drawing's crops, `[CROPS, values]`."""
    scene, step = crops[0].scene, crops[0].step
    extent = min(GUIDE + 2 * MARGIN, step.low_side)
    places = [step.low_at(crop.at, extent) for crop in crops]
    parts = [_draw_part(crop, True, at, extent) for crop, at in zip(crops, places, strict=True)]
    drawn = [_draw_part(crop, False, crop.at, CROP) for crop in crops]
    enlarged = [enlarge(part, step, crop.at, at) for part, crop, at in zip(parts, crops, places, strict=True)]
    low = _draw(scene, step.low_side, step.marks, step.blur_px)
    size = min(step.side * 16, 8 * REFERENCE)
    large_low = np.asarray(Image.fromarray(low).resize((size, size), Image.Resampling.BICUBIC))
    guides = []
    for part, crop, at in zip(_encode(vae, parts, low), crops, places, strict=True):
        top, left = (2 * (g - p) for g, p in zip(step.low_at(crop.at, GUIDE), at, strict=True))
        guides.append(part[:, top : top + 2 * GUIDE, left : left + 2 * GUIDE])
    latents = (_encode(vae, drawn, whole_drawing(crops[0])), _encode(vae, enlarged, large_low), guides)
    rows = [torch.cat([value.flatten() for value in values]) for values in zip(*latents, strict=True)]
    return torch.stack(rows).numpy().astype(np.float16)


def enlarge(
    part: NDArray[np.uint8], step: Step, at: tuple[int, int], part_at: tuple[int, int]
) -> NDArray[np.uint8]:
    """The crop at token `at`, cut out of a part of the small drawing and enlarged bicubically."""
    scale, size = step.low_side / step.side, CROP * 16
    top, left = ((v * scale - low) * 16 for v, low in zip(at, part_at, strict=True))
    box = (max(left, 0), max(top, 0), *(min(v + size * scale, part.shape[0]) for v in (left, top)))
    return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC, box=box))


def _encode(vae: nn.Module, crops: list[NDArray[np.uint8]], whole: NDArray[np.uint8]) -> Tensor:
    """Posterior means of crops under the statistics of the whole that they are cut from."""
    parameter = next(vae.parameters())
    with torch.no_grad(), shared_encoder_statistics(vae, to_tensor([whole]).to(parameter.device)):
        return encode(vae, to_tensor(crops))

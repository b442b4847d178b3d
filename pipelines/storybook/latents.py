"""Latents of the seeded streams, computed on first use and kept in files beside the training state.

`python -m pipelines.storybook.latents --parts MODEL_FOLDER --cache DIR` computes all of them ahead, on a core
that a run leaves free; the recipes that train on whole drawings share one file.
"""

import argparse
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.shared_vae import open_vae
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, sample_scene
from pipelines.training.loop import runtime_device

TILE = 128  # pixels of every training picture
GRID = TILE // 16
STREAM_SEED = 41
MIX = SceneMix(counts=(0.32, 0.6, 0.08), sized=0.6)  # single objects teach shapes, pairs how they stand
NAMED_BY = 8  # first samples of a stream, which name its file


@dataclass(frozen=True)
class View:
    """A high-res crop and the part of the small drawing around it, in 16 px tokens.

    Attributes:
        side, low_side: sides of the two full drawings in tokens.
        at, low_at: (row, column) of the crops' first tokens.
    """

    side: int
    low_side: int
    at: tuple[int, int]
    low_at: tuple[int, int]


def sample_sides(rng: Random) -> tuple[int, int]:
    """Sides in tokens of a small drawing of 128 to 2048 px and of one that is 2 to 4 times larger.

    Large pictures are painted from 128 px on in steps of 4: small drawings of these sides come up most often.
    """
    between = round(GRID * 2 ** rng.uniform(0.0, 4.0))
    low_side = rng.choice((GRID, GRID, 4 * GRID, 16 * GRID, between))
    return low_side, min(round(low_side * rng.uniform(2.0, 4.0)), 32 * GRID)


def place_crop(rng: Random, scene: Scene, side: int, extent: int) -> tuple[int, int]:
    """(row, column) of the first token of a crop of `extent` tokens; three fifths touch an object."""
    room = side - extent
    row, column = rng.randint(0, room), rng.randint(0, room)
    if scene.objects and rng.random() < 0.6:
        box = rng.choice(scene.objects).box
        row = round(rng.uniform(box[1], box[3]) * side) - extent // 2
        column = round(rng.uniform(box[0], box[2]) * side) - extent // 2
    row, column = (min(max(value, 0), room) for value in (row, column))
    return row, column


def place_guide(at: tuple[int, int], crop: int, side: int, low_side: int, extent: int) -> tuple[int, int]:
    """First tokens of the part of `extent` tokens of the small drawing around a crop's centre."""
    scale, last = low_side / side, low_side - extent
    row, column = (min(max(round((v + crop / 2) * scale - extent / 2), 0), last) for v in at)
    return row, column


def sample_view(rng: Random, scene: Scene) -> View:
    """A crop at 256 to 4096 px and its guide."""
    low_side, side = sample_sides(rng)
    at = place_crop(rng, scene, side, GRID)
    return View(side, low_side, at, place_guide(at, GRID, side, low_side, GRID))


def named_by(entry: Callable[[int], object]) -> str:
    """Digits for the name of a stream's file, from its first samples (`entry` tells what a slot shows).

    Latents of another recipe must not meet this one's captions.
    """
    shown = [entry(slot) for slot in range(NAMED_BY)]
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:8]


class LatentStream:
    """Scenes and their latents `[16, 16, 16]`: whole drawings, or high-res crops with their guides.

    Args:
        vae: frozen autoencoder (posterior means are kept).
        folder: where the file lies; it is tied to the autoencoder by the caller's choice of folder, and to
            the scenes by its name.
        size: number of different samples; sample i of the run uses slot i modulo `size`.
        views: crops and guides.
    """

    def __init__(
        self,
        vae: nn.Module,
        folder: Path,
        size: int,
        mix: SceneMix,
        seed: int,
        views: bool = False,
    ) -> None:
        self.vae, self.size, self.mix, self.seed, self.views = vae, size, mix, seed, views
        folder.mkdir(parents=True, exist_ok=True)
        count = 1 + views
        shape = (size, count, 16, GRID * 2, GRID * 2)
        self.drawn = named_by(lambda slot: self.scene(slot)[:2])
        path = folder / f"latents_{seed}_{size}_{count}_{self.drawn}.npy"
        mode = "r+" if path.exists() else "w+"
        self._file = np.lib.format.open_memmap(
            path, mode=mode, dtype=np.float16, shape=None if mode == "r+" else shape
        )

    def scene(self, slot: int) -> tuple[Scene, View | None, Random]:
        """The scene of a slot, its view, and a generator for the caption."""
        rng = sample_rng(self.seed, slot)
        scene = sample_scene(rng, self.mix)
        view = sample_view(rng, scene) if self.views else None
        return scene, view, rng

    def _draw(self, scene: Scene, view: View | None) -> list[NDArray[np.uint8]]:
        if view is None:
            return [draw_scene(scene, TILE, TILE)]
        pictures = []
        for side, (row, column) in ((view.side, view.at), (view.low_side, view.low_at)):
            crop = (column * 16, row * 16, TILE, TILE)
            pictures.append(draw_scene(scene, side * 16, side * 16, crop))
        return pictures

    def batch(self, first: int, count: int) -> tuple[torch.Tensor, list[tuple[Scene, View | None]]]:
        """Latents `[count, 1 or 2, 16, 16, 16]` float32 with their scenes and views."""
        slots = [index % self.size for index in range(first, first + count)]
        entries = [self.scene(slot)[:2] for slot in slots]
        missing = [i for i, slot in enumerate(slots) if not self._file[slot].any()]
        if missing:
            pictures = [picture for i in missing for picture in self._draw(*entries[i])]
            encoded = encode(self.vae, to_tensor(pictures))
            encoded = encoded.view(len(missing), -1, *encoded.shape[1:])
            for i, latents in zip(missing, encoded, strict=True):
                self._file[slots[i]] = latents.numpy().astype(np.float16)
        return torch.from_numpy(np.stack([self._file[slot] for slot in slots])).float(), entries


@torch.no_grad()
def encode(vae: nn.Module, pictures: torch.Tensor) -> torch.Tensor:
    """Posterior means `[B, 16, H/8, W/8]` float32 on the CPU."""
    parameter = next(vae.parameters())
    pictures = pictures.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
    return vae.encode(pictures).latent_dist.mean.float().cpu()


def load_autoencoder(parts: Path) -> Any:
    """The frozen `AutoencoderKL` of a model folder, in the run's dtype on its device."""
    device, dtype = runtime_device()
    return open_vae(parts).to(device, dtype, memory_format=torch.channels_last).eval().requires_grad_(False)


def whole_drawings(vae: nn.Module, cache: Path, size: int = 40_000) -> LatentStream:
    """The stream of whole 128 px drawings that several recipes share."""
    return LatentStream(vae, cache, size, MIX, STREAM_SEED)


def guided_crops(vae: nn.Module, cache: Path, size: int = 10_000) -> LatentStream:
    """The stream of crops of large drawings with their guides."""
    return LatentStream(vae, cache, size, SceneMix(), STREAM_SEED + 1, views=True)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.latents", description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="model folder with the vae")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the latents")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    vae = load_autoencoder(options.parts)
    for stream in (whole_drawings(vae, options.cache), guided_crops(vae, options.cache)):
        for first in range(0, stream.size, 16):
            stream.batch(first, min(16, stream.size - first))
        print(f"{stream.size} samples in {options.cache}", flush=True)


if __name__ == "__main__":
    main()

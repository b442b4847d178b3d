"""Latents of a seeded stream of clips, computed on first use and kept in a file beside the training state.

Most samples are drawn clips; some are pseudo-videos: a still drawing under a camera that zooms and pans.
`python -m pipelines.storybook.clip_latents --parts MODEL_FOLDER --cache DIR` computes all of them ahead.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from pipelines.storybook.captions import short_caption
from pipelines.storybook.clips import Clip, ClipMix, clip_caption, sample_clip
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.draw_clips import draw_clip, pseudo_clip
from pipelines.storybook.latents import TILE, encode, load_autoencoder, named_by
from pipelines.storybook.scene import sample_scene

CLIP_SEED = 61
PSEUDO_SHARE = 0.08
STILL_SIZE = 2 * TILE  # side of the drawings that pseudo-videos look at
STREAM_SIZE = 8_000
ENCODED_AT_ONCE = 16


@dataclass(frozen=True)
class ClipEntry:
    """One sample of the stream.

    Attributes:
        caption: what its frames show and who moves where.
        clip: where its objects are; None for a pseudo-video.
    """

    caption: str
    clip: Clip | None


class ClipStream:
    """Clips as latents `[F, 16, 16, 16]` with their captions.

    Args:
        vae: frozen autoencoder (posterior means are kept).
        folder: where the file lies; it is tied to the autoencoder by the caller's choice of folder, and to
            the clips by its name.
        size: number of different samples; sample i of the run uses slot i modulo `size`.
        num_frames: frames of every clip.
        mix: what the clips are made of.
    """

    def __init__(
        self,
        vae: nn.Module,
        folder: Path,
        size: int = STREAM_SIZE,
        num_frames: int = 8,
        mix: ClipMix | None = None,
        seed: int = CLIP_SEED,
    ) -> None:
        self.vae, self.size, self.num_frames, self.seed = vae, size, num_frames, seed
        self.mix = mix or ClipMix()
        folder.mkdir(parents=True, exist_ok=True)
        shown = named_by(self.entry)
        path = folder / f"clips_{seed}_{size}_{num_frames}_{shown}.npy"
        shape = (size, num_frames, 16, TILE // 8, TILE // 8)
        mode = "r+" if path.exists() else "w+"
        self._file = np.lib.format.open_memmap(
            path, mode=mode, dtype=np.float16, shape=None if mode == "r+" else shape
        )

    def entry(self, slot: int) -> ClipEntry:
        """What a slot shows; quick, nothing is drawn."""
        rng = sample_rng(self.seed, slot)
        if rng.random() < PSEUDO_SHARE:
            return ClipEntry(
                f"{short_caption(sample_scene(rng, self.mix.scenes), rng).text}. The camera moves", None
            )
        clip = sample_clip(rng, self.mix)
        return ClipEntry(clip_caption(clip, rng).text, clip)

    def draw(self, slot: int) -> list[NDArray[np.uint8]]:
        """Frames of a slot, `[128, 128, 3]` each."""
        rng = sample_rng(self.seed, slot)
        if rng.random() < PSEUDO_SHARE:
            scene = sample_scene(rng, self.mix.scenes)
            still = Image.fromarray(draw_scene(scene, STILL_SIZE, STILL_SIZE))
            return [np.asarray(frame) for frame in pseudo_clip(still, rng, self.num_frames, TILE, TILE)]
        return draw_clip(sample_clip(rng, self.mix), self.num_frames, TILE, TILE)

    def batch(self, first: int, count: int) -> tuple[torch.Tensor, list[ClipEntry]]:
        """Latents `[count, F, 16, 16, 16]` float32 with their entries."""
        slots = [index % self.size for index in range(first, first + count)]
        for slot in slots:
            if not self._file[slot].any():
                pixels = to_tensor(self.draw(slot))
                parts = [encode(self.vae, part) for part in pixels.split(ENCODED_AT_ONCE)]
                self._file[slot] = torch.cat(parts).numpy().astype(np.float16)
        latents = torch.from_numpy(np.stack([self._file[slot] for slot in slots])).float()
        return latents, [self.entry(slot) for slot in slots]


def moving_boxes(clip: Clip | None, num_frames: int) -> list[list[tuple[float, float, float, float]]]:
    """Boxes of the objects in every frame, relative to the picture; none for a pseudo-video."""
    if clip is None:
        return [[] for _ in range(num_frames)]
    return [clip.boxes(index / max(num_frames - 1, 1)) for index in range(num_frames)]


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipelines.storybook.clip_latents", description=__doc__)
    parser.add_argument("--parts", type=Path, required=True, help="model folder with the vae")
    parser.add_argument("--cache", type=Path, required=True, help="folder of the latents")
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    stream = ClipStream(load_autoencoder(options.parts), options.cache, num_frames=options.frames)
    for slot in range(stream.size):
        stream.batch(slot, 1)
        if slot % 200 == 199:
            print(f"{slot + 1} of {stream.size}", flush=True)


if __name__ == "__main__":
    main()

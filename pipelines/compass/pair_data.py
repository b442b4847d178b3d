"""Training samples of two objects in a clear relation: Storybook scenes, or a folder that SCOP has mined."""

from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from pipelines.compass.scene_pairs import (
    CAPTION_DROPOUT,
    object_masks,
    relation_caption,
    relational_scene,
)
from pipelines.compass.scop import METADATA
from pipelines.compass.scop_crops import cut, draw_sample
from pipelines.compass.scop_masks import mask_path, pair_names, read_pairs
from pipelines.compass.scop_rules import ScopParams
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.latents import TILE, LatentStream, View, encode
from pipelines.storybook.scene import Scene, SceneMix

LONG_RUN = 16  # neighbours have long captions together: a batch costs as much as its longest text
# what the base model was trained on, with more pairs: the arm without SCOP
PLAIN_SCENES = SceneMix(counts=(0.2, 0.6, 0.2))


@dataclass(frozen=True)
class PairBatch:
    """Samples `first ... first + B - 1` of a stream.

    Attributes:
        latents: `[B, C, h, w]` float32 in the autoencoder's own scale (posterior means).
        texts: captions, "" where dropped out.
        names: words of the two objects in the order of the text; None where there is no pair to ground.
        masks: `[2, H, W]` in [0, 1] for each sample with names, else None.
    """

    latents: Tensor
    texts: list[str]
    names: list[tuple[str, str] | None]
    masks: list[Tensor | None]


class PairSource(Protocol):
    """A seeded stream of samples. `side_px`: side of its pictures."""

    side_px: int

    def batch(self, first: int, count: int, with_masks: bool) -> PairBatch:
        """Samples of the stream; the same ones whenever they are asked for."""


class _SceneLatents(LatentStream):
    """Latents of scenes that SCOP accepts."""

    def __init__(self, vae: nn.Module, folder: Path, size: int, seed: int, params: ScopParams) -> None:
        self.params = params  # the file's name asks for scenes
        super().__init__(vae, folder, size, PLAIN_SCENES, seed)

    def scene(self, slot: int) -> tuple[Scene, View | None, Random]:
        rng = sample_rng(self.seed, slot)
        scene, _ = relational_scene(rng, self.params)
        return scene, None, rng


class ScenePairs:
    """Storybook scenes.

    Args:
        vae: frozen autoencoder. cache: folder of its latents. size: number of different scenes.
        params: thresholds of the filter; None: every scene of the plain mix with an ordinary caption, for the
            comparison without SCOP.
        long_share: share of captions with many sentences, for models that read them; nothing is grounded in
            those.
    """

    side_px = TILE

    def __init__(
        self,
        vae: nn.Module,
        cache: Path,
        size: int,
        seed: int,
        params: ScopParams | None,
        long_share: float = 0.0,
    ) -> None:
        self.params, self.seed, self.long_share = params, seed, long_share
        if params is None:
            self.latents = LatentStream(vae, cache, size, PLAIN_SCENES, seed)
        else:
            self.latents = _SceneLatents(vae, cache, size, seed + 1, params)

    def batch(self, first: int, count: int, with_masks: bool) -> PairBatch:
        latents, entries = self.latents.batch(first, count)
        result = PairBatch(latents[:, 0], [], [], [])
        for row, (scene, _) in enumerate(entries):
            rng = sample_rng(self.seed + 2, first + row)
            is_long = sample_rng(self.seed + 3, (first + row) // LONG_RUN).random() < self.long_share
            names, masks = None, None
            if self.params is not None and not is_long:
                text, names, masks = self._pair(scene, rng, with_masks)
            else:
                text = "" if rng.random() < CAPTION_DROPOUT else caption(scene, rng, float(is_long)).text
            result.texts.append(text)
            result.names.append(names)
            result.masks.append(masks)
        return result

    def _pair(
        self, scene: Scene, rng: Random, with_masks: bool
    ) -> tuple[str, tuple[str, str] | None, Tensor | None]:
        from pipelines.compass.scene_pairs import scop_pairs

        assert self.params is not None
        chosen = relation_caption(scene, scop_pairs(scene, self.params), rng)
        if not chosen.text or not with_masks:
            return chosen.text, None, None
        return chosen.text, chosen.names, torch.from_numpy(object_masks(scene, chosen.objects, TILE))


class FolderPairs:
    """A folder that `run_scop` has written, with its pictures.

    Masks are those of `masks/<stem>/mask_<stem>_<name>.<seq>.png` where they exist, else the boxes.

    Args:
        folder: of `metadata.jsonl`. vae: frozen autoencoder. side_px: side of the training pictures.
        crop: see `scop_crops.crop_box`. Default: "square" for pairs of the strict profile, else "official".
    Raises:
        ValueError: the folder holds no pairs.
    """

    def __init__(
        self, folder: Path, vae: nn.Module, side_px: int = 512, seed: int = 0, crop: str | None = None
    ):
        self.folder, self.vae, self.side_px, self.seed = folder, vae, side_px, seed
        self.records = list(read_pairs(folder))
        if not self.records:
            raise ValueError(f"{folder / METADATA} holds no pair")
        self.weights = [record.get("weight", 1.0) for record in self.records]
        self.crop = crop or ("square" if "weight" in self.records[0] else "official")

    def batch(self, first: int, count: int, with_masks: bool) -> PairBatch:
        pictures, result = [], PairBatch(torch.empty(0), [], [], [])
        for index in range(first, first + count):
            rng = sample_rng(self.seed, index)
            record = rng.choices(self.records, self.weights)[0]
            with Image.open(self.folder / record["file_name"]) as opened:
                picture = opened.convert("RGB")
            sample = draw_sample(record, picture.size, rng, self.crop)
            shown = cut(picture, sample.box, self.side_px)
            pictures.append(np.asarray(shown)[:, ::-1] if sample.is_mirrored else np.asarray(shown))
            names = (sample.triple[0], sample.triple[2]) if sample.caption else None
            result.texts.append(sample.caption)
            result.names.append(names if with_masks else None)
            masks = self._masks(record, picture.size, sample.box, names) if names and with_masks else None
            result.masks.append(masks.flip(-1) if masks is not None and sample.is_mirrored else masks)
        return PairBatch(encode(self.vae, to_tensor(pictures)), result.texts, result.names, result.masks)

    def _masks(
        self,
        record: dict[str, Any],
        size: tuple[int, int],
        crop: tuple[float, float, float, float],
        names: tuple[str, str],
    ) -> Tensor:
        """`[2, side, side]` of the two objects in the order of `names`."""
        by_name = dict(zip(pair_names(record), record["annots"], strict=True))
        masks = []
        for name in names:
            path = self.folder / mask_path(record, name)
            if path.is_file():
                with Image.open(path) as opened:
                    mask = opened.convert("L")
            else:
                x, y, w, h = by_name[name]["bbox"]
                mask = Image.new("L", size)
                mask.paste(255, (round(x), round(y), round(x + w), round(y + h)))
            masks.append(np.asarray(cut(mask, crop, self.side_px), np.float32) / 255)
        return torch.from_numpy(np.stack(masks))

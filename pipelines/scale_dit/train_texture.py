"""Recipe of the texture classifier: a minute on one core, on drawings made as it goes.

Eight textures of empty places, cropped from 4096 px drawings, and as ninth class what has none: skies,
drawings of 256 to 1024 px enlarged, blurred crops, and plain noise. Contrast, slight blur and slight noise
vary.
"""

import json
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.scale_dit.texture import (
    CROP,
    GROUNDS,
    SIDE,
    SKIES,
    TEXTURES,
    TextureClassifier,
    enlarge,
    to_grey,
    without_mean,
)
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene
from pipelines.training.loop import LoopConfig, runtime_device

DRAWN = CROP + 32  # pixels that are drawn, for crops at other places
NONE = TEXTURES.index("none")
EMPTY = 0.3  # share of samples without a texture


def texture_recipe() -> LoopConfig:
    """About a minute on one core."""
    return LoopConfig(
        samples=5_000, batch=20, lr=4e-3, muon_lr=0.02, warmup=20, decay_from=0.4, ema_decay=0.98,
        evaluate_every_s=600,
    )  # fmt: skip


def crop_box(rng: Random, scene: Scene, part: str, side: int = SIDE, size: int = DRAWN) -> tuple[int, int]:
    """(left, top) of a crop that lies wholly on the ground or above the horizon."""
    horizon = scene.horizon * side
    room = (horizon + 0.1 * side, side - size) if part == "ground" else (0, horizon - 0.14 * side - size)
    return rng.randint(0, side - size), round(rng.uniform(room[0], max(room)))


def draw_texture(rng: Random, place: str, part: str, shrink: int = 1) -> Tensor:
    """Grey `[1, DRAWN, DRAWN]` of an empty place, drawn `shrink` times smaller and enlarged again."""
    scene = Scene(place, (), 1.0, rng.uniform(0.45, 0.62), rng.getrandbits(31))
    side, size = SIDE // shrink, DRAWN // shrink
    left, top = crop_box(rng, scene, part, side, size)
    drawn = draw_scene(scene, side, side, (left, top, size, size))
    picture = to_grey(torch.from_numpy(drawn.astype(np.float32)).permute(2, 0, 1)[None] / 255)
    return (picture if shrink == 1 else enlarge(picture, shrink))[0]


class TextureTask:
    """Cross-entropy on `size` drawn samples, each seen under changing contrast, blur, noise and place.

    Args:
        size: different drawings; sample i of the run uses drawing i modulo `size`.
    """

    def __init__(self, size: int = 1_200, seed: int = 61) -> None:
        torch.manual_seed(seed)
        self.model: nn.Module = TextureClassifier().to(memory_format=torch.channels_last)
        self.size, self.seed = size, seed
        self._drawn: dict[int, tuple[Tensor, int]] = {}

    def drawing(self, slot: int) -> tuple[Tensor, int]:
        """Grey picture `[1, DRAWN, DRAWN]` and class of a slot."""
        if slot not in self._drawn:
            picture, label = draw_sample(sample_rng(self.seed, slot))
            self._drawn[slot] = (picture * 255).round().byte(), label  # a quarter of the memory
        picture, label = self._drawn[slot]
        return picture / 255, label

    def loss(self, first_sample: int, batch: int) -> tuple[Tensor, dict[str, float]]:
        crops, labels = [], []
        for index in range(first_sample, first_sample + batch):
            picture, label = self.drawing(index % self.size)
            crops.append(vary(sample_rng(self.seed + 1, index), picture))
            labels.append(label)
        device, dtype = runtime_device()
        logits = self.model(without_mean(torch.stack(crops)).to(device, dtype)).float()
        wanted = torch.tensor(labels, device=device)
        right = float((logits.argmax(1) == wanted).float().mean())
        return F.cross_entropy(logits, wanted, label_smoothing=0.05), {"right": right}

    def evaluate(self, model: nn.Module, folder: Path) -> dict[str, float]:
        """Shares that are right on drawings of another seed: with a texture, and without one."""
        rights: dict[str, list[bool]] = {"texture": [], "none": []}
        parameter = next(model.parameters())
        with torch.no_grad():
            for slot in range(180):
                picture, label = draw_sample(sample_rng(self.seed + 2, slot))
                crop = vary(sample_rng(self.seed + 3, slot), picture)
                answer = int(model(without_mean(crop[None]).to(parameter)).argmax())
                rights["none" if label == NONE else "texture"].append(answer == label)
        metrics = {name: sum(values) / len(values) for name, values in rights.items()}
        (folder / "metrics.json").write_text(json.dumps(metrics) + "\n")
        return metrics


def draw_sample(rng: Random) -> tuple[Tensor, int]:
    """One grey drawing `[1, DRAWN, DRAWN]` and its class."""
    if rng.random() >= EMPTY:
        place, part = rng.choice([(p, "ground") for p in GROUNDS] + [(p, "above") for p in SKIES])
        return draw_texture(rng, place, part), TEXTURES.index(f"{place}, {part}")
    kind = rng.choice(("enlarged", "enlarged", "enlarged", "blurred", "sky", "noise"))
    place = rng.choice(GROUNDS)
    part = rng.choice(("ground", "above")) if place in SKIES else "ground"
    if kind == "enlarged":
        return draw_texture(rng, place, part, rng.choice((4, 4, 8, 16))), NONE
    if kind == "blurred":
        return blur(draw_texture(rng, place, part), rng.uniform(3.0, 8.0)), NONE
    flat = draw_texture(rng, rng.choice([p for p in GROUNDS if p not in SKIES]), "above")
    if kind == "noise":
        generator = torch.Generator().manual_seed(rng.getrandbits(31))
        coarse = torch.randn(1, 1, *[DRAWN // rng.choice((1, 2, 4, 8))] * 2, generator=generator)
        flat = flat + rng.uniform(0.02, 0.12) * F.interpolate(coarse, size=(DRAWN, DRAWN), mode="bicubic")[0]
    return flat.clamp(0, 1), NONE


def vary(rng: Random, picture: Tensor) -> Tensor:
    """A crop `[1, CROP, CROP]` at another place, mirrored or not, with other contrast, blur and noise."""
    left, top = rng.randint(0, DRAWN - CROP), rng.randint(0, DRAWN - CROP)
    crop = picture[:, top : top + CROP, left : left + CROP]
    if rng.random() < 0.5:
        crop = crop.flip(2)
    if rng.random() < 0.6:
        crop = blur(crop, rng.uniform(0.3, 1.1))
    noise = torch.randn(crop.shape, generator=torch.Generator().manual_seed(rng.getrandbits(31)))
    return rng.uniform(0.7, 1.3) * crop + rng.uniform(0.0, 0.01) * noise


def blur(picture: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of `[1, h, w]`, cut at three sigma."""
    reach = max(1, round(3 * sigma))
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    line = (line / line.sum())[None, None, None]
    padded = F.pad(picture[None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, line), line.transpose(2, 3))[0]

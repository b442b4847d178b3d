"""Whether large pictures hold real detail: their spectrum and textures against drawings, and their seams.

A picture that is merely enlarged has too little in the finest octaves, a noisy one too much, and neither has
blades of grass. Every figure is also taken of a plain enlargement of a 1024 px picture, for comparison.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pipelines.scale_dit.seams import SeamMeter, Seams
from pipelines.scale_dit.texture import CROP, SIDE, TextureClassifier, classify, to_grey
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Box, Scene, SceneMix, sample_scene
from pipelines.storybook.verify import Share
from pipelines.storybook.vocabulary import PLACES

OCTAVES = 5  # from half a cycle per pixel down to one cycle in 64 pixels
GROUND = 0.74  # below this share of the height lies ground in every scene
CROPS = 12  # ground crops of a picture that the classifier is asked about
RESAMPLES = 400


@dataclass(frozen=True)
class Detail:
    """Figures of a set of pictures.

    Attributes:
        octaves: energy of each octave over that of the drawings, finest first; 1 is right.
        spectrum: the worst octave's factor in either direction, at least 1.
        texture: share of ground crops with the texture that their place has.
        seams: verdict on all pictures together.
        intervals: 95 % of "octave_1" (the finest), ..., "spectrum" and "seams" (their ratio), from pictures
            drawn anew with replacement (B. Efron, 1979); empty for less than two pictures.
    """

    octaves: tuple[float, ...]
    spectrum: float
    texture: Share
    seams: Seams
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)


def octave_energies(picture: Tensor, crop: int = CROP) -> Tensor:
    """Energy of the luma in each octave of spatial frequency, float64 `[OCTAVES]`, finest first.

    The k-th octave holds radial frequencies from 2^-(k + 2) to 2^-(k + 1) cycles per pixel; the finest also
    what lies beyond, towards the corners. Mean over square crops under a Hann window.

    Args:
        picture: `[3, H, W]` in [0, 1].
        crop: side of the crops in pixels, at least 128 and at most H and W.
    """
    grey = to_grey(picture[None].float())[0, 0]
    crops = grey.unfold(0, crop, crop).unfold(1, crop, crop).reshape(-1, crop, crop)
    window = torch.hann_window(crop, periodic=False)
    crops = (crops - crops.mean((1, 2), keepdim=True)) * (window[:, None] * window[None])
    power = torch.zeros(crop, crop // 2 + 1, dtype=torch.float64)
    for part in crops.split(32):
        power += torch.fft.rfft2(part).abs().square().double().sum(0)
    rows, columns = torch.fft.fftfreq(crop), torch.fft.rfftfreq(crop)
    radius = (rows[:, None].square() + columns[None].square()).sqrt()
    edges = [2.0, *(2.0 ** -(k + 2) for k in range(OCTAVES))]
    bands = [(radius <= high) & (radius > low) for high, low in zip(edges, edges[1:], strict=False)]
    return torch.stack([power[band].sum() for band in bands]) / len(crops)


def spectrum_factor(ratios: Iterable[float]) -> float:
    """How far energies are off at worst, upwards or downwards: the largest of r and 1 / r."""
    return max(max(ratio, 1 / max(ratio, 1e-12)) for ratio in ratios)


def ground_crops(picture: Tensor, boxes: Sequence[Box], seed: int = 0) -> list[Tensor]:
    """Up to `CROPS` crops of 256 px from the lowest quarter of `[3, H, W]` that touch no box.

    Args:
        boxes: (left, top, right, bottom) of objects, relative to the picture.
    """
    _, height, width = picture.shape
    rng = Random(seed)
    found: list[Tensor] = []
    for _ in range(CROPS * 8):
        left = rng.randint(0, width - CROP)
        top = rng.randint(min(round(GROUND * height), height - CROP), height - CROP)
        if len(found) < CROPS and not any(_touches((left, top), box, (width, height)) for box in boxes):
            found.append(picture[:, top : top + CROP, left : left + CROP])
    return found


def _touches(corner: tuple[int, int], box: Box, size: tuple[int, int]) -> bool:
    (left, top), (width, height) = corner, size
    return (
        left < box[2] * width
        and left + CROP > box[0] * width
        and top < box[3] * height
        and top + CROP > box[1] * height
    )


class DetailMeter:
    """Collects figures of large pictures one by one.

    Args:
        classifier: in evaluation mode.
    """

    def __init__(self, classifier: TextureClassifier) -> None:
        self.classifier = classifier
        self._energies: list[Tensor] = []  # of each picture and its drawing, [2, OCTAVES]
        self._right: list[bool] = []
        self._seams: list[SeamMeter] = []  # one per picture

    def add(
        self,
        picture: Image.Image | Tensor,
        truth: Image.Image | Tensor,
        place: str,
        boxes: Sequence[Box] = (),
    ) -> None:
        """Take in a picture.

        Args:
            picture: PIL, or `[3, H, W]` in [0, 1].
            truth: the drawing of the scene it was asked for, of the same size.
            place: the scene's place. boxes: where the picture shows objects (relative; a detector's answer).
        """
        ours, drawn = as_tensor(picture), as_tensor(truth)
        if ours.shape != drawn.shape:
            raise ValueError(f"the picture is {list(ours.shape)}, its drawing {list(drawn.shape)}")
        self._energies.append(torch.stack([octave_energies(ours), octave_energies(drawn)]))
        texture = f"{place}, ground"
        self._right += [answer == texture for answer in classify(self.classifier, ground_crops(ours, boxes))]
        self._seams.append(SeamMeter())
        self._seams[-1].add(ours)

    def result(self) -> Detail:
        """Figures of all pictures so far."""
        ratios = self._ratios(range(len(self._energies)))
        seams = SeamMeter.together(self._seams).result()
        return Detail(tuple(ratios), spectrum_factor(ratios), Share.of(self._right), seams, self._intervals())

    def _ratios(self, chosen: Iterable[int]) -> list[float]:
        ours, drawn = torch.stack([self._energies[index] for index in chosen]).sum(0)
        return (ours / drawn).tolist()

    def _intervals(self) -> dict[str, tuple[float, float]]:
        count, rng = len(self._energies), Random(0)
        if count < 2:
            return {}
        rows = []
        for _ in range(RESAMPLES):
            chosen = rng.choices(range(count), k=count)
            ratios = self._ratios(chosen)
            seams = SeamMeter.together(self._seams[index] for index in chosen).ratio
            rows.append([*ratios, spectrum_factor(ratios), seams])
        names = [*(f"octave_{k + 1}" for k in range(OCTAVES)), "spectrum", "seams"]
        ends = np.quantile(np.array(rows), (0.025, 0.975), axis=0).T.tolist()
        return {name: (low, high) for name, (low, high) in zip(names, ends, strict=True)}


def as_tensor(picture: Image.Image | Tensor) -> Tensor:
    """`[3, H, W]` float32 in [0, 1]."""
    if isinstance(picture, Tensor):
        return picture.float()
    return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1) / 255


def enlarged(picture: Image.Image, side: int) -> Image.Image:
    """Plain enlargement to a square of `side` pixels."""
    return picture.resize((side, side), Image.Resampling.BICUBIC)


def detail_scenes(count: int, seed: int = 91) -> Iterator[tuple[Scene, str]]:
    """Scenes with one object in all places in turn, captions that name the place; in no training stream."""
    for index in range(count):
        rng = sample_rng(seed, index)
        scene = sample_scene(rng, SceneMix(counts=(1.0, 0.0, 0.0)))
        scene = replace(scene, place=PLACES[index % len(PLACES)])
        text = caption(scene, rng, 0.0).text
        while scene.place not in text:
            text = caption(scene, rng, 0.0).text
        yield scene, text


def evaluate_detail(
    paint: Callable[[str, int, int], Image.Image],
    classifier: TextureClassifier,
    count: int,
    find: Callable[[Image.Image], Sequence[Box]] | None = None,
    side: int = SIDE,
    show: Callable[[str, dict[str, Image.Image]], None] | None = None,
) -> dict[str, Detail]:
    """Figures of painted pictures, of plain enlargements, and of the drawings themselves.

    Args:
        paint: (prompt, side in pixels, seed) -> a square picture.
        count: number of scenes.
        find: boxes of objects in a picture, relative to it. Default: none, so that some ground crops show
            objects.
        side: of the pictures; the textures are those of 4096 px.
        show: called with each prompt and its pictures "enlarged", "painted" and "drawn".
    Returns:
        "painted", "enlarged" (a picture of a quarter of the side, enlarged) and "drawn" (the drawings
        against themselves: what the classifier and the seam meter say of pictures that are right).
    """
    meters = {name: DetailMeter(classifier) for name in ("painted", "enlarged", "drawn")}
    for index, (scene, prompt) in enumerate(detail_scenes(count)):
        truth = Image.fromarray(draw_scene(scene, side, side))
        pictures = {
            "enlarged": enlarged(paint(prompt, side // 4, index), side),
            "painted": paint(prompt, side, index),
        }
        if show is not None:
            show(prompt, {**pictures, "drawn": truth})
        for name, picture in pictures.items():
            meters[name].add(picture, truth, scene.place, () if find is None else find(picture))
        meters["drawn"].add(truth, truth, scene.place, [item.box for item in scene.objects])
    return {name: meter.result() for name, meter in meters.items()}

"""Training pictures of the detectors: drawings, framed anew each time, damaged as generative models do it."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image

from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, sample_scene

Pixels = NDArray[np.uint8]  # [H, W, 3]
ASPECTS = (1.0, 1.0, 1.0, 1.5, 0.667, 1.78)
CANVASES = (
    (128, 128),
    (128, 128),
    (128, 128),
    (160, 112),
    (112, 160),
    (176, 96),
)  # of each aspect, width first
SIDES = (96, 112, 128, 144, 160, 192)  # square roots of the areas at which scenes are drawn


@dataclass(frozen=True)
class Drawing:
    """A drawn scene and its boxes `[N, 4]` (left, top, right, bottom) relative to the picture, 0 to 1."""

    scene: Scene
    pixels: Pixels
    boxes: NDArray[np.float64]


def relative_boxes(scene: Scene) -> NDArray[np.float64]:
    """`[N, 4]` boxes of a scene's objects relative to the picture, 0 to 1."""
    size = np.array([scene.width, scene.height] * 2)
    boxes = np.array([item.box for item in scene.objects], dtype=np.float64).reshape(-1, 4)
    return np.clip(boxes / size, 0, 1)


def make_drawing(rng: Random, mix: SceneMix, side: int) -> Drawing:
    """Draw a scene of `mix` on about `side ** 2` pixels, sides in multiples of 8."""
    scene = sample_scene(rng, mix)
    width, height = (max(round(side * stretch / 8) * 8, 64) for stretch in (scene.width, scene.height))
    return Drawing(scene, draw_scene(scene, width, height), relative_boxes(scene))


class DrawingPool:
    """A window of drawings that moves along a seeded stream, so that each is used several times.

    Which drawing sample i sees depends on i alone: a resumed run goes on with the same ones.

    Args:
        seed: of the stream.
        size: drawings in the window once it has grown to its full length.
        reuse: how often a drawing is used on average.
        start: length of the window at the first sample.
        repaint: takes and gives `[1, 3, H, W]` in [-1, 1]; a pass through an autoencoder, for instance.
        repainted: share of the drawings that goes through it.
    """

    def __init__(
        self,
        seed: int,
        size: int = 6000,
        reuse: int = 8,
        start: int = 600,
        repaint: Callable[[torch.Tensor], torch.Tensor] | None = None,
        repainted: float = 0.3,
    ) -> None:
        self.seed, self.size, self.reuse, self.start = seed, size, reuse, start
        self.repaint, self.repainted = repaint, repainted
        self._drawn: dict[int, Drawing] = {}

    def pick(self, sample: int, rng: Random, form: int) -> Drawing:
        """A drawing for `sample` whose aspect is `ASPECTS[form]`."""
        forms = len(ASPECTS)
        end = (self.start + sample // self.reuse) // forms
        begin = max(0, end - self.size // forms)
        index = rng.randrange(begin, end) * forms + form
        if index not in self._drawn:
            if len(self._drawn) > self.size + 500:
                self._drawn = {key: value for key, value in self._drawn.items() if key >= begin * forms}
            self._drawn[index] = self._make(index)
        return self._drawn[index]

    def _make(self, index: int) -> Drawing:
        rng = sample_rng(self.seed, index)
        mix = SceneMix(
            counts=(0.35, 0.35, 0.3),
            groups=0.2,
            aspects=(ASPECTS[index % len(ASPECTS)],),
            held_out=rng.random() < 0.15,
        )
        drawing = make_drawing(rng, mix, rng.choice(SIDES))
        if self.repaint is not None and rng.random() < self.repainted:
            pixels = self.repaint(to_tensor([drawing.pixels]))[0].permute(1, 2, 0)
            drawing = Drawing(
                drawing.scene, ((pixels + 1) * 127.5).round().clamp(0, 255).byte().numpy(), drawing.boxes
            )
        return drawing


@dataclass(frozen=True)
class Framed:
    """A picture on its canvas: `boxes` in pixels of the canvas, `visible` share of each box inside it."""

    pixels: Pixels
    boxes: NDArray[np.float64]
    visible: NDArray[np.float64]


def frame(rng: Random, drawing: Drawing, canvas: tuple[int, int]) -> Framed:
    """Put a drawing on a canvas (width, height): as it is, nearer, or further away with bars; or mirrored."""
    width, height = canvas
    picture_height, picture_width = drawing.pixels.shape[:2]
    stretch_x, stretch_y = width / picture_width, height / picture_height
    zoom, way = 1.0, rng.random()
    if way < 0.2:
        zoom = rng.uniform(1.0, 1.5)
    elif way < 0.4:
        zoom = rng.uniform(0.7, 1.0)
    if 0.8 < stretch_x / stretch_y < 1.25:  # nearly the canvas's own aspect: fill it
        drawn = (width * zoom, height * zoom)
    else:
        stretch = zoom * (max if rng.random() < 0.6 else min)(stretch_x, stretch_y)
        drawn = (picture_width * stretch, picture_height * stretch)
    corner = [rng.uniform(min(room, 0), max(room, 0)) for room in (width - drawn[0], height - drawn[1])]
    pixels = _placed(rng, drawing.pixels, canvas, drawn, corner)
    boxes = drawing.boxes * np.array([*drawn, *drawn]) + np.array([*corner, *corner])
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
        boxes = np.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], axis=1)
    inside = np.clip(boxes, 0, [width, height, width, height])
    visible = _areas(inside) / np.maximum(_areas(boxes), 1e-9)
    return Framed(np.ascontiguousarray(pixels), inside, visible)


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def _placed(
    rng: Random, pixels: Pixels, canvas: tuple[int, int], drawn: tuple[float, float], corner: list[float]
) -> Pixels:
    """The visible part of the picture, resampled onto the canvas; bars around it have one colour."""
    height, width = pixels.shape[:2]
    near = [max(round(value), 0) for value in corner]
    far = [min(round(c + d), limit) for c, d, limit in zip(corner, drawn, canvas, strict=True)]
    source = [
        min(max((at - c) / d, 0.0), 1.0) * extent
        for at, c, d, extent in zip((*near, *far), corner * 2, drawn * 2, (width, height) * 2, strict=True)
    ]
    image = Image.fromarray(pixels)
    if rng.random() < 0.25:  # lose resolution first
        share = rng.uniform(0.4, 0.8)
        image = image.resize((round(width * share), round(height * share)), Image.Resampling.BOX)
        source = [
            value * got / had
            for value, got, had in zip(source, image.size * 2, (width, height) * 2, strict=True)
        ]
    filtering = rng.choice((Image.Resampling.BILINEAR, Image.Resampling.BICUBIC, Image.Resampling.LANCZOS))
    size = (far[0] - near[0], far[1] - near[1])
    image = image.resize(size, filtering, box=tuple(source))
    if size != canvas:
        colour = rng.choice(
            ((0, 0, 0), (255, 255, 255), (128, 128, 128), tuple(rng.randrange(256) for _ in range(3)))
        )
        page = Image.new("RGB", canvas, colour)
        page.paste(image, (near[0], near[1]))
        image = page
    if rng.random() < 0.2:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=rng.randrange(25, 85))
        image = Image.open(file)
    return np.asarray(image)


class _Damage:
    """Random numbers of one batch, and effects on parts of it."""

    def __init__(self, x: torch.Tensor, generator: torch.Generator) -> None:
        self.x, self.generator = x.clone(), generator

    def uniform(self, count: int, low: float, high: float, channels: int = 1) -> torch.Tensor:
        """`[count, channels, 1, 1]`."""
        return torch.rand(count, channels, 1, 1, generator=self.generator) * (high - low) + low

    def some(self, share: float, effect: Callable[[torch.Tensor, int], torch.Tensor]) -> None:
        """Replace about `share` of the pictures by `effect(pictures, count)`."""
        rows = torch.nonzero(torch.rand(len(self.x), generator=self.generator) < share)[:, 0]
        if len(rows):
            self.x[rows] = effect(self.x[rows], len(rows))


def damage(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Imitate what autoencoders and diffusion models do to a picture; `[B, 3, H, W]` in [-1, 1].

    Slight shifts of light, contrast, saturation and colour, blur or over-sharpening, bent outlines, smooth
    and fine noise: each on a random part of the batch and of random strength per picture.
    """
    work = _Damage(x, generator)
    uniform = work.uniform
    work.some(0.35, lambda part, n: _bent(part, uniform(n, 0.0, 0.035), generator))
    work.some(0.55, lambda part, n: torch.lerp(part, _softer(part, 1), uniform(n, -0.9, 1.3)))
    work.some(0.15, lambda part, n: torch.lerp(part, _softer(part, 2), uniform(n, 0.3, 1.0)))
    for cells, strength in ((8, 0.12), (32, 0.1), (x.shape[2], 0.08)):
        noise = partial(_noise, cells=cells, generator=generator)
        work.some(0.3, partial(_with_noise, noise=noise, uniform=uniform, strength=strength))
    work.some(0.8, lambda part, n: _relit(part, uniform(n, 0.8, 1.2), uniform(n, 0.78, 1.2)))
    work.some(0.8, lambda part, n: part + uniform(n, -0.12, 0.12) + uniform(n, -0.06, 0.06, 3))
    return work.x.clamp_(-1, 1)


def _bent(x: torch.Tensor, strength: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Outlines moved smoothly by up to a few pixels; `strength` `[B, 1, 1, 1]` in half pictures."""
    batch, _, height, width = x.shape
    bend = F.interpolate(
        torch.randn(batch, 2, 5, 5, generator=generator) * strength, (height, width), mode="bicubic"
    )
    grid = F.affine_grid(torch.eye(2, 3).expand(batch, 2, 3), [batch, 3, height, width], align_corners=False)
    return F.grid_sample(x, grid + bend.permute(0, 2, 3, 1), padding_mode="border", align_corners=False)


def _softer(x: torch.Tensor, reach: int) -> torch.Tensor:
    """Mean over three pixels `reach` apart each way (pooling by PyTorch takes five times as long)."""
    x = F.pad(x, (reach,) * 4, mode="replicate")
    x = x[..., : -2 * reach] + x[..., reach:-reach] + x[..., 2 * reach :]
    return (x[..., : -2 * reach, :] + x[..., reach:-reach, :] + x[..., 2 * reach :, :]).div_(9)


def _with_noise(
    part: torch.Tensor,
    count: int,
    noise: Callable[[torch.Size], torch.Tensor],
    uniform: Callable[..., torch.Tensor],
    strength: float,
) -> torch.Tensor:
    return part + noise(part.shape) * uniform(count, 0.0, strength)


def _noise(shape: torch.Size, cells: int, generator: torch.Generator) -> torch.Tensor:
    """Normal noise on a grid with `cells` rows, enlarged to `shape`."""
    batch, channels, height, width = shape
    noise = torch.randn(batch, channels, cells, math.ceil(cells * width / height), generator=generator)
    return noise if cells == height else F.interpolate(noise, (height, width), mode="bilinear")


def _relit(x: torch.Tensor, contrast: torch.Tensor, saturation: torch.Tensor) -> torch.Tensor:
    """Contrast about the mean, saturation about grey; both `[B, 1, 1, 1]`."""
    level, grey = x.mean(dim=(1, 2, 3), keepdim=True), x.mean(dim=1, keepdim=True)
    return (x - grey).mul_(contrast * saturation).add_(torch.lerp(level, grey, contrast))

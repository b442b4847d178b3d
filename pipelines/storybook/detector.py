"""Two small detectors of the Storybook world and what they see in a picture.

`StorybookEyes` serves the product (badges, filters, rewards); `StorybookJudge`, of another architecture and
seed, only reports metrics, so that nothing is ever selected by the model that grades it. Both answer per cell
of a grid: is the centre of an object here, which kind, colour and pattern has it, how far are its four sides.
Centre heatmaps follow "Objects as Points" (arXiv:1904.07850), distances to the sides FCOS (arXiv:1904.01355).
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from PIL import Image
from torch import nn

from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES

MULTIPLE = 16  # sides of the grid's picture; other sizes are padded
WORKING_SIDE = 128  # square root of the area that pictures are brought to before they are looked at


@dataclass(frozen=True)
class Detection:
    """One object: words of the vocabulary, box (left, top, right, bottom) relative to the picture, 0 to 1."""

    kind: str
    colour: str
    pattern: str
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class Detections:
    """What one picture shows; objects from the surest to the least sure. `aspect` is width over height."""

    place: str
    place_score: float
    objects: tuple[Detection, ...]
    aspect: float = 1.0


@dataclass(frozen=True)
class DenseOutput:
    """Raw answers of a detector.

    Attributes:
        centre: `[B, h, w]` logits, an object's centre lies in this cell.
        kind, colour, pattern: `[B, words, h, w]` logits.
        sides: `[B, 4, h, w]` logarithms of the distances, in strides, from the cell's middle to left, top,
            right and bottom of the object.
        place: `[B, words]` logits.
    """

    centre: torch.Tensor
    kind: torch.Tensor
    colour: torch.Tensor
    pattern: torch.Tensor
    sides: torch.Tensor
    place: torch.Tensor


def _norm(channels: int) -> nn.GroupNorm:
    """Groups of 16 channels: in bf16 on CPUs five times faster than groups that fill no vector register."""
    if channels % 16:
        raise ValueError(f"expected widths in multiples of 16, got {channels}")
    return nn.GroupNorm(channels // 16, channels)


class _DenseHead(nn.Module):
    """One 1x1 convolution to all answers of a cell; the place from the mean of the context."""

    def __init__(self, channels: int, context: int, words: Sequence[int]) -> None:
        super().__init__()
        *cell_words, places = words
        self.parts = (1, *cell_words, 4)
        self.norm = _norm(channels)
        self.cells = nn.Conv2d(channels, sum(self.parts), 1)
        self.place = nn.Linear(context, places)
        nn.init.constant_(self.cells.bias[:1], -3.0)  # centres are rare: start from "nothing here"

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> DenseOutput:
        answers = self.cells(F.silu(self.norm(x))).float().split(self.parts, dim=1)
        centre, kind, colour, pattern, sides = answers
        place = self.place(context.mean(dim=(2, 3))).float()
        return DenseOutput(centre[:, 0], kind, colour, pattern, sides, place)


class _Residual(nn.Module):
    """Two 3x3 convolutions, each after norm and activation, added to the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(channels), _norm(channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


class _Attention(nn.Module):
    """A pre-norm transformer layer on a feature map; a grouped 3x3 convolution tells tokens their place."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.position = nn.Conv2d(channels, channels, 3, padding=1, groups=heads)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv, self.out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.wide, self.narrow = nn.Linear(channels, 3 * channels), nn.Linear(3 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, channels, height, width = x.shape
        x = x + self.position(x)
        tokens = x.flatten(2).transpose(1, 2)
        q, k, v = self.qkv(self.norm1(tokens)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # few tokens: written out, the backward in bf16 on CPUs is several times faster than the fused one
        scores = (q * (channels // self.heads) ** -0.5) @ k.transpose(-1, -2)
        seen = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        tokens = tokens + self.out(seen)
        tokens = tokens + self.narrow(F.gelu(self.wide(self.norm2(tokens))))
        return (
            tokens.transpose(1, 2).unflatten(2, (height, width)).contiguous(memory_format=torch.channels_last)
        )


def _padded(x: torch.Tensor) -> torch.Tensor:
    height, width = x.shape[-2:]
    right, below = -width % MULTIPLE, -height % MULTIPLE
    return F.pad(x, (0, right, 0, below), mode="replicate") if right or below else x


def _check(x: torch.Tensor) -> None:
    if x.ndim != 4 or x.shape[1] != 3 or min(x.shape[2:]) < 32:
        raise ValueError(f"expected pictures [B, 3, H, W] of at least 32x32 pixels, got {tuple(x.shape)}")


class StorybookEyes(ModelMixin, ConfigMixin):
    """Residual convolution net on squares of 4x4 pixels, a head at stride 8 that also hears from stride 16.

    Args:
        widths: channels at strides 4, 8 and 16.
        blocks: residual blocks at strides 4, 8 and 16, and after 16 has been added to 8.
        kinds, colours, patterns, places: the words, in the order of the answers.
    """

    stride = 8

    @register_to_config
    def __init__(
        self,
        widths: tuple[int, ...] = (48, 96, 128),
        blocks: tuple[int, ...] = (1, 2, 1, 1),
        kinds: tuple[str, ...] = KINDS,
        colours: tuple[str, ...] = COLOURS,
        patterns: tuple[str, ...] = PATTERNS,
        places: tuple[str, ...] = PLACES,
    ) -> None:
        super().__init__()
        quarter, eighth, sixteenth = widths

        def stack(channels: int, count: int) -> nn.Sequential:
            return nn.Sequential(*(_Residual(channels) for _ in range(count)))

        self.stem = nn.Conv2d(3 * 4 * 4, quarter, 3, padding=1)
        self.quarter = stack(quarter, blocks[0])
        self.to_eighth = nn.Conv2d(quarter, eighth, 3, 2, 1)
        self.eighth = stack(eighth, blocks[1])
        self.to_sixteenth = nn.Conv2d(eighth, sixteenth, 3, 2, 1)
        self.sixteenth = stack(sixteenth, blocks[2])
        self.back = nn.Conv2d(sixteenth, eighth, 1)
        self.joined = stack(eighth, blocks[3])
        words = (len(kinds), len(colours), len(patterns), len(places))
        self.head = _DenseHead(eighth, sixteenth, words)

    def forward(self, x: torch.Tensor) -> DenseOutput:
        """Look at pictures `[B, 3, H, W]` in [-1, 1] of 64 to 512 px; see `DenseOutput`."""
        _check(x)
        x = self.quarter(self.stem(F.pixel_unshuffle(_padded(x), 4)))
        x = self.eighth(self.to_eighth(x))
        context = self.sixteenth(self.to_sixteenth(x))
        x = self.joined(x + F.interpolate(self.back(context), scale_factor=2.0, mode="nearest"))
        return self.head(x, F.silu(context))


class StorybookJudge(ModelMixin, ConfigMixin):
    """Convolutional stem, transformer over tokens of 16 px, and a pyramid back to a head at stride 4.

    Args:
        widths: channels at strides 2, 4, 8 and 16.
        layers, heads: transformer layers at stride 16 and their heads.
        pyramid: channels of the way back to stride 4.
        kinds, colours, patterns, places: the words, in the order of the answers.
    """

    stride = 4

    @register_to_config
    def __init__(
        self,
        widths: tuple[int, ...] = (16, 48, 80, 128),
        layers: int = 4,
        heads: int = 4,
        pyramid: int = 48,
        kinds: tuple[str, ...] = KINDS,
        colours: tuple[str, ...] = COLOURS,
        patterns: tuple[str, ...] = PATTERNS,
        places: tuple[str, ...] = PLACES,
    ) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 4, 2, 1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, 2, 1) for a, b in zip(widths, widths[1:], strict=False))
        self.down_norms = nn.ModuleList(_norm(width) for width in widths[:-1])
        self.transformer = nn.ModuleList(_Attention(widths[3], heads) for _ in range(layers))
        self.lateral = nn.ModuleList(nn.Conv2d(width, pyramid, 1) for width in widths[1:])
        self.merge = nn.ModuleList(_Residual(pyramid) for _ in range(2))
        words = (len(kinds), len(colours), len(patterns), len(places))
        self.head = _DenseHead(pyramid, widths[3], words)

    def forward(self, x: torch.Tensor) -> DenseOutput:
        """Look at pictures `[B, 3, H, W]` in [-1, 1] of 64 to 512 px; see `DenseOutput`."""
        _check(x)
        x = self.stem(_padded(x))
        levels = []
        for norm, down in zip(self.down_norms, self.down, strict=True):
            x = down(F.silu(norm(x)))
            levels.append(x)
        for layer in self.transformer:
            x = layer(x)
        context, levels[2] = x, x
        x = self.lateral[2](x)
        for level, merge in ((1, self.merge[0]), (0, self.merge[1])):
            x = F.interpolate(x, scale_factor=2.0, mode="nearest") + self.lateral[level](levels[level])
            x = merge(x)
        return self.head(x, context)


Detector = StorybookEyes | StorybookJudge


def working_size(width: int, height: int, side: int = WORKING_SIDE) -> tuple[int, int]:
    """(width, height) of about `side ** 2` pixels and the same aspect, in multiples of 16 from 64 to 512."""
    stretch = side / math.sqrt(width * height)
    sizes = (min(max(round(value * stretch / MULTIPLE) * MULTIPLE, 64), 512) for value in (width, height))
    return next(sizes), next(sizes)


def _prepared(picture: Image.Image) -> torch.Tensor:
    """`[3, H, W]` in [-1, 1] at the working size."""
    size = working_size(*picture.size)
    small = picture.convert("RGB").resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1).float().div_(127.5).sub_(1.0)


@torch.no_grad()
def detect(
    model: Detector,
    pictures: Sequence[Image.Image] | torch.Tensor,
    threshold: float = 0.3,
    batch: int = 32,
) -> list[Detections]:
    """Find the objects and the place of each picture.

    Args:
        model: either detector, on any device and in any dtype.
        pictures: PIL pictures of any sizes, or `[B, 3, H, W]` in [-1, 1]. All are brought to about 128 x 128
            pixels (same aspect), the size at which the detectors were trained.
        threshold: objects with a lower score (centre times kind, 0 to 1) are left out.
        batch: pictures of one size looked at together.
    Returns:
        One `Detections` per picture, in order.
    Raises:
        ValueError: a tensor of another shape.
    """
    if isinstance(pictures, torch.Tensor):
        _check(pictures)
        width, height = pictures.shape[3], pictures.shape[2]
        size = working_size(width, height)
        shrunk = F.interpolate(pictures.float(), size[::-1], mode="bicubic", antialias=True)
        prepared = list(shrunk.clamp(-1, 1))
        aspects = [width / height] * len(prepared)
    else:
        prepared = [_prepared(picture) for picture in pictures]
        aspects = [picture.width / picture.height for picture in pictures]
    groups: dict[torch.Size, list[int]] = defaultdict(list)
    for index, picture in enumerate(prepared):
        groups[picture.shape].append(index)
    parameter = next(model.parameters())
    found: dict[int, Detections] = {}
    for indices in groups.values():
        for start in range(0, len(indices), batch):
            chosen = indices[start : start + batch]
            x = torch.stack([prepared[index] for index in chosen])
            x = x.to(parameter.device, parameter.dtype, memory_format=torch.channels_last)
            shown = decode(model, model(x), threshold, [aspects[index] for index in chosen])
            found.update(zip(chosen, shown, strict=True))
    return [found[index] for index in range(len(prepared))]


def decode(
    model: Detector, output: DenseOutput, threshold: float, aspects: Sequence[float]
) -> list[Detections]:
    """Turn raw answers into detections: peaks of the centre map, the surest box first, no box twice."""
    centre = output.centre.sigmoid()[:, None]
    kind = output.kind.softmax(1)
    surest, kinds = kind.max(1)
    scores = centre[:, 0] * surest
    peak = (F.max_pool2d(centre, 3, 1, 1) == centre)[:, 0]
    rows, columns = centre.shape[-2:]
    size = torch.tensor([columns, rows, columns, rows], device=centre.device)
    sign = torch.tensor([-1.0, -1.0, 1.0, 1.0], device=centre.device)
    places = output.place.softmax(1)
    config = model.config
    results = []
    for index, aspect in enumerate(aspects):
        cells = torch.nonzero(peak[index] & (scores[index] >= threshold))
        y, x = cells.unbind(1)
        middle = torch.stack([x, y, x, y], dim=1) + 0.5
        boxes = ((middle + sign * output.sides[index, :, y, x].T.exp()) / size).clamp(0, 1)
        words = (
            kinds[index, y, x].tolist(),
            output.colour[index, :, y, x].argmax(0).tolist(),
            output.pattern[index, :, y, x].argmax(0).tolist(),
        )
        objects = [
            Detection(config.kinds[k], config.colours[c], config.patterns[p], tuple(box), score)
            for k, c, p, box, score in zip(*words, boxes.tolist(), scores[index, y, x].tolist(), strict=True)
        ]
        place = int(places[index].argmax())
        results.append(
            Detections(config.places[place], float(places[index, place]), _without_doubles(objects), aspect)
        )
    return results


def box_overlap(first: Sequence[float], second: Sequence[float]) -> float:
    """Intersection over union of two boxes (left, top, right, bottom)."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(width, 0.0) * max(height, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared) if shared else 0.0


def _without_doubles(objects: list[Detection]) -> tuple[Detection, ...]:
    kept: list[Detection] = []
    for item in sorted(objects, key=lambda item: -item.score):
        if all(box_overlap(item.box, other.box) < 0.45 for other in kept):
            kept.append(item)
    return tuple(kept)

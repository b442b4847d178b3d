"""A training aid: what a network's inner features must tell about the scene, place by place.

Features of a denoiser that know which object lies where learn to draw it sooner (REPA, arXiv:2410.06940,
aligns them with a frozen encoder's). Storybook's scenes are known exactly, so a linear probe asks for the
truth itself; it is trained along and thrown away.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.storybook.scene import Scene
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS

Area = tuple[float, float, float, float]  # left, top, right, bottom of what is shown, in scene units
SIZES = (len(KINDS) + 1, len(COLOURS) + 1, len(PATTERNS) + 1)  # the last class of each: no object


class SceneProbe(nn.Module):
    """Reads kind, colour, pattern and the place within its object's box at every token.

    Args:
        channels: width of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.head = nn.Linear(channels, sum(SIZES) + 4)

    def forward(self, features: Tensor, words: Tensor, places: Tensor) -> Tensor:
        """Loss per sample `[B]`: mean cross entropy of the words plus L1 of the places on objects.

        Args:
            features: `[B, N, C]`.
            words: `[B, N, 3]`, classes of kind, colour, pattern as from `scene_targets`.
            places: `[B, N, 4]`, from there as well.
        """
        answers = self.head(self.norm(features)).float()
        *logits, coordinates = answers.split((*SIZES, 4), dim=-1)
        loss = torch.zeros((), device=features.device)
        for index, part in enumerate(logits):
            loss = loss + F.cross_entropy(part.flatten(0, 1), words[..., index].flatten(), reduction="none")
        on_object = words[..., 0] < len(KINDS)
        distance = (coordinates - places).abs().mean(-1) * on_object
        return (loss.view(on_object.shape) + distance).mean(1)


def scene_targets(shown: Sequence[tuple[Scene, Area]], side: int) -> tuple[Tensor, Tensor]:
    """What a `side` x `side` grid over each shown area contains.

    Args:
        shown: scenes with the area that the picture shows.
    Returns:
        words `[B, side**2, 3]` (nearest object whose box holds the middle of the cell), places
        `[B, side**2, 4]`: where in the box (0 to 1, twice) and the box's extent relative to the area.
    """
    words = torch.tensor([size - 1 for size in SIZES]).repeat(len(shown), side, side, 1)
    places = torch.zeros(len(shown), side, side, 4)
    steps = (torch.arange(side) + 0.5) / side
    for row, (scene, (left, top, right, bottom)) in enumerate(shown):
        across, down = left + steps * (right - left), top + steps * (bottom - top)
        for item in scene.objects:  # from far to near: what is drawn later covers
            x0, y0, x1, y1 = item.box
            u, v = (across - x0) / (x1 - x0), (down - y0) / (y1 - y0)
            inside = ((v >= 0) & (v <= 1))[:, None] & ((u >= 0) & (u <= 1))[None]
            classes = (KINDS.index(item.kind), COLOURS.index(item.colour), PATTERNS.index(item.pattern))
            words[row][inside] = torch.tensor(classes)
            extent = torch.tensor([(x1 - x0) / (right - left), (y1 - y0) / (bottom - top)])
            spot = torch.stack([u[None].expand(side, side), v[:, None].expand(side, side)], -1)
            places[row][inside] = torch.cat([spot, extent.expand(side, side, 2)], -1)[inside]
    return words.flatten(1, 2), places.flatten(1, 2)

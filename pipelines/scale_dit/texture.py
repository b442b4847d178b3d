"""A small classifier that tells the textures of 4096 px drawings apart, and from pictures that have none.

It looks at grey crops of 256 px with their mean taken out, so that neither colour nor brightness gives a
place away: only blades, grains, glints, ripples, boards, stars and weave do.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor, nn

from pipelines.scale_dit.seams import LUMA

CROP = 256  # pixels of what is looked at
SIDE = 4096  # pixels of the drawings whose textures are known
GROUNDS = ("meadow", "beach", "night sky", "snowy field", "desert", "room")
SKIES = ("night sky", "room")  # places with a texture above the horizon: stars, and the weave of a wall
TEXTURES = (*(f"{place}, ground" for place in GROUNDS), *(f"{place}, above" for place in SKIES), "none")


class TextureClassifier(ModelMixin, ConfigMixin):
    """Four strided convolutions, mean and spread of their answers, one linear layer.

    Args:
        width: channels of the last convolution; a multiple of 4.
    """

    @register_to_config
    def __init__(self, width: int = 48) -> None:
        super().__init__()
        sizes = (1, width // 4, width // 2, width, width)
        layers: list[nn.Module] = []
        for index, (before, after) in enumerate(zip(sizes[:-1], sizes[1:], strict=True)):
            layers += [nn.Conv2d(before, after, 5 if index == 0 else 3, stride=2, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(2 * width, len(TEXTURES))

    def forward(self, crops: Tensor) -> Tensor:
        """Logits `[B, textures]` of crops `[B, 1, h, w]` as `without_mean` makes them."""
        found = self.features(crops).flatten(2)
        return self.head(torch.cat([found.mean(2), found.std(2)], 1))


def to_grey(pictures: Tensor) -> Tensor:
    """Luma `[B, 1, h, w]` of `[B, 3, h, w]`."""
    red, green, blue = pictures.unbind(1)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, None]


def without_mean(grey: Tensor) -> Tensor:
    """What the classifier looks at: grey pictures `[B, 1, h, w]` in [0, 1] less their mean, eightfold."""
    return 8 * (grey - grey.mean((2, 3), keepdim=True))


@torch.no_grad()
def classify(model: TextureClassifier, crops: Sequence[Tensor]) -> list[str]:
    """The texture of each crop `[3, h, w]` in [0, 1], all of one size."""
    if not crops:
        return []
    parameter: Any = next(model.parameters())
    grey = without_mean(to_grey(torch.stack(list(crops)).float())).to(parameter)
    answers = [model(part).argmax(1) for part in grey.split(64)]
    return [TEXTURES[int(index)] for index in torch.cat(answers)]


def enlarge(pictures: Tensor, scale: float) -> Tensor:
    """Plain enlargement `[B, C, h, w]`: bicubic, cut to [0, 1]."""
    return F.interpolate(pictures, scale_factor=scale, mode="bicubic", align_corners=False).clamp(0, 1)

"""What the two pipelines return."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.utils import BaseOutput


@dataclass
class FlexTokOutput(BaseOutput):
    """Pictures and the tokens they were made from.

    Attributes:
        images: list of PIL images, an array `[B, H, W, 3]`, or a tensor `[B, 3, H, W]`, by `output_type`.
        tokens: ids of each picture, int64 `[k]`.
    """

    images: Any
    tokens: list[torch.Tensor]

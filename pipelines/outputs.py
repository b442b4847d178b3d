"""Output classes of the pipelines."""

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput


@dataclass
class ImageOutput(BaseOutput):
    """Pictures and the stages they went through.

    Attributes:
        images: list of PIL images, an array `[B, H, W, 3]`, or a tensor `[B, 3, H, W]`, by `output_type`.
        stages: the sizes that were painted, smallest first.
    """

    images: Any
    stages: Any = ()

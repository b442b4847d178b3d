"""What the video pipeline gives back."""

from dataclasses import dataclass
from typing import Any

from diffusers.utils import BaseOutput


@dataclass
class VideoOutput(BaseOutput):
    """Videos, whole and cut at the borders of clips.

    Attributes:
        frames: `frames[b]` is the list of PIL frames of video b; or one array `[B, F, H, W, 3]`, a tensor
            `[B, F, 3, H, W]` in [0, 1], or latents `[B, F, C, h, w]`, by `output_type`.
        clips: `clips[b][k]` holds the frames of clip k of video b, in the same form.
    """

    frames: Any
    clips: Any = ()

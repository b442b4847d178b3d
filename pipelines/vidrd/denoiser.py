"""Video UNets as backbones of the clip loop, with classifier-free guidance."""

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNetMotionModel


@dataclass(frozen=True)
class TextCondition:
    """What a clip shows.

    Attributes:
        text: states of the prompts, `[B, L, J]`.
        negative: states of the negative prompts, of the same shape; None without guidance.
        guidance_scale: w in u + w (c - u).
    """

    text: torch.Tensor
    negative: torch.Tensor | None = None
    guidance_scale: float = 1.0

    def faded(self, before: "TextCondition", share: float) -> "TextCondition":
        """Between an earlier prompt (share 0) and this one (share 1)."""
        return TextCondition(torch.lerp(before.text, self.text, share), self.negative, self.guidance_scale)


class UNetDenoiser:
    """A UNet over `[B, C, F, h, w]`: ours, or diffusers' `UNetMotionModel` (AnimateDiff).

    Both halves of guidance run in one batch, as [negative, text]; when memory doesn't allow it, one after the
    other from then on.
    """

    temporal_ratio = 1

    def __init__(self, unet: Any) -> None:
        self.unet = unet
        self.reads_per_frame = isinstance(unet, UNetMotionModel)
        self.is_split = False

    def predict(self, x: torch.Tensor, timestep: torch.Tensor, condition: TextCondition) -> torch.Tensor:
        if condition.negative is None:
            return self._run(x, timestep, condition.text)
        if not self.is_split:
            try:
                texts = torch.cat([condition.negative, condition.text])
                both = torch.cat([timestep, timestep]) if timestep.ndim else timestep
                plain, asked = self._run(torch.cat([x, x]), both, texts).chunk(2)
            except torch.OutOfMemoryError:
                self.is_split = True
        if self.is_split:
            plain = self._run(x, timestep, condition.negative)
            asked = self._run(x, timestep, condition.text)
        return plain + condition.guidance_scale * (asked - plain)

    def _run(self, x: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        dtype = self.unet.dtype
        if self.reads_per_frame:
            text = text.repeat_interleave(x.shape[2], dim=0)
        return self.unet(x.to(dtype), timestep, encoder_hidden_states=text.to(dtype)).sample.to(x.dtype)

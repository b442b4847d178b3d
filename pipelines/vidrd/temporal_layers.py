"""Layers along time over image layers, and the views between frames and videos.

Shape letters: B videos, F frames, C channels, H and W latent rows and columns. Image layers see every frame
as a picture of its own, `[B * F, C, H, W]` with the frames of one video together. In channels-last memory the
same numbers read as `[B, F * H, W, C]`, so what pools over frames works on a view and copies nothing.

Source: arXiv 2309.03549 (VidRD), arXiv 2304.08818 (VideoLDM).
"""

import math

import torch
import torch.nn.functional as F
from torch import nn

NORM_GROUPS = 32  # fixed in the published checkpoints


def join_frames(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Stack the frames of each video: `[B * F, C, H, W]` to `[B, C, F * H, W]`."""
    count, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(count // num_frames, num_frames * height, width, channels)
    return rows.permute(0, 3, 1, 2)


def split_frames(x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Inverse of `join_frames`."""
    batch, channels, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).reshape(batch * num_frames, height // num_frames, width, channels)
    return rows.permute(0, 3, 1, 2)


def norm_over_frames(norm: nn.Module, x: torch.Tensor, num_frames: int) -> torch.Tensor:
    """Group norm with statistics of the whole video instead of each frame; shapes as in `join_frames`."""
    return split_frames(norm(join_frames(x, num_frames)), num_frames)


def frame_positions(num_frames: int, channels: int, like: torch.Tensor) -> torch.Tensor:
    """Sinusoids `[F, C]`: sine at even, cosine at odd channels, wavelengths from 2 pi to 20000 pi frames.

    Computed in float32, then given the dtype and device of `like`.
    """
    place = torch.arange(num_frames, dtype=torch.float32)[:, None]
    rate = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(1e4) / channels))
    table = torch.zeros(num_frames, channels)
    table[:, 0::2] = torch.sin(place * rate)
    table[:, 1::2] = torch.cos(place * rate)[:, : channels // 2]
    return table.to(like)


class MotionEmbedding(nn.Module):
    """What a text says of motion, for each frame's time embedding; zero at first.

    All frames read the same text, and only their places in time make a motion of its words: the mean state of
    the text and a frame's position meet in one hidden layer, and each resnet hears of it.

    Args:
        text_width: J. channels: E, of the time embedding.
    """

    def __init__(self, text_width: int, channels: int, hidden: int = 256, positions: int = 64) -> None:
        super().__init__()
        self.positions = positions
        self.text, self.frame = nn.Linear(text_width, hidden), nn.Linear(positions, hidden)
        self.out = nn.Linear(hidden, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, text: torch.Tensor, num_frames: int) -> torch.Tensor:
        """States `[B, L, J]` to `[B, F, E]`."""
        places = self.frame(frame_positions(num_frames, self.positions, text))
        return self.out(F.silu(self.text(text.mean(1))[:, None] + places))


class FrameConv3d(nn.Conv3d):
    """A (3, 1, 1) convolution on `[B, C, F, P]`, all places of a frame on one axis."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, self.weight[..., 0], self.bias, padding=(1, 0))


class TemporalConvLayer(nn.Module):
    """Residual convolutions over three frames at each place; the last one starts at zero.

    Args:
        channels: a multiple of 32.
        depth: norm, SiLU, dropout and convolution, so many times (4 in the UNet, 3 in the decoder).
        dropout: share of activations dropped in training. Default: 0.1.
    Raises:
        ValueError: channels are not a multiple of 32.
    """

    def __init__(self, channels: int, depth: int, dropout: float = 0.1) -> None:
        super().__init__()
        if channels % NORM_GROUPS:
            raise ValueError(f"temporal layers need channels in multiples of {NORM_GROUPS}, got {channels}")
        layers: list[nn.Module] = []
        for _ in range(depth):
            convolution = FrameConv3d(channels, channels, (3, 1, 1), padding=(1, 0, 0))
            layers += [nn.GroupNorm(NORM_GROUPS, channels), nn.SiLU(), nn.Dropout(dropout), convolution]
        nn.init.zeros_(layers[-1].weight)
        nn.init.zeros_(layers[-1].bias)
        self.convs = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor, num_frames: int) -> torch.Tensor:
        """`[B * F, C, H, W]` to the same shape; a single frame passes unchanged."""
        if num_frames <= 1:
            return x
        count, channels, height, width = x.shape
        places = x.permute(0, 2, 3, 1).reshape(count // num_frames, num_frames, height * width, channels)
        change = self.convs(places.contiguous().permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + change.reshape(count, height, width, channels).permute(0, 3, 1, 2)

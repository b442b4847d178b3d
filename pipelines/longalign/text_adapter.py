"""The small network that brings T5's states to the width a Stable Diffusion U-Net listens to."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention import FeedForward
from torch import nn


class TextAdapter(ModelMixin, ConfigMixin):
    """Two normed feed-forward layers with gated GELU, without residual connections.

    Args:
        in_dim: width of the T5 states (t5-large: 1024).
        int_dim: width between the layers (896).
        out_dim: width of the U-Net's cross-attention (Stable Diffusion 1.x: 768).
    Source: LaVi-Bridge (arXiv 2403.07860), as used by LongAlign (arXiv 2410.11817). Hidden width is four
    times the input's; dropout 0.1 in training; keys as in the published `s28750_adapter`.
    """

    @register_to_config
    def __init__(self, in_dim: int, int_dim: int, out_dim: int) -> None:
        super().__init__()
        self.ff1 = FeedForward(in_dim, int_dim, dropout=0.1, activation_fn="geglu")
        self.ff2 = FeedForward(int_dim, out_dim, dropout=0.1, activation_fn="geglu")
        self.norm1 = nn.LayerNorm(in_dim)
        self.norm2 = nn.LayerNorm(int_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`[..., in_dim]` -> `[..., out_dim]`."""
        return self.ff2(self.norm2(self.ff1(self.norm1(x))))

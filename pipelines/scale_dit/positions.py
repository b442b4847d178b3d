"""Positions of tokens, and the rotary tables made from them."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from diffusers.models.embeddings import get_1d_rotary_pos_embed
from diffusers.utils.torch_utils import maybe_adjust_dtype_for_device
from torch import Tensor

AnchorRule = Literal["centred", "official"]


@dataclass(frozen=True)
class RopeFactors:
    """How rotary frequencies differ from the model's own: angle = position * (theta * ntk)^(-2m/d) / linear.

    Attributes:
        ntk: over 1 slows the lower frequencies down for grids larger than those of training (NTK-aware).
        linear: over 1 slows all of them down by this factor; 0.5 doubles them.
    Raises:
        ValueError: a factor that is not positive.
    """

    ntk: float = 1.0
    linear: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("ntk", self.ntk), ("linear", self.linear)):
            if not value > 0:
                raise ValueError(f"rope factor {name} is {value}; it must be positive")


def anchors(
    grid: tuple[int, int],
    full: tuple[int, int] | None = None,
    *,
    rule: AnchorRule = "centred",
    axes: int = 3,
) -> Tensor:
    """Positions `[rows * columns, axes]` of a token grid, spread over a larger grid when `full` is given.

    Axes 1 and 2 are row and column, the others 0. Token i of n spread over m sits, per axis, at the centre of
    what it shows: `(i + 1/2) m / n - 1/2`, a float ("centred"). "official" is the authors' rule, which
    released weights know: `i k` on both axes with the whole number `k = rows of full // rows of grid`.

    Raises:
        ValueError: an unknown rule.
    """
    if rule not in get_args(AnchorRule):
        raise ValueError(f"anchor rule is {rule!r}; it must be one of {', '.join(get_args(AnchorRule))}")
    full = full or grid
    ids = torch.zeros(*grid, axes)
    if rule == "official":
        stride = full[0] // grid[0]
        rows, columns = (torch.arange(n, dtype=torch.float32) * stride for n in grid)
    else:
        rows, columns = (
            (torch.arange(n, dtype=torch.float32) + 0.5) * m / n - 0.5
            for n, m in zip(grid, full, strict=True)
        )
    ids[..., 1], ids[..., 2] = rows[:, None], columns[None]
    return ids.reshape(-1, axes)


def rotary_table(pos_embed: Any, ids: Tensor, factors: RopeFactors | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines, fp32 `[1 or B, S, 1, D]`, of positions `[S, axes]` or `[B, S, axes]`.

    Args:
        pos_embed: the transformer's position module; its `theta` and `axes_dim` are used.
        factors: default: the model's own frequencies.
    """
    factors = factors or RopeFactors()
    dtype = maybe_adjust_dtype_for_device(torch.float64, ids.device)
    positions = ids.reshape(-1, ids.shape[-1]).float()
    tables = [
        get_1d_rotary_pos_embed(
            dim, positions[:, axis], theta=pos_embed.theta, use_real=True, freqs_dtype=dtype,
            ntk_factor=factors.ntk, linear_factor=factors.linear,
        )
        for axis, dim in enumerate(pos_embed.axes_dim)
    ]  # fmt: skip
    shape = (1 if ids.ndim == 2 else ids.shape[0], ids.shape[-2], 1, -1)
    cos, sin = (torch.cat(parts, -1).float().view(shape) for parts in zip(*tables, strict=True))
    return cos, sin


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (0, 1), (2, 3), ... of `[B, S, H, D]` in fp32."""
    cos, sin = table
    y = x.float()
    turned = torch.stack([-y[..., 1::2], y[..., ::2]], -1).flatten(-2)
    return torch.addcmul(y * cos, turned, sin).to(x.dtype)

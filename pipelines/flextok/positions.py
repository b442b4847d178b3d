"""Position tables and time features."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

SINCOS_PERIOD = 10_000.0
TIME_PERIOD = 256.0
KINDS = ("sincos", "learnable_sum", "learnable_prod")
SCALINGS = ("absolute", "interpolate")


def sincos_table(height: int, width: int, dim: int) -> torch.Tensor:
    """Fixed table `[1, dim, height, width]`: sine and cosine of the row, then of the column, `dim / 4` each.

    Published tables number the cells column by column but store them row by row. For squares that only swaps
    the axes' roles; other shapes come out scrambled, and are built so here too: stored tables hold them.
    """
    cell = torch.arange(height * width)
    first, second = (cell // height).float(), (cell % height).float()
    quarter = dim // 4
    rates = SINCOS_PERIOD ** (-torch.arange(quarter).float() / quarter)
    waves = [wave(axis[:, None] * rates) for axis in (first, second) for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1).T.reshape(1, dim, height, width).contiguous()


def time_features(t: torch.Tensor, size: int, max_timestep: float) -> torch.Tensor:
    """`[B, size]` float32 from times `[B]`: cosines, then sines; the first rate is `1000 / max_timestep`."""
    half = size // 2
    steps = torch.arange(half, dtype=torch.float32, device=t.device)
    rates = 1000.0 / max_timestep * torch.exp(-math.log(TIME_PERIOD) * steps / half)
    angles = t.float()[:, None] * rates
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class PositionTable(nn.Module):
    """Adds what is known about a place to a token: a fixed or learned table over one or two axes.

    Args:
        dim: channels.
        sizes: cells per axis.
        kind: "sincos" (two axes, fixed), "learnable_sum" or "learnable_prod" (a learned vector per axis and
            cell, added or multiplied over the axes).
        scaling: "absolute" uses the table's first cells, "interpolate" stretches it over every size.
    """

    def __init__(self, dim: int, sizes: Sequence[int], kind: str, scaling: str = "absolute") -> None:
        super().__init__()
        if kind not in KINDS or scaling not in SCALINGS:
            raise ValueError(f"position table {kind!r}, {scaling!r}; known: {KINDS} and {SCALINGS}")
        if kind == "sincos" and (len(sizes) != 2 or dim % 4):
            raise ValueError(
                f"a sincos table needs two axes and a multiple of 4 channels, got {sizes}, {dim}"
            )
        self.sizes, self.kind, self.scaling = tuple(sizes), kind, scaling
        if kind == "sincos":
            self.posembs = nn.Parameter(sincos_table(self.sizes[0], self.sizes[1], dim), requires_grad=False)
        else:
            self.posembs = nn.Parameter(torch.randn(len(sizes), 1, dim, max(sizes)) * 0.5)

    def table(self, sizes: Sequence[int]) -> torch.Tensor:
        """`[1, dim, *sizes]`.

        Raises:
            ValueError: more cells than the table has, where it isn't stretched.
        """
        full = self._full()
        if self.scaling == "interpolate":
            if tuple(sizes) == self.sizes:
                return full
            mode = "bilinear" if len(sizes) == 2 else "linear"
            return F.interpolate(full, size=tuple(sizes), mode=mode, align_corners=True)
        if len(sizes) != len(self.sizes) or any(n > most for n, most in zip(sizes, self.sizes, strict=True)):
            raise ValueError(f"{list(sizes)} places were asked for; this model knows {list(self.sizes)}")
        return full[(slice(None), slice(None), *(slice(n) for n in sizes))]

    def _full(self) -> torch.Tensor:
        if self.kind == "sincos":
            return self.posembs
        if len(self.sizes) == 1:
            return self.posembs[0]
        rows = self.posembs[0][..., : self.sizes[0], None]
        columns = self.posembs[1][..., None, : self.sizes[1]]
        return rows + columns if self.kind == "learnable_sum" else rows * columns

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to tokens `[B, *sizes, dim]`."""
        return x + self.table(x.shape[1:-1]).movedim(1, -1).to(x.dtype)

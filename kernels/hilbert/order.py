"""Token orders by name, each with its inverse, cached per grid."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from .curve import generalised_order, hilbert_order
from .windows import window_order

OrderName = Literal["raster", "window_raster", "window_hilbert", "window_tile8", "hilbert"]
ORDER_NAMES: tuple[str, ...] = get_args(OrderName)


@dataclass(frozen=True, eq=False)
class TokenOrder:
    """A permutation of the H*W tokens of a grid.

    Attributes:
        order: int64 `[H*W]`; `sequence = raster[order]`.
        inverse: int64 `[H*W]`; `raster = sequence[inverse]`.
    """

    order: Tensor
    inverse: Tensor

    def to_sequence(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """Reorder raster tokens to sequence order along `dim`."""
        return tokens.index_select(dim, self.order.to(tokens.device))

    def to_raster(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """Reorder tokens in sequence order back to raster order along `dim`."""
        return tokens.index_select(dim, self.inverse.to(tokens.device))


@lru_cache(maxsize=64)
def token_order(
    rows: int, cols: int, name: OrderName = "window_hilbert", window: int | tuple[int, int] = 16
) -> TokenOrder:
    """The named order of a `rows` x `cols` token grid.

    * raster: row by row.
    * window_raster: windows row by row, raster inside (what the Scale-DiT authors generate with).
    * window_hilbert: windows along the generalised Hilbert curve, Hilbert's curve inside each.
    * window_tile8: windows row by row, 8 x 8 tiles inside.
    * hilbert: one curve over the whole grid: Hilbert's on 2^k squares, the generalised one elsewhere (which
      keeps no window contiguous).

    Args:
        window: window side in tokens, or (rows, columns).

    Raises:
        ValueError: unknown name, or a grid or window without a token.
    """
    window_rows, window_cols = (window, window) if isinstance(window, int) else window
    if name == "raster":
        order = torch.arange(rows * cols)
    elif name == "window_raster":
        order = window_order(rows, cols, window_rows, window_cols)
    elif name == "window_hilbert":
        order = window_order(rows, cols, window_rows, window_cols, "hilbert", "curve")
    elif name == "window_tile8":
        order = window_order(rows, cols, window_rows, window_cols, "tiles")
    elif name == "hilbert":
        square = rows == cols and rows & (rows - 1) == 0
        order = hilbert_order(rows, cols) if square else generalised_order(rows, cols)
    else:
        raise ValueError(f"order must be one of {', '.join(ORDER_NAMES)}, got {name!r}")
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(order.numel())
    return TokenOrder(order, inverse)

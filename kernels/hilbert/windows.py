"""Windows of a token grid: their edges, ids and the two-level orders that keep each window contiguous."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from .curve import generalised_order, hilbert_order

Inside = Literal["raster", "hilbert", "hilbert_embedded", "tiles"]
Outside = Literal["raster", "curve"]


def window_edges(length: int, window: int) -> list[int]:
    """Borders of the windows along one side: `[0, window, ..., length]`; the last window may be shorter."""
    if length < 1 or window < 1:
        raise ValueError(f"length and window must be at least 1, got {length} and {window}")
    return [*range(0, length, window), length]


def window_ids(rows: int, cols: int, window_rows: int, window_cols: int) -> Tensor:
    """Raster number of the window that holds each token.

    Returns:
        int64 `[rows * cols]` in raster order of the tokens.
    """
    per_row = -(-cols // window_cols)
    row_ids = torch.arange(rows) // window_rows
    col_ids = torch.arange(cols) // window_cols
    return (row_ids[:, None] * per_row + col_ids[None, :]).reshape(-1)


def window_order(
    rows: int,
    cols: int,
    window_rows: int,
    window_cols: int,
    inside: Inside = "raster",
    outside: Outside = "raster",
    tile: tuple[int, int] = (8, 8),
) -> Tensor:
    """Two-level order: windows one after the other, tokens of each window in one contiguous run.

    Args:
        rows, cols: the grid; sides need not be multiples of the window (edge windows are smaller).
        window_rows, window_cols: window size in tokens.
        inside: order of the tokens within a window. "hilbert" is Hilbert's curve where the (possibly cut)
            window is a 2^k square and the generalised curve elsewhere; "hilbert_embedded" always cuts the
            enclosing 2^k square, as the authors' notebook does; "tiles" visits `tile`-sized pieces in raster
            order.
        outside: order of the windows: "raster" or "curve" (generalised Hilbert curve on the window grid).
        tile: rows and columns of a piece for `inside="tiles"`.

    Returns:
        int64 `[rows * cols]`: `order[k]` is the raster index of sequence position k.
    """
    row_edges, col_edges = window_edges(rows, window_rows), window_edges(cols, window_cols)
    down, across = len(row_edges) - 1, len(col_edges) - 1
    windows = generalised_order(down, across) if outside == "curve" else torch.arange(down * across)
    runs = []
    for number in windows.tolist():
        top, left = row_edges[number // across], col_edges[number % across]
        height = row_edges[number // across + 1] - top
        width = col_edges[number % across + 1] - left
        local = _inside_order(height, width, inside, tile)
        runs.append((top + local // width) * cols + left + local % width)
    return torch.cat(runs)


@lru_cache(maxsize=256)
def _inside_order(rows: int, cols: int, inside: Inside, tile: tuple[int, int]) -> Tensor:
    if inside == "raster":
        return torch.arange(rows * cols)
    if inside == "hilbert":
        square = rows == cols and rows & (rows - 1) == 0
        return hilbert_order(rows, cols) if square else generalised_order(rows, cols)
    if inside == "hilbert_embedded":
        return hilbert_order(rows, cols)
    if inside == "tiles":
        return window_order(rows, cols, tile[0], tile[1])
    raise ValueError(f"inside must be raster, hilbert, hilbert_embedded or tiles, got {inside!r}")

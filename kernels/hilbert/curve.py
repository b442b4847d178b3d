"""Hilbert's curve on squares of side 2^k and a generalised curve on any rectangle.

Both visit every cell once. The square curve keeps every aligned 2^j x 2^j square in one contiguous run; the
generalised one does not, and is meant for ordering windows or edge pieces.
"""

from __future__ import annotations

import torch
from torch import Tensor


def hilbert_index(rows: Tensor, cols: Tensor, side: int) -> Tensor:
    """Position of cells along the Hilbert curve of a `side` x `side` square.

    Args:
        rows, cols: int64 tensors of one shape, values in [0, side).
        side: a power of two.

    Returns:
        int64 tensor of that shape, values in [0, side^2). Cell (0, 0) has position 0; on a 4 x 4 square the
        curve begins (0,0), (1,0), (1,1), (0,1), (0,2), as in the Scale-DiT authors' mask notebook.

    Raises:
        ValueError: `side` is not a power of two.
    """
    if side < 1 or side & (side - 1):
        raise ValueError(f"side must be a power of two, got {side}")
    x, y = rows.clone(), cols.clone()
    distance = torch.zeros_like(x)
    half = side // 2
    while half > 0:
        low_half_x = (x & half) == 0
        low_half_y = (y & half) == 0
        quadrant = (3 * (~low_half_x).long()) ^ (~low_half_y).long()
        distance += half * half * quadrant
        # The two quadrants at y < half are traversed transposed; the far one also turned by 180 degrees.
        turned = low_half_y & ~low_half_x
        x = torch.where(turned, half - 1 - x, x)
        y = torch.where(turned, half - 1 - y, y)
        x, y = torch.where(low_half_y, y, x), torch.where(low_half_y, x, y)
        half //= 2
    return distance


def hilbert_order(rows: int, cols: int) -> Tensor:
    """Raster indices of a `rows` x `cols` grid along Hilbert's curve of the smallest enclosing 2^k square.

    On a 2^k square all steps are unit steps. Elsewhere cells outside the grid are dropped, which leaves jumps
    (the authors' notebook does the same); `generalised_order` has none.

    Returns:
        int64 `[rows * cols]`: `order[k]` is the raster index of the k-th visited cell.
    """
    _check_grid(rows, cols)
    side = 1 << (max(rows, cols) - 1).bit_length()
    cells = torch.arange(rows * cols)
    return torch.argsort(hilbert_index(cells // cols, cells % cols, side))


def generalised_order(rows: int, cols: int) -> Tensor:
    """Raster indices of any `rows` x `cols` grid along a generalised Hilbert curve.

    Starts at (0, 0) and runs along the longer side. Every step is a unit step, except for at most one
    diagonal step, which is possible only when the longer side is odd and the shorter even.

    Returns:
        int64 `[rows * cols]`: `order[k]` is the raster index of the k-th visited cell.
    """
    _check_grid(rows, cols)
    cells: list[int] = []
    if cols >= rows:
        _walk(cells, cols, (0, 0), (0, cols), (rows, 0))
    else:
        _walk(cells, cols, (0, 0), (rows, 0), (0, cols))
    return torch.tensor(cells, dtype=torch.int64)


_Vector = tuple[int, int]


def _walk(cells: list[int], stride: int, start: _Vector, major: _Vector, minor: _Vector) -> None:
    """Append the cells of the rectangle spanned by `major` and `minor` (row, column vectors) from `start`."""
    (row, col), (a_row, a_col), (b_row, b_col) = start, major, minor
    width, height = abs(a_row + a_col), abs(b_row + b_col)
    step_a, step_b = _unit(major), _unit(minor)
    if height == 1 or width == 1:
        step = step_a if height == 1 else step_b
        for k in range(max(width, height)):
            cells.append((row + k * step[0]) * stride + col + k * step[1])
        return
    # Python's floor division matters here: halves of negative vectors round away from zero.
    half_a, half_b = (a_row // 2, a_col // 2), (b_row // 2, b_col // 2)
    if 2 * width > 3 * height:
        if abs(half_a[0] + half_a[1]) % 2 and width > 2:
            half_a = (half_a[0] + step_a[0], half_a[1] + step_a[1])
        rest_a = (a_row - half_a[0], a_col - half_a[1])
        _walk(cells, stride, start, half_a, minor)
        _walk(cells, stride, (row + half_a[0], col + half_a[1]), rest_a, minor)
        return
    if abs(half_b[0] + half_b[1]) % 2 and height > 2:
        half_b = (half_b[0] + step_b[0], half_b[1] + step_b[1])
    rest_a = (a_row - half_a[0], a_col - half_a[1])
    rest_b = (b_row - half_b[0], b_col - half_b[1])
    last_row = row + a_row - step_a[0] + half_b[0] - step_b[0]
    last_col = col + a_col - step_a[1] + half_b[1] - step_b[1]
    _walk(cells, stride, start, half_b, half_a)
    _walk(cells, stride, (row + half_b[0], col + half_b[1]), major, rest_b)
    _walk(cells, stride, (last_row, last_col), (-half_b[0], -half_b[1]), (-rest_a[0], -rest_a[1]))


def _unit(vector: _Vector) -> _Vector:
    return ((vector[0] > 0) - (vector[0] < 0), (vector[1] > 0) - (vector[1] < 0))


def _check_grid(rows: int, cols: int) -> None:
    if rows < 1 or cols < 1:
        raise ValueError(f"a grid needs at least one row and one column, got {rows} x {cols}")

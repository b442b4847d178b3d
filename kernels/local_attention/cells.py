"""Which low-res tokens belong to which part of the image.

The image is cut into cells; a guide token lies in one cell, and an image token sees the guide tokens of the
cells near its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

Reach = Literal["all", "radius"]


@dataclass(frozen=True, eq=False)
class GuideCells:
    """Cells of image and guide tokens, and which cells see each other.

    Attributes:
        image_rows, image_cols: int64 `[rows]` and `[columns]` of the image grid: each line's cell coordinate.
        of_image: int64 `[image tokens]` in raster order: cell number.
        of_guide: int64 `[guide tokens]` in raster order: cell number.
        visible: bool `[cells, cells]`: image cell (row) sees guide cell (column).
        across: cells per row; cell numbers are row * across + column.
    """

    image_rows: Tensor
    image_cols: Tensor
    of_image: Tensor
    of_guide: Tensor
    visible: Tensor
    across: int


@lru_cache(maxsize=32)
def guide_cells(grid: tuple[int, int], guide_grid: tuple[int, int], window: int, rule: str) -> GuideCells:
    """Cells for `rule` "aligned", "neighbours" or "upstream_raster1".

    For the first two a cell is an image window, and a guide token belongs to the window under its centre:
    with ratio R per axis the centre of guide row v lies at image row (v + 1/2) R. For "upstream_raster1"
    sizes are whole-number divisions as in the authors' mask notebook.
    """
    if rule == "upstream_raster1":
        return _raster_cells(grid, guide_grid, window)
    lines = []
    for length, guide_length in zip(grid, guide_grid, strict=True):
        centres = (torch.arange(guide_length, dtype=torch.float64) + 0.5) * (length / guide_length)
        lines.append((torch.arange(length) // window, (centres / window).long()))
    (image_rows, guide_rows), (image_cols, guide_cols) = lines
    down, across = int(image_rows[-1]) + 1, int(image_cols[-1]) + 1
    reach = 1 if rule == "neighbours" else 0
    near_rows = (torch.arange(down)[:, None] - torch.arange(down)).abs() <= reach
    near_cols = (torch.arange(across)[:, None] - torch.arange(across)).abs() <= reach
    visible = near_rows[:, None, :, None] & near_cols[None, :, None, :]
    return GuideCells(
        image_rows,
        image_cols,
        _numbers(image_rows, image_cols, across),
        _numbers(guide_rows, guide_cols, across),
        visible.reshape(down * across, down * across),
        across,
    )


def _raster_cells(grid: tuple[int, int], guide_grid: tuple[int, int], window: int) -> GuideCells:
    image_lines, guide_lines = [], []
    for length, guide_length in zip(grid, guide_grid, strict=True):
        ratio = max(length // guide_length, 1)
        side = max(window // ratio, 1)
        image_lines.append(torch.arange(length) // ratio // side)
        guide_lines.append(torch.arange(guide_length) // side)
    across = int(guide_lines[1][-1]) + 1
    of_image = _numbers(image_lines[0], image_lines[1], across)
    of_guide = _numbers(guide_lines[0], guide_lines[1], across)
    count = int(torch.maximum(of_image.max(), of_guide.max())) + 1
    visible = (torch.arange(count)[:, None] - torch.arange(count)).abs() <= 1
    return GuideCells(image_lines[0], image_lines[1], of_image, of_guide, visible, across)


def _numbers(rows: Tensor, cols: Tensor, across: int) -> Tensor:
    return (rows[:, None] * across + cols[None, :]).reshape(-1)

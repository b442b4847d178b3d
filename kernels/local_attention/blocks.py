"""Block maps: which (query block, key block) pairs hold at least one visible pair of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from .layout import AttentionLayout


@dataclass(frozen=True, eq=False)
class BlockMap:
    """Compressed rows of a boolean block matrix.

    Attributes:
        offsets: int32 `[query blocks + 1]`; row i holds `indices[offsets[i]:offsets[i + 1]]`.
        indices: int32, ascending key blocks of each row.
        shape: number of query blocks and key blocks; the last of each may be cut by the end of the sequence.
    """

    offsets: Tensor
    indices: Tensor
    shape: tuple[int, int]

    @property
    def count(self) -> int:
        """Number of blocks that are computed."""
        return self.indices.numel()

    def dense(self) -> Tensor:
        """The matrix itself: bool `[query blocks, key blocks]`."""
        rows = torch.repeat_interleave(torch.arange(self.shape[0]), self.offsets.diff().long())
        matrix = torch.zeros(self.shape, dtype=torch.bool)
        matrix[rows, self.indices.long()] = True
        return matrix


@lru_cache(maxsize=16)
def block_map(layout: AttentionLayout, block: tuple[int, int]) -> BlockMap:
    """Block map of a layout, closed form per pair of segments: never a `[length, length]` mask.

    Raises:
        ValueError: the layout is dilated to blocks that `block` does not divide (a larger block would widen
            what the layout lets a query see).
    """
    if layout.dilate is None or block == layout.dilate:
        matrix = _matrix(layout, *block)
    else:
        wide, high = layout.dilate[1] // block[1], layout.dilate[0] // block[0]
        if (high * block[0], wide * block[1]) != layout.dilate:
            raise ValueError(f"block {block} must divide the layout's dilation {layout.dilate}")
        coarse = _matrix(layout, *layout.dilate)
        rows, cols = -(-layout.length // block[0]), -(-layout.length // block[1])
        matrix = coarse.repeat_interleave(high, 0)[:rows].repeat_interleave(wide, 1)[:, :cols]
    offsets = torch.zeros(matrix.shape[0] + 1, dtype=torch.int32)
    offsets[1:] = matrix.sum(1).cumsum(0)
    return BlockMap(offsets, matrix.nonzero()[:, 1].int(), (matrix.shape[0], matrix.shape[1]))


def _matrix(layout: AttentionLayout, query_block: int, key_block: int) -> Tensor:
    tokens = torch.arange(layout.length)
    query_ids, key_ids = tokens // query_block, tokens // key_block
    matrix = torch.zeros(int(query_ids[-1]) + 1, int(key_ids[-1]) + 1, dtype=torch.bool)
    text, image = slice(0, layout.text), slice(layout.text, layout.text + layout.image)
    guide = slice(image.stop, layout.length)

    def connect(queries: slice, keys: slice, connected: bool = True) -> None:
        rows, cols = query_ids[queries], key_ids[keys]
        if connected and rows.numel() and cols.numel():
            matrix[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1] = True

    connect(text, text)
    connect(text, image)
    connect(text, guide, layout.text_to_guide)
    connect(image, text)
    connect(image, guide, layout.image_to_guide == "all")
    connect(guide, text, layout.guide_to_text)
    connect(guide, guide, layout.guide_to_guide == "all")
    inverse = layout.image_order.inverse + layout.text
    _connect_local(matrix, layout, query_ids[inverse], key_ids[inverse])
    if layout.guide_grid is not None:
        guide_inverse = layout.guide_order.inverse + guide.start
        if layout.image_to_guide not in ("all", "none"):
            cells = layout.guide_cells
            _connect_cells(
                matrix,
                query_ids[inverse],
                key_ids[guide_inverse],
                cells.of_image,
                cells.of_guide,
                cells.visible,
            )
        if layout.guide_to_guide == "radius":
            _connect_near(
                matrix,
                query_ids[guide_inverse].view(layout.guide_grid),
                key_ids[guide_inverse].view(layout.guide_grid),
                layout.guide_radius,
            )
    return matrix


def _connect_local(matrix: Tensor, layout: AttentionLayout, query_ids: Tensor, key_ids: Tensor) -> None:
    """Connect image blocks; ids are block numbers of the image tokens in raster order."""
    if layout.local == "radius":
        _connect_near(matrix, query_ids.view(layout.grid), key_ids.view(layout.grid), layout.radius)
        return
    rows, cols = layout.grid
    row_windows, col_windows = torch.arange(rows) // layout.window, torch.arange(cols) // layout.window
    down, across = int(row_windows[-1]) + 1, int(col_windows[-1]) + 1
    windows = (row_windows[:, None] * across + col_windows).reshape(-1)
    numbers = torch.arange(down * across)
    reach = 0 if layout.local == "own" else 1
    visible = (numbers[:, None] // across - numbers // across).abs() <= reach
    visible &= (numbers[:, None] % across - numbers % across).abs() <= reach
    _connect_cells(matrix, query_ids, key_ids, windows, windows, visible)


def _connect_near(matrix: Tensor, query_ids: Tensor, key_ids: Tensor, radius: int) -> None:
    """Connect blocks of tokens at a Chebyshev distance of at most `radius`; ids are `[rows, columns]`.

    Query blocks are compact, so each is grown by the radius inside its own bounding box.
    """
    rows, cols = query_ids.shape
    flat = query_ids.reshape(-1)
    sequence = torch.argsort(flat, stable=True)
    numbers, counts = torch.unique_consecutive(flat[sequence], return_counts=True)
    for number, tokens in zip(numbers.tolist(), sequence.split(counts.tolist()), strict=True):
        row, col = tokens // cols, tokens % cols
        top, left = max(int(row.min()) - radius, 0), max(int(col.min()) - radius, 0)
        bottom, right = min(int(row.max()) + radius + 1, rows), min(int(col.max()) + radius + 1, cols)
        near = torch.zeros(1, 1, bottom - top, right - left)
        near[0, 0, row - top, col - left] = 1
        for side in ((2 * radius + 1, 1), (1, 2 * radius + 1)):
            near = F.max_pool2d(near, side, stride=1, padding=(side[0] // 2, side[1] // 2))
        matrix[number, key_ids[top:bottom, left:right][near[0, 0] > 0]] = True


def _connect_cells(
    matrix: Tensor,
    query_ids: Tensor,
    key_ids: Tensor,
    query_cells: Tensor,
    key_cells: Tensor,
    visible: Tensor,
) -> None:
    """Connect blocks whose tokens lie in cells that see each other."""
    of_query = torch.zeros(matrix.shape[0], visible.shape[0])
    of_query[query_ids, query_cells] = 1
    of_key = torch.zeros(visible.shape[1], matrix.shape[1])
    of_key[key_cells, key_ids] = 1
    matrix |= (of_query @ visible.float() @ of_key) > 0

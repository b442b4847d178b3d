"""Tile plans: a layout turned into small dense attention problems that cover exactly its visible pairs.

A tile is a rectangle of queries with the rectangle of keys around it. Tiles of one shape form a group with
one mask, so nothing ever grows with the square of the sequence. Keys that all queries of a group share (text,
or the whole guide) are kept as ranges and never copied per tile.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .layout import AttentionLayout

Range = tuple[int, int]

# Sides of a query tile. With a reach of 8, 8 gives 24 x 24 keys for 64 queries and 16 gives 32 x 32 for 256:
# fewer scores, or larger products. A back end chooses (README.md has the measurements).
SMALL_TILE = 8
LARGE_TILE = 16
# Shared keys up to this number ride along in every tile; more are attended in a call of their own and merged.
_INLINE_SHARED = 256


@dataclass(frozen=True, eq=False)
class TileGroup:
    """Tiles of one shape. Row numbers are positions in the whole sequence.

    Attributes:
        queries: int32 `[tiles, queries per tile]`.
        keys: int32 `[tiles, keys per tile]`; may have no column.
        mask: bool `[queries per tile, keys per tile]`, True = visible, one for all tiles; None: all visible.
        shared: ranges of keys that every query of the group sees as well.
        is_own: each tile is a run of neighbours in the sequence and its keys are itself: nothing to gather.
    """

    queries: Tensor
    keys: Tensor
    mask: Tensor | None
    shared: tuple[Range, ...] = ()
    is_own: bool = False


@dataclass(frozen=True, eq=False)
class RowBlock:
    """Queries `start:stop` that see exactly the keys of `shared` (text rows, and guide rows that see all)."""

    start: int
    stop: int
    shared: tuple[Range, ...]


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Everything one call has to compute; each query is in exactly one row block or tile.

    Attributes:
        rows, tiles: queries of text and image.
        guide_rows, guide_tiles: queries of the guide, left out when its keys and values come from a cache.
        length: number of tokens.
    """

    rows: tuple[RowBlock, ...]
    tiles: tuple[TileGroup, ...]
    guide_rows: tuple[RowBlock, ...]
    guide_tiles: tuple[TileGroup, ...]
    length: int

    def row_blocks(self, with_guide: bool) -> tuple[RowBlock, ...]:
        return self.rows + self.guide_rows if with_guide else self.rows

    def tile_groups(self, with_guide: bool) -> tuple[TileGroup, ...]:
        return self.tiles + self.guide_tiles if with_guide else self.tiles

    def keys_per_query(self) -> Tensor:
        """Visible keys of each query: int64 `[length]`."""
        counts = torch.zeros(self.length, dtype=torch.int64)
        for block in self.row_blocks(True):
            counts[block.start : block.stop] = _size(block.shared)
        for group in self.tile_groups(True):
            local = torch.full((group.queries.shape[1],), group.keys.shape[1])
            if group.mask is not None:
                local = group.mask.sum(1)
            counts[group.queries.long()] = local + _size(group.shared)
        return counts

    def scores(self) -> int:
        """Number of (query, key) scores that are computed, masked ones included."""
        total = sum((block.stop - block.start) * _size(block.shared) for block in self.row_blocks(True))
        for group in self.tile_groups(True):
            total += group.queries.numel() * (group.keys.shape[1] + _size(group.shared))
        return total


@lru_cache(maxsize=16)
def tile_plan(layout: AttentionLayout, side: int = SMALL_TILE) -> TilePlan:
    """The plan of a layout, cached. `side` is that of the query tiles under `local="radius"`."""
    return _block_plan(layout) if layout.dilate is not None else _exact_plan(layout, side)


def _exact_plan(layout: AttentionLayout, tile: int) -> TilePlan:
    image_end = layout.text + layout.image
    text, image, guide = (0, layout.text), (layout.text, image_end), (image_end, layout.length)
    rows, guide_rows, guide_tiles = [], [], []
    if layout.text:
        rows.append(RowBlock(0, layout.text, _ranges(text, image, guide if layout.text_to_guide else (0, 0))))
    shared = _ranges(text, guide if layout.image_to_guide == "all" else (0, 0))
    tiles = _image_tiles(layout, shared, tile)
    seen_text = text if layout.guide_to_text else (0, 0)
    if layout.guide_grid is not None and layout.guide_to_guide == "all":
        guide_rows.append(RowBlock(*guide, _ranges(seen_text, guide)))
    elif layout.guide_grid is not None:
        lines = [
            _radius_pieces(length, layout.guide_radius, [0, length], SMALL_TILE)
            for length in layout.guide_grid
        ]
        inverse = layout.guide_order.inverse + image_end
        guide_tiles = _groups(lines[0], lines[1], inverse.view(layout.guide_grid), _ranges(seen_text))
    return TilePlan(tuple(rows), tuple(tiles), tuple(guide_rows), tuple(guide_tiles), layout.length)


class _Piece(NamedTuple):
    """Queries `start:stop` along one side and their keys `low:high`; `cell` numbers its guide cell."""

    start: int
    stop: int
    low: int
    high: int
    reach: int | None
    cell: int = 0

    def shape(self) -> tuple[int, int, int]:
        return self.stop - self.start, self.high - self.low, self.start - self.low

    def mask(self) -> Tensor:
        """bool `[queries, keys]` along this side."""
        if self.reach is None:
            return torch.ones(self.stop - self.start, self.high - self.low, dtype=torch.bool)
        queries, keys = torch.arange(self.start, self.stop), torch.arange(self.low, self.high)
        return (queries[:, None] - keys).abs() <= self.reach


def _cut(borders: list[int], side: int) -> Iterator[Range]:
    for low, high in zip(borders[:-1], borders[1:], strict=True):
        for start in range(low, high, side):
            yield start, min(start + side, high)


def _radius_pieces(length: int, radius: int, borders: list[int], side: int) -> list[_Piece]:
    return [
        _Piece(start, stop, max(start - radius, 0), min(stop + radius, length), radius)
        for start, stop in _cut(borders, side)
    ]


def _window_pieces(length: int, window: int, around: int, borders: list[int]) -> list[_Piece]:
    pieces = []
    for start, stop in _cut(borders, LARGE_TILE):
        number = start // window
        low, high = max(number - around, 0) * window, min((number + around + 1) * window, length)
        pieces.append(_Piece(start, stop, low, high, None))
    return pieces


def _image_tiles(layout: AttentionLayout, shared: tuple[Range, ...], tile: int) -> list[TileGroup]:
    guided = layout.guide_grid is not None and layout.image_to_guide not in ("all", "none")
    lines = []
    for axis, length in enumerate(layout.grid):
        borders = {0, length}
        cells = None
        if guided:
            cells = (layout.guide_cells.image_rows, layout.guide_cells.image_cols)[axis]
            borders |= set((cells.diff().nonzero()[:, 0] + 1).tolist())
        if layout.local == "radius":
            pieces = _radius_pieces(length, layout.radius, sorted(borders), tile)
        else:
            borders |= set(range(0, length, layout.window))
            pieces = _window_pieces(length, layout.window, int(layout.local == "ring"), sorted(borders))
        if cells is not None:
            pieces = [piece._replace(cell=int(cells[piece.start])) for piece in pieces]
        lines.append(pieces)
    rows = (layout.image_order.inverse + layout.text).view(layout.grid)
    # Windows that see themselves alone need no gathering, which text beside them would undo.
    alone = layout.local == "own" and not guided
    return _groups(lines[0], lines[1], rows, shared, _GuideRows(layout) if guided else None, not alone)


class _GuideRows:
    """Sequence positions of the guide tokens that the image tokens of a cell see."""

    def __init__(self, layout: AttentionLayout) -> None:
        self.cells = layout.guide_cells
        self.cols = layout.grid[1]
        self.positions = layout.guide_order.inverse + layout.text + layout.image
        self.cache: dict[int, Tensor] = {}

    def of(self, down: _Piece, right: _Piece) -> Tensor:
        number = int(self.cells.of_image[down.start * self.cols + right.start])
        if number not in self.cache:
            seen = self.cells.visible[number][self.cells.of_guide]
            self.cache[number] = self.positions[seen]
        return self.cache[number]


def _groups(
    down: list[_Piece],
    right: list[_Piece],
    positions: Tensor,
    shared: tuple[Range, ...],
    guide: _GuideRows | None = None,
    may_inline: bool = True,
) -> list[TileGroup]:
    """Tiles of all pairs of pieces, by shape; `positions` `[rows, columns]` are sequence positions."""
    inline = shared if may_inline and _size(shared) <= _INLINE_SHARED else ()
    common = torch.cat([torch.arange(0), *(torch.arange(*part) for part in inline)])
    grouped: dict[tuple, list[tuple[Tensor, Tensor]]] = defaultdict(list)
    first: dict[tuple, tuple[_Piece, _Piece]] = {}
    for row in down:
        for col in right:
            extra = common if guide is None else torch.cat([guide.of(row, col), common])
            shape = (row.shape(), col.shape(), extra.numel())
            queries = positions[row.start : row.stop, col.start : col.stop].reshape(-1)
            keys = positions[row.low : row.high, col.low : col.high].reshape(-1)
            grouped[shape].append((queries, torch.cat([keys, extra])))
            first.setdefault(shape, (row, col))
    result = []
    for shape, tiles in grouped.items():
        # Along the sequence, so that neighbouring tiles find their keys in the cache.
        tiles.sort(key=lambda tile: int(tile[0].min()))
        row, col = first[shape]
        mask = torch.kron(row.mask().byte(), col.mask().byte()).bool()
        mask = torch.cat([mask, mask.new_ones(mask.shape[0], shape[2])], 1)
        queries = torch.stack([tile[0] for tile in tiles]).int()
        keys = torch.stack([tile[1] for tile in tiles]).int()
        if not bool(mask.all()):
            result.append(TileGroup(queries, keys, mask, () if inline else shared))
            continue
        # Without a mask the order inside a tile is free, and in sequence order a window is one run.
        queries, keys = queries.sort(1).values, keys.sort(1).values
        is_own = torch.equal(queries, keys) and bool((queries.diff(dim=1) == 1).all())
        result.append(TileGroup(queries, keys, None, () if inline else shared, is_own))
    return result


def _block_plan(layout: AttentionLayout) -> TilePlan:
    """Plan of a dilated layout: query blocks with equally many keys form a group; no mask is needed."""
    assert layout.dilate is not None
    query_block, key_block = layout.dilate
    matrix = layout.block_map().dense()
    image_end = layout.text + layout.image
    rows: tuple[list[RowBlock], list[RowBlock]] = ([], [])
    grouped: tuple[dict, dict] = (defaultdict(list), defaultdict(list))
    for number, blocks in enumerate(matrix):
        visible = blocks.repeat_interleave(key_block)[: layout.length].nonzero()[:, 0]
        start, end = number * query_block, min((number + 1) * query_block, layout.length)
        # A block across the end of the image is cut there: the guide's half is optional.
        for kind, (low, high) in enumerate(((start, min(end, image_end)), (max(start, image_end), end))):
            if low >= high:
                continue
            if visible.numel() > layout.length // 2 and int(visible[-1]) + 1 == visible.numel():
                rows[kind].append(RowBlock(low, high, ((0, visible.numel()),)))
            else:
                grouped[kind][high - low, visible.numel()].append((torch.arange(low, high), visible))
    groups = [
        tuple(
            TileGroup(
                torch.stack([q for q, _ in tiles]).int(), torch.stack([k for _, k in tiles]).int(), None
            )
            for tiles in kind.values()
        )
        for kind in grouped
    ]
    return TilePlan(_joined(rows[0]), groups[0], _joined(rows[1]), groups[1], layout.length)


def _joined(blocks: list[RowBlock]) -> tuple[RowBlock, ...]:
    """Neighbouring row blocks with the same keys become one."""
    joined: list[RowBlock] = []
    for block in blocks:
        if joined and joined[-1].stop == block.start and joined[-1].shared == block.shared:
            block = RowBlock(joined.pop().start, block.stop, block.shared)
        joined.append(block)
    return tuple(joined)


def _ranges(*ranges: Range) -> tuple[Range, ...]:
    """The non-empty ranges, joined where they touch."""
    kept: list[Range] = []
    for start, stop in ranges:
        if start == stop:
            continue
        if kept and kept[-1][1] == start:
            start = kept.pop()[0]
        kept.append((start, stop))
    return tuple(kept)


def _size(ranges: tuple[Range, ...]) -> int:
    return sum(stop - start for start, stop in ranges)

"""A layout for block-sparse kernels: compressed rows of full blocks, and of partial blocks with bit masks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .visibility import VISIBLE, visibility

if TYPE_CHECKING:
    from .layout import AttentionLayout

# Pairs whose visibility is evaluated at once.
_PAIRS = 1 << 18
MAX_KEY_BLOCK = 64  # one bit per key in an int64


@dataclass(frozen=True, eq=False)
class BlockLists:
    """Key blocks of every query block; together they cover the visible pairs and nothing else.

    Attributes:
        block: (queries, keys) per block; keys at most 64.
        full_offsets, full_indices: int32 compressed rows of the blocks in which every pair is visible.
        part_offsets, part_indices: int32 compressed rows of the others. The last key block counts as one of
            these when the sequence ends inside it.
        part_masks: int32, for each partial block its row of `masks` and `seen`.
        masks: int64 `[patterns, queries per block]`: bit n of word m is set when query m sees key n.
        seen: int64 `[patterns]`: bit n is set when any query of the block sees key n. Other keys need not be
            read, and those past the end of the sequence never are.
        order: int32 `[query blocks]`: query blocks by falling number of key blocks; long ones start first.
    """

    block: tuple[int, int]
    full_offsets: Tensor
    full_indices: Tensor
    part_offsets: Tensor
    part_indices: Tensor
    part_masks: Tensor
    masks: Tensor
    seen: Tensor
    order: Tensor

    def to(self, device: torch.device | str) -> BlockLists:
        tensors = {name: x.to(device) for name, x in vars(self).items() if isinstance(x, Tensor)}
        return replace(self, **tensors)


@lru_cache(maxsize=16)
def block_lists(
    layout: AttentionLayout, block: tuple[int, int] = (128, 64), rows: int | None = None
) -> BlockLists:
    """Lists of a layout, on the CPU, cached. Any block size is exact, also under another dilation.

    Args:
        rows: only the first so many queries ask for keys; None: all.

    Raises:
        ValueError: blocks of less than 1 query, or of keys outside of 1 to 64.
    """
    if block[0] < 1 or not 1 <= block[1] <= MAX_KEY_BLOCK:
        raise ValueError(
            f"block must be at least 1 query and 1 to {MAX_KEY_BLOCK} keys, got {block[0]} x {block[1]}"
        )
    rows = layout.length if rows is None else rows
    count = -(-rows // block[0])
    queries, keys = (x.int() for x in _candidates(layout, block)[:count].nonzero().unbind(1))
    full = _uniform(layout, block, rows)[queries.long(), keys.long()]
    open_queries, open_keys = queries[~full], keys[~full]
    masks, complete, some = _evaluate(layout, block, rows, (open_queries, open_keys))
    full[~full] = complete
    # A candidate may hold no visible pair: blocks that do not divide a dilation are found roughly.
    partial = some & ~complete
    patterns, numbers = torch.unique(masks[partial], dim=0, return_inverse=True)
    full_offsets = _offsets(queries[full], count)
    part_offsets = _offsets(open_queries[partial], count)
    work = full_offsets.diff() + part_offsets.diff()
    return BlockLists(
        block,
        full_offsets,
        keys[full].contiguous(),
        part_offsets,
        open_keys[partial].contiguous(),
        numbers.int(),
        patterns,
        _any_row(patterns),
        torch.argsort(work, descending=True, stable=True).int(),
    )


@lru_cache(maxsize=16)
def block_lists_on(layout: AttentionLayout, block: tuple[int, int], rows: int, device: str) -> BlockLists:
    """The same lists on a device, copied once."""
    return block_lists(layout, block, rows).to(device)


def _offsets(rows: Tensor, count: int) -> Tensor:
    offsets = torch.zeros(count + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(rows, minlength=count).cumsum(0)
    return offsets


def _candidates(layout: AttentionLayout, block: tuple[int, int]) -> Tensor:
    """bool `[query blocks, key blocks]`: at least those that hold a visible pair."""
    dilate = layout.dilate
    if dilate is None or _divides(block, dilate):
        return layout.block_map(block).dense()
    coarse = layout.block_map().dense().float()
    rows = _overlap(layout.length, block[0], dilate[0])
    cols = _overlap(layout.length, block[1], dilate[1])
    return (rows @ coarse @ cols.T) > 0


def _divides(block: tuple[int, int], dilate: tuple[int, int]) -> bool:
    return dilate[0] % block[0] == 0 and dilate[1] % block[1] == 0


def _overlap(length: int, fine: int, coarse: int) -> Tensor:
    """fp32 `[fine blocks, coarse blocks]`: 1 where they share a position."""
    shared = torch.zeros(-(-length // fine), -(-length // coarse))
    positions = torch.arange(length)
    shared[positions // fine, positions // coarse] = 1
    return shared


def _uniform(layout: AttentionLayout, block: tuple[int, int], rows: int) -> Tensor:
    """bool `[query blocks, key blocks]`: blocks of which it is known at once that every pair is visible.

    Of a candidate, that is; said of the other blocks it means nothing.
    """
    kinds = []
    for axis, size in enumerate(block):
        padded = torch.full((-(-layout.length // size) * size,), -1, dtype=torch.int32)
        padded[: layout.length] = visibility(layout).kinds
        if axis == 0:  # queries past the last row ask for nothing
            padded[rows:] = padded[rows - 1].clone()
        parts = padded.view(-1, size)
        kinds.append(torch.where((parts == parts[:, :1]).all(1), parts[:, 0], -1).long())
    if layout.dilate is not None:
        whole = torch.arange(1, len(kinds[1]) + 1) * block[1] <= layout.length
        return (whole & _divides(block, layout.dilate)).expand(len(kinds[0]), -1)
    rule = torch.tensor(visibility(layout).rules)[kinds[0][:, None], kinds[1]]
    return (rule == VISIBLE) & (kinds[0][:, None] >= 0) & (kinds[1] >= 0)


def _evaluate(
    layout: AttentionLayout, block: tuple[int, int], rows: int, blocks: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Bit masks `[blocks, queries]` of some blocks, which are complete, and which hold a visible pair.

    Args:
        blocks: numbers of their query blocks and of their key blocks.
    """
    alike = _signatures(layout, block, rows, blocks)
    count = int(alike.max()) + 1 if alike.numel() else 0
    example = torch.zeros(count, dtype=torch.int64)
    example[alike] = torch.arange(alike.numel())
    high, wide = block
    bits = torch.ones(1, dtype=torch.int64) << torch.arange(wide)
    masks = torch.empty(count, high, dtype=torch.int64)
    complete = torch.empty(count, dtype=torch.bool)
    step = max(1, _PAIRS // (high * wide))
    for start in range(0, count, step):
        part = slice(start, start + step)
        queries = blocks[0][example[part], None] * high + torch.arange(high, dtype=torch.int32)
        keys = blocks[1][example[part], None] * wide + torch.arange(wide, dtype=torch.int32)
        visible = visibility(layout).visible(
            queries.clamp(max=rows - 1)[:, :, None], keys.clamp(max=layout.length - 1)[:, None, :]
        )
        visible &= (keys < layout.length)[:, None, :]
        inside = (queries < rows)[:, :, None]
        complete[part] = (visible | ~inside).flatten(1).all(1)
        masks[part] = ((visible & inside).long() * bits).sum(-1)
    return masks[alike], complete[alike], (masks != 0).any(1)[alike]


def _signatures(
    layout: AttentionLayout, block: tuple[int, int], rows: int, blocks: tuple[Tensor, Tensor]
) -> Tensor:
    """int64 `[blocks]`: equal numbers have equal masks, since only distances and kinds decide.

    At 4096 x 4096 px seven thousand blocks have 1,800 numbers.
    """
    if layout.dilate is not None:
        return torch.arange(blocks[0].numel())
    seen, columns = visibility(layout), []
    for size, end, numbers in zip(block, (rows, layout.length), blocks, strict=True):
        positions = torch.arange(-(-layout.length // size) * size)
        clamped = positions.clamp(max=layout.length - 1)
        places = seen.places[:, :, clamped].flatten(0, 1).view(6, -1, size)
        first = places[:, :, :1]
        extra = torch.stack([seen.kinds[clamped], (positions < end).int()]).view(2, -1, size)
        shapes = torch.cat([places - first, extra]).transpose(0, 1).flatten(1)
        columns.append((torch.unique(shapes, dim=0, return_inverse=True)[1][numbers], first[:, numbers, 0]))
    (query_shape, query_place), (key_shape, key_place) = columns
    signature = torch.cat([torch.stack([query_shape, key_shape]), query_place - key_place])
    return torch.unique(signature.T, dim=0, return_inverse=True)[1]


def _any_row(masks: Tensor) -> Tensor:
    """Bitwise or over the last axis."""
    result = torch.zeros(masks.shape[0], dtype=torch.int64)
    for column in masks.unbind(1):
        result |= column
    return result

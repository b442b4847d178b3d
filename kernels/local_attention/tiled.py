"""Attention by a tile plan on top of any dense attention that returns its log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .chunks import TileReader, additive, shared_rows, tile_chunks, tiles_per_chunk
from .plan import TileGroup, TilePlan

# (query `[B, Q, H, D]`, key and value `[B, K, H, D]`, bias `[Q, K]` or None, scale)
# -> (output like query, log-sum-exp `[B, Q, H]` in fp32)
Dense = Callable[[Tensor, Tensor, Tensor, Tensor | None, float], tuple[Tensor, Tensor]]
# (output `[N, H, D]`, log-sum-exp `[N, H]`) twice, over disjoint keys -> the same over their union
Merge = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class DenseCalls(NamedTuple):
    """What a back end brings: its dense attention, its merging, and how much a chunk may hold."""

    dense: Dense
    merge: Merge
    chunk_bytes: int


def attend(
    tensors: tuple[Tensor, Tensor, Tensor], plan: TilePlan, scale: float, with_lse: bool, calls: DenseCalls
) -> tuple[Tensor, Tensor | None]:
    """Attention without gradients.

    Args:
        tensors: query `[B, Q, H, D]`, all tokens of the plan or text and image alone; key and value
            `[B, plan.length, H, D]`; all contiguous.
        with_lse: also return the log-sum-exp.

    Returns:
        output like query, and the log-sum-exp `[B, H, Q]` in fp32, or None.
    """
    query = tensors[0]
    output = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32) if with_lse else None
    with_guide = query.shape[1] == plan.length
    for element in range(query.shape[0]):
        one = (tensors[0][element], tensors[1][element], tensors[2][element])
        sums = None if lse is None else lse[element]
        for block in plan.row_blocks(with_guide):
            rows = slice(block.start, block.stop)
            keys, values = (shared_rows(x, block.shared)[None] for x in one[1:])
            part, part_lse = calls.dense(query[element, rows][None], keys, values, None, scale)
            output[element, rows] = part[0]
            if sums is not None:
                sums[rows] = part_lse[0]
        for group in plan.tile_groups(with_guide):
            _attend_tiles(one, group, scale, output[element], sums, calls)
    return output, None if lse is None else lse.transpose(1, 2)


def _attend_tiles(
    tensors: tuple[Tensor, Tensor, Tensor],
    group: TileGroup,
    scale: float,
    output: Tensor,
    lse: Tensor | None,
    calls: DenseCalls,
) -> None:
    query, key, value = tensors
    heads, dim = query.shape[1:]
    bias = None if group.mask is None else additive(group.mask, query)
    shared = [shared_rows(x, group.shared)[None] for x in (key, value)] if group.shared else []
    per_tile = 2 * (group.keys.shape[1] + group.queries.shape[1]) * heads * dim * query.element_size()
    # Runs of the sequence are viewed where they lie, and longer chunks reuse the shared keys more often.
    step = tiles_per_chunk(group, per_tile, calls.chunk_bytes * (2 if group.is_own else 1))
    reader = TileReader(tensors, group, step)
    for queries, keys in tile_chunks(group, step):
        tiles, near_keys, near_values = reader.read(queries, keys)
        parts = []
        if keys.numel():
            part, sums = calls.dense(tiles, near_keys, near_values, bias, scale)
            parts.append((part.reshape(-1, heads, dim), sums.reshape(-1, heads)))
        if shared:
            part, sums = calls.dense(tiles.reshape(1, -1, heads, dim), shared[0], shared[1], None, scale)
            parts.append((part[0], sums[0]))
        result, sums = parts[0] if len(parts) == 1 else calls.merge(*parts[0], *parts[1])
        reader.write(output, queries, result)
        if lse is not None:
            reader.write(lse, queries, sums)

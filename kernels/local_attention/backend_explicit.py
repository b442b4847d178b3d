"""Explicit scores in cache-sized chunks, by batched matrix products: any device, any floating dtype.

Scores are kept in the input's dtype. In bf16 on a CPU without matrix tiles this is faster than PyTorch's
flash kernel, which multiplies at fp32 speed there; the price is a rounding of the scores to bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .chunks import additive, shared_rows, tile_chunks, tiles_per_chunk
from .plan import SMALL_TILE, RowBlock, TileGroup, TilePlan, tile_plan

if TYPE_CHECKING:
    from .layout import AttentionLayout

# Scores, weights, keys and values of a chunk; larger ones leave the second-level cache.
_CHUNK_BYTES = 4 << 20


def refusal(layout: AttentionLayout, query: Tensor) -> str | None:
    """Why this back end cannot take such a tensor; None: it can."""
    if not query.is_floating_point():
        return f"needs a floating dtype, got {query.dtype}"
    return None


def forward(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention without gradients; shapes as in `backend_sdpa.forward`, the log-sum-exp fp64 for fp64."""
    # Small tiles, since every score costs a pass through memory.
    plan = tile_plan(layout, SMALL_TILE)
    output = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=_exact(query)).transpose(1, 2) if with_lse else None
    # One head at a time fits a CPU's cache; a GPU wants large products.
    together = query.shape[2] if query.is_cuda else 1
    for element in range(query.shape[0]):
        for first in range(0, query.shape[2], together):
            heads = slice(first, first + together)
            tensors = (_by_head(query[element, :, heads]), _by_head(key[element, :, heads]),
                       _by_head(value[element, :, heads]))  # fmt: skip
            sums = None if lse is None else lse[element, heads]
            output[element, :, heads] = _attend(tensors, plan, scale, sums).transpose(0, 1)
    return output, lse


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _by_head(tokens: Tensor) -> Tensor:
    """`[N, H, D]` -> `[H, N, D]`, a copy."""
    return tokens.transpose(0, 1).contiguous()


def _attend(
    tensors: tuple[Tensor, Tensor, Tensor], plan: TilePlan, scale: float, lse: Tensor | None
) -> Tensor:
    """Output `[H, Q, D]` of query `[H, Q, D]`, key and value `[H, S, D]`; fills lse `[H, Q]`."""
    output = torch.empty_like(tensors[0])
    with_guide = output.shape[1] == plan.length
    for block in plan.row_blocks(with_guide):
        _attend_rows(tensors, block, scale, output, lse)
    for group in plan.tile_groups(with_guide):
        _attend_tiles(tensors, group, scale, output, lse)
    return output


def _scores(query: Tensor, key: Tensor, scale: float) -> Tensor:
    """Scaled dot products `[N, Q, K]` of `[N, Q, D]` with `[N, K, D]`; the scale enters before rounding."""
    return torch.baddbmm(query.new_zeros(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=scale)


def _log_sum(scores: Tensor, weights: Tensor) -> Tensor:
    """Log-sum-exp of scores from their softmax: two maxima instead of another pass of exponentials."""
    return scores.amax(-1).to(_exact(scores)) - torch.log(weights.amax(-1).to(_exact(scores)))


def _attend_rows(
    tensors: tuple[Tensor, Tensor, Tensor], block: RowBlock, scale: float, output: Tensor, lse: Tensor | None
) -> None:
    query = tensors[0]
    keys, values = (shared_rows(x, block.shared, 1) for x in tensors[1:])
    step = max(1, _CHUNK_BYTES // (2 * query.shape[0] * keys.shape[1] * query.element_size()))
    for start in range(block.start, block.stop, step):
        rows = slice(start, min(start + step, block.stop))
        scores = _scores(query[:, rows], keys, scale)
        weights = torch.softmax(scores, -1)
        output[:, rows] = torch.bmm(weights, values)
        if lse is not None:
            lse[:, rows] = _log_sum(scores, weights)


def _attend_tiles(
    tensors: tuple[Tensor, Tensor, Tensor], group: TileGroup, scale: float, output: Tensor, lse: Tensor | None
) -> None:
    query, *sources = tensors
    heads, dim = query.shape[0], query.shape[2]
    local, size = group.keys.shape[1], group.queries.shape[1]
    bias = None if group.mask is None else additive(group.mask, query)
    columns = local + sum(stop - start for start, stop in group.shared)
    per_tile = 2 * heads * columns * (size + dim) * query.element_size()
    step = tiles_per_chunk(group, per_tile, _CHUNK_BYTES)
    # Shared keys are copied once beside the room for each tile's own: one product per chunk covers both.
    room = [query.new_empty(heads, step, columns, dim) for _ in sources]
    if group.shared:
        for target, source in zip(room, sources, strict=True):
            target[:, :, local:] = shared_rows(source, group.shared, 1)[:, None]
    for queries, keys in tile_chunks(group, step):
        rows, near_rows = (x.reshape(-1).to(query.device) for x in (queries, keys))
        count = queries.shape[0]
        near = []
        for target, source in zip(room, sources, strict=True):
            target[:, :count, :local] = source.index_select(1, near_rows).view(heads, count, local, dim)
            near.append(target[:, :count].reshape(heads * count, columns, dim))
        scores = _scores(query.index_select(1, rows).view(heads * count, size, dim), near[0], scale)
        if bias is not None:
            scores[..., :local] += bias
        weights = torch.softmax(scores, -1)
        output.index_copy_(1, rows.long(), torch.bmm(weights, near[1]).view(heads, -1, dim))
        if lse is not None:
            lse.index_copy_(1, rows.long(), _log_sum(scores, weights).view(heads, -1))

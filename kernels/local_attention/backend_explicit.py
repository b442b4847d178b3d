"""Explicit scores in cache-sized chunks, by batched matrix products: any device, any floating dtype.

Scores are kept in the input's dtype. In bf16 on a CPU without matrix tiles this is faster than PyTorch's
flash kernel, which multiplies at fp32 speed there; the price is a rounding of the scores to bf16.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .chunks import additive, shared_rows, tile_chunks, tiles_per_chunk
from .plan import SMALL_TILE, RowBlock, TileGroup, tile_plan

if TYPE_CHECKING:
    from .layout import AttentionLayout

# Scores of a chunk over all heads; larger chunks leave the second-level cache.
_SCORE_BYTES = 2 << 20


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
    lse = query.new_empty(query.shape[:3], dtype=_exact(query)) if with_lse else None
    with_guide = query.shape[1] == plan.length
    for element in range(query.shape[0]):
        keys, values = (x[element].transpose(0, 1).contiguous() for x in (key, value))
        sums = None if lse is None else lse[element]
        for block in plan.row_blocks(with_guide):
            _attend_rows((query[element], keys, values), block, scale, output[element], sums)
        for group in plan.tile_groups(with_guide):
            _attend_tiles((query[element], keys, values), group, scale, output[element], sums)
    return output, None if lse is None else lse.transpose(1, 2)


def _exact(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


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
    step = max(1, _SCORE_BYTES // (keys.shape[1] * query.shape[1] * query.element_size()))
    for start in range(block.start, block.stop, step):
        rows = slice(start, min(start + step, block.stop))
        scores = _scores(query[rows].transpose(0, 1), keys, scale)
        weights = torch.softmax(scores, -1)
        output[rows] = torch.bmm(weights, values).transpose(0, 1)
        if lse is not None:
            lse[rows] = _log_sum(scores, weights).T


def _attend_tiles(
    tensors: tuple[Tensor, Tensor, Tensor], group: TileGroup, scale: float, output: Tensor, lse: Tensor | None
) -> None:
    query, key, value = tensors
    heads, dim = query.shape[1:]
    local, size = group.keys.shape[1], group.queries.shape[1]
    bias = None if group.mask is None else additive(group.mask, query)
    shared = [shared_rows(x, group.shared, 1) for x in (key, value)] if group.shared else []
    columns = local + (shared[0].shape[1] if shared else 0)
    step = tiles_per_chunk(group, size * columns * heads * query.element_size(), _SCORE_BYTES)
    for queries, keys in tile_chunks(group, step):
        rows, near_rows = (x.reshape(-1).to(query.device) for x in (queries, keys))
        batch, whole = (heads * queries.shape[0], size, dim), (heads, rows.numel(), dim)
        tiles = query.index_select(0, rows).transpose(0, 1).contiguous()
        near = [x.index_select(1, near_rows).view(batch[0], local, dim) for x in (key, value)]
        scores = _scores(tiles.view(batch), near[0], scale)
        if bias is not None:
            scores += bias
        if shared:
            far = _scores(tiles, shared[0], scale)
            scores = torch.cat([scores, far.view(*batch[:2], -1)], -1)
        weights = torch.softmax(scores, -1)
        part = torch.bmm(weights[..., :local], near[1]).view(whole)
        if shared:
            part += torch.bmm(weights[..., local:].reshape(*whole[:2], -1), shared[1])
        output.index_copy_(0, rows.long(), part.transpose(0, 1))
        if lse is not None:
            lse.index_copy_(0, rows.long(), _log_sum(scores, weights).view(whole[:2]).T)

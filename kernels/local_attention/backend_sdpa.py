"""PyTorch's CPU flash attention on gathered tiles; parts of the keys are merged by log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

from .chunks import additive, merge, shared_rows, tile_chunks, tiles_per_chunk
from .plan import LARGE_TILE, SMALL_TILE, TileGroup, TilePlan

# Keys and values of a chunk: near the second-level cache of two cores, and few enough calls.
_CHUNK_BYTES = 3 << 20


def refusal(query: Tensor) -> str | None:
    """Why this back end cannot take such a tensor; None: it can."""
    if query.device.type != "cpu":
        return f"needs a CPU tensor (its kernel returns the log-sum-exp there), got {query.device.type}"
    if query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"needs float32, bfloat16 or float16, got {query.dtype}"
    if not hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return "this PyTorch has no CPU flash attention"
    return None


def tile_side(query: Tensor, radius: int) -> int:
    """Side of the query tiles that is fastest for this dtype and reach."""
    # Half-width products gain from more rows per tile as long as the keys around it do not grow too fast.
    return LARGE_TILE if query.dtype != torch.float32 and radius >= 8 else SMALL_TILE


def forward(
    query: Tensor, key: Tensor, value: Tensor, plan: TilePlan, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention by the plan, without gradients.

    Args:
        query: `[B, Q, H, D]`, contiguous; all tokens of the plan, or text and image alone.
        key, value: `[B, plan.length, H, D]`, contiguous.
        with_lse: also return the log-sum-exp.

    Returns:
        output like `query`, and the log-sum-exp `[B, H, Q]` in fp32, or None.
    """
    output = torch.empty_like(query)
    lse = query.new_empty(query.shape[:3], dtype=torch.float32) if with_lse else None
    with_guide = query.shape[1] == plan.length
    for element in range(query.shape[0]):
        tensors = (query[element], key[element], value[element])
        sums = None if lse is None else lse[element]
        for block in plan.row_blocks(with_guide):
            rows = slice(block.start, block.stop)
            keys, values = (shared_rows(x, block.shared)[None] for x in tensors[1:])
            part, part_lse = _flash(query[element, rows][None], keys, values, None, scale)
            output[element, rows] = part[0]
            if sums is not None:
                sums[rows] = part_lse[0]
        for group in plan.tile_groups(with_guide):
            _attend_tiles(tensors, group, scale, output[element], sums)
    return output, None if lse is None else lse.transpose(1, 2)


def _attend_tiles(
    tensors: tuple[Tensor, Tensor, Tensor], group: TileGroup, scale: float, output: Tensor, lse: Tensor | None
) -> None:
    query, key, value = tensors
    heads, dim = query.shape[1:]
    bias = None if group.mask is None else additive(group.mask, query)
    shared = [shared_rows(x, group.shared)[None] for x in (key, value)] if group.shared else []
    per_tile = 2 * (group.keys.shape[1] + group.queries.shape[1]) * heads * dim * query.element_size()
    step = tiles_per_chunk(group, per_tile, _CHUNK_BYTES)
    # Fresh pages cost more than the copy itself, so every chunk is gathered into the same buffers.
    near = [x.new_empty(step, group.keys.shape[1], heads, dim) for x in (key, value)]
    for queries, keys in tile_chunks(group, step):
        rows = queries.reshape(-1)
        tiles = query.index_select(0, rows)
        for source, buffer in zip((key, value), near, strict=True):
            torch.index_select(source, 0, keys.reshape(-1), out=buffer[: keys.shape[0]].flatten(0, 1))
        keys_near, values_near = (buffer[: keys.shape[0]] for buffer in near)
        part, part_lse = _flash(tiles.view(*queries.shape, heads, dim), keys_near, values_near, bias, scale)
        part, part_lse = part.reshape(-1, heads, dim), part_lse.reshape(-1, heads)
        if shared:
            far, far_lse = _flash(tiles[None], shared[0], shared[1], None, scale)
            part, part_lse = merge(part, part_lse, far[0], far_lse[0])
        output.index_copy_(0, rows.long(), part)
        if lse is not None:
            lse.index_copy_(0, rows.long(), part_lse)


def _flash(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    """Dense attention of `[B, Q, H, D]` with `[B, K, H, D]`: output and log-sum-exp `[B, Q, H]`."""
    output, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query.transpose(1, 2),
        key.transpose(1, 2),
        value.transpose(1, 2),
        0.0,
        False,
        attn_mask=None if bias is None else bias[None, None],
        scale=scale,
    )
    return output.transpose(1, 2), lse.transpose(1, 2)

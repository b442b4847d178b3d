"""PyTorch's CPU flash attention on gathered tiles; parts of the keys are merged by log-sum-exp."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .chunks import merge
from .plan import LARGE_TILE, SMALL_TILE, tile_plan
from .tiled import DenseCalls, attend

if TYPE_CHECKING:
    from .layout import AttentionLayout

# Keys and values of a chunk: near the second-level cache of two cores, and few enough calls.
_CHUNK_BYTES = 3 << 20


def refusal(layout: AttentionLayout, query: Tensor) -> str | None:
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
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention under a layout, without gradients.

    Args:
        query: `[B, Q, H, D]`, contiguous; all tokens of the layout, or text and image alone.
        key, value: `[B, layout.length, H, D]`, contiguous.
        scale: factor of the dot products.
        with_lse: also return the log-sum-exp.

    Returns:
        output like `query`, and the log-sum-exp `[B, H, Q]` in fp32, or None.
    """
    plan = tile_plan(layout, tile_side(query, layout.radius))
    return attend((query, key, value), plan, scale, with_lse, DenseCalls(_flash, merge, _CHUNK_BYTES))


def _flash(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
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

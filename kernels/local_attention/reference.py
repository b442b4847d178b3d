"""The oracle: explicit mask, softmax in fp32 or fp64, few queries at a time. Slow by design."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import AttentionLayout

_CHUNK = 1024


def masked_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Softmax attention under a boolean mask.

    Args:
        query: `[B, Q, H, D]`; key, value: `[B, K, H, D]`. fp64 stays fp64, anything else is computed in fp32.
        mask: bool `[Q, K]`, True = visible. A query that sees no key gets zeros and a log-sum-exp of -inf.
        scale: factor of the dot products.

    Returns:
        output `[B, Q, H, D]` and log-sum-exp of the scaled scores `[B, H, Q]`, both in the computing dtype.
    """
    exact = torch.float64 if query.dtype == torch.float64 else torch.float32
    scores = torch.einsum("bqhd,bkhd->bhqk", query.to(exact), key.to(exact)) * scale
    scores = scores.masked_fill(~mask, float("-inf"))
    empty = ~mask.any(1)
    top = scores.amax(-1, keepdim=True).detach().masked_fill(empty[:, None], 0.0)
    weights = torch.exp(scores - top)
    total = weights.sum(-1, keepdim=True)
    probabilities = weights / total.masked_fill(empty[:, None], 1.0)
    output = torch.einsum("bhqk,bkhd->bqhd", probabilities, value.to(exact))
    return output, (top + torch.log(total)).squeeze(-1)


def forward(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float
) -> tuple[Tensor, Tensor]:
    """Attention under `layout.token_mask`, differentiable by autograd.

    Args:
        query: `[B, Q, H, D]` with Q = `layout.length`, or the text and image rows alone.
        key, value: `[B, layout.length, H, D]`.

    Returns:
        output like `query`, log-sum-exp `[B, H, Q]` in fp32 (fp64 for fp64 inputs).
    """
    outputs, sums = [], []
    for start in range(0, query.shape[1], _CHUNK):
        rows = slice(start, min(start + _CHUNK, query.shape[1]))
        mask = layout.token_mask(rows).to(query.device)
        # Keys that none of these queries sees are left out: not even a NaN in them can reach the output.
        seen = mask.any(0).nonzero()[:, 0]
        output, lse = masked_attention(query[:, rows], key[:, seen], value[:, seen], mask[:, seen], scale)
        outputs.append(output.to(query.dtype))
        sums.append(lse)
    return torch.cat(outputs, 1), torch.cat(sums, 2)

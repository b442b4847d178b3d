"""Gradients of the tiled back ends: probabilities are rebuilt tile by tile from the saved log-sum-exp.

With the merged output O and the merged log-sum-exp, P = exp(S - lse) and delta = rowsum(dO * O) are the same
for every part of the keys, so parts never have to be merged again. Computed in fp32 (fp64 for fp64 inputs).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .chunks import tile_chunks, tiles_per_chunk
from .plan import TilePlan

# fp32 scores of one chunk over all heads.
_SCORE_BYTES = 8 << 20


def backward(
    saved: tuple[Tensor, Tensor, Tensor, Tensor, Tensor], grad: Tensor, plan: TilePlan, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value.

    Args:
        saved: query `[B, Q, H, D]`, key, value `[B, S, H, D]`, output like query, log-sum-exp `[B, H, Q]`.
        grad: gradient of the output.

    Returns:
        gradients in the dtypes of the inputs.
    """
    query, key, value, output, lse = saved
    exact = torch.promote_types(query.dtype, torch.float32)
    grads = [torch.zeros(x.shape, dtype=exact, device=x.device) for x in (query, key, value)]
    delta = (grad.to(exact) * output.to(exact)).sum(-1)
    with_guide = query.shape[1] == plan.length
    for element in range(query.shape[0]):
        for rows, columns, mask in _problems(plan, with_guide, query.shape[2]):
            rows, columns = rows.to(query.device), columns.to(query.device)
            q, g = (x[element][rows].to(exact) for x in (query, grad))
            k, v = (x[element][columns].to(exact) for x in (key, value))
            scores = torch.einsum("nqhd,nkhd->nhqk", q, k) * scale
            if mask is not None:
                scores.masked_fill_(~mask.to(query.device), float("-inf"))
            row_lse = lse[element].T[rows].transpose(1, 2)
            weights = torch.exp(scores - row_lse.unsqueeze(-1))
            change = torch.einsum("nqhd,nkhd->nhqk", g, v)
            change = weights * (change - delta[element][rows].transpose(1, 2).unsqueeze(-1)) * scale
            heads_dim = q.shape[2:]
            parts = (
                (grads[0], rows, torch.einsum("nhqk,nkhd->nqhd", change, k)),
                (grads[1], columns, torch.einsum("nhqk,nqhd->nkhd", change, q)),
                (grads[2], columns, torch.einsum("nhqk,nqhd->nkhd", weights, g)),
            )
            for total, positions, part in parts:
                total[element].index_add_(0, positions.reshape(-1), part.reshape(-1, *heads_dim))
    return grads[0].to(query.dtype), grads[1].to(key.dtype), grads[2].to(value.dtype)


def _problems(plan: TilePlan, with_guide: bool, heads: int) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Dense problems `(queries [n, q], keys [n, k], mask [q, k] or None)` of bounded size."""
    for block in plan.row_blocks(with_guide):
        keys = torch.cat([torch.arange(*part) for part in block.shared])[None]
        step = max(1, _SCORE_BYTES // (4 * heads * keys.shape[1]))
        for start in range(block.start, block.stop, step):
            yield torch.arange(start, min(start + step, block.stop))[None], keys, None
    for group in plan.tile_groups(with_guide):
        shared = torch.cat([torch.arange(0), *(torch.arange(*part) for part in group.shared)])
        columns = group.keys.shape[1] + shared.numel()
        step = tiles_per_chunk(group, 4 * heads * group.queries.shape[1] * columns, _SCORE_BYTES)
        for queries, keys in tile_chunks(group, step):
            if group.keys.shape[1]:
                yield queries.long(), keys.long(), group.mask
            if shared.numel():
                yield queries.reshape(1, -1).long(), shared[None], None

"""The attention op: one call, several back ends, one meaning (`AttentionLayout.token_mask`)."""

from __future__ import annotations

import torch
from torch import Tensor

from . import reference, registered
from .choice import BACKENDS, BackendUnavailable, Explanation, choose, explain
from .layout import AttentionLayout

__all__ = [
    "BACKENDS",
    "BackendUnavailable",
    "Explanation",
    "choose",
    "explain",
    "hierarchical_local_attention",
]


def hierarchical_local_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: AttentionLayout,
    *,
    guide: tuple[Tensor, Tensor] | None = None,
    scale: float | None = None,
    backend: str = "auto",
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention of `[text | image | guide]` tokens under a layout's token mask.

    Queries and keys are already normalised and rotated, and in sequence order (`layout.image_order`).

    Args:
        query, key, value: `[B, S, H, D]` with S = `layout.length`; one floating dtype, one device.
        guide: key and value of the guide tokens, `[B, layout.guide, H, D]`, when they come from a cache. The
            other three then hold text and image only (S = text + image), and so does the output.
        scale: factor of the dot products; default D^-0.5.
        backend: "auto" or one of `BACKENDS`. Back ends differ in speed and rounding only.
        return_lse: also return the natural log-sum-exp `[B, H, S]` in fp32 (fp64 for fp64); it carries no
            gradient, except with the reference.

    Returns:
        the output, like `query`. Gradients of query, key, value and guide are exact with every back end
        (first order; the reference has higher orders too).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
        BackendUnavailable: a back end asked for by name cannot run here.
    """
    if guide is not None:
        _check_guide(query, guide, layout)
        key, value = (torch.cat([own, cached], 1) for own, cached in zip((key, value), guide, strict=True))
    _check(query, key, value, layout)
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    if backend == "reference" and not torch.compiler.is_compiling():
        # Plain tensor code, so that it has second derivatives too; compilers get the operator's own gradient.
        output, lse = reference.forward(query, key, value, layout, scale)
        return (output, lse) if return_lse else output
    differentiated = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    output, lse = registered.local_attention(
        query, key, value, layout.code, backend, scale, return_lse or differentiated
    )
    return (output, lse) if return_lse else output


def _check_guide(query: Tensor, guide: tuple[Tensor, Tensor], layout: AttentionLayout) -> None:
    expected = (query.shape[0], layout.guide, *query.shape[2:])
    for tensor in guide:
        if tuple(tensor.shape) != expected:
            raise ValueError(f"guide key and value must be {list(expected)}, got {list(tensor.shape)}")


def _check(query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout) -> None:
    if query.ndim != 4:
        raise ValueError(f"query must be [B, S, H, D], got {list(query.shape)}")
    rows = (layout.length, layout.text + layout.image)
    if query.shape[1] not in rows:
        raise ValueError(
            f"query must have {rows[0]} rows, or {rows[1]} without the guide, got {query.shape[1]}"
        )
    expected = (query.shape[0], layout.length, *query.shape[2:])
    for name, tensor in (("key", key), ("value", value)):
        if tuple(tensor.shape) != expected:
            raise ValueError(f"{name} must be {list(expected)}, got {list(tensor.shape)}")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise ValueError(
                f"{name} must be {query.dtype} on {query.device}, got {tensor.dtype} on {tensor.device}"
            )
    if not query.is_floating_point():
        raise ValueError(f"attention needs a floating dtype, got {query.dtype}")

"""The attention op: one call, several back ends, one meaning (`AttentionLayout.token_mask`)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from . import backend_explicit, backend_sdpa, reference
from .gradient import backward
from .layout import AttentionLayout
from .plan import TilePlan, tile_plan

BACKENDS = ("reference", "sdpa", "explicit")
_TILED: dict[str, ModuleType] = {"sdpa": backend_sdpa, "explicit": backend_explicit}


class BackendUnavailable(RuntimeError):
    """A back end that was asked for by name cannot run; the message says why."""


@dataclass(frozen=True)
class Explanation:
    """Which back end a call would take.

    Attributes:
        backend: its name.
        reason: why this one.
        refused: the reason of every other back end, by name.
    """

    backend: str
    reason: str
    refused: dict[str, str]

    def __str__(self) -> str:
        lines = [f"{self.backend}: {self.reason}"]
        return "\n".join(lines + [f"not {name}: {reason}" for name, reason in self.refused.items()])


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
    name = choose(layout, query, backend).backend
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    if name == "reference":
        output, lse = reference.forward(query, key, value, layout, scale)
    else:
        output, lse = _run_tiled(query, key, value, layout, scale, _TILED[name], return_lse)
    return (output, lse) if return_lse else output


def explain(layout: AttentionLayout, tensor: Tensor) -> Explanation:
    """Which back end "auto" takes for such a query tensor, and why not the others."""
    return choose(layout, tensor, "auto")


def choose(layout: AttentionLayout, tensor: Tensor, backend: str) -> Explanation:
    """Resolve a back end name for a query tensor.

    Raises:
        ValueError: unknown name.
        BackendUnavailable: the named back end refuses the tensor.
    """
    if backend not in ("auto", *BACKENDS):
        raise ValueError(f"backend must be auto or one of {', '.join(BACKENDS)}, got {backend!r}")
    refusals = {name: module.refusal(tensor) for name, module in _TILED.items()}
    if backend != "auto":
        reason = refusals.get(backend)
        if reason:
            raise BackendUnavailable(f"attention back end {backend!r} cannot run: {reason}")
        return Explanation(backend, "asked for by name", {})
    refused = {name: reason for name, reason in refusals.items() if reason}
    slow = "it is the slow oracle; ask for it by name"
    if "sdpa" in refused:
        return Explanation("explicit", "runs on any device and dtype", {**refused, "reference": slow})
    if tensor.dtype == torch.bfloat16 and _has_bf16_dot_products_only():
        why = "without matrix tiles its kernel multiplies bf16 at fp32 speed"
        return Explanation("explicit", "fastest for bf16 on this CPU", {"sdpa": why, "reference": slow})
    others = {
        "explicit": "measured slower here, and it rounds scores to the input's dtype",
        "reference": slow,
    }
    return Explanation("sdpa", f"fastest for {str(tensor.dtype).removeprefix('torch.')} on this CPU", others)


def _has_bf16_dot_products_only() -> bool:
    """Whether the CPU multiplies bf16 vectors (AVX-512 BF16) but has no matrix tiles (AMX).

    PyTorch's products use the former, its flash kernel only the latter. With neither, bf16 products are
    slower than fp32 ones, and the flash kernel, which converts, wins again.
    """
    found = []
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        probe = getattr(torch.cpu, name, None)
        found.append(bool(probe and probe()))
    return found == [True, False]


def _run_tiled(query, key, value, layout: AttentionLayout, scale: float, backend: ModuleType, with_lse: bool):
    plan = tile_plan(layout, backend.tile_side(query, layout.radius))
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    if torch.is_grad_enabled() and (query.requires_grad or key.requires_grad or value.requires_grad):
        return _Tiled.apply(query, key, value, plan, scale, backend.forward)
    with torch.no_grad():
        return backend.forward(query, key, value, plan, scale, with_lse)


class _Tiled(torch.autograd.Function):
    """A tiled back end with its exact gradient."""

    @staticmethod
    def forward(ctx, query, key, value, plan: TilePlan, scale: float, run: Callable):
        output, lse = run(query, key, value, plan, scale, True)
        ctx.save_for_backward(query, key, value, output, lse)
        ctx.plan, ctx.scale = plan, scale
        ctx.mark_non_differentiable(lse)
        return output, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad, _grad_lse):
        return *backward(ctx.saved_tensors, grad, ctx.plan, ctx.scale), None, None, None


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

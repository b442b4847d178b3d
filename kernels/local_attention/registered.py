"""The op as PyTorch operators, so that compilers see one opaque call with known shapes and an exact gradient.

Operators take plain values only: the layout travels as its `code`, and the back end as its name. They are
defined with `torch.library.Library`: calls of `custom_op` import the compiler, which takes seconds.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .choice import MODULES, choose
from .gradient import backward
from .layout import layout_of
from .plan import tile_plan
from .reference import forward as reference_forward

_LIBRARY = torch.library.Library("tessera", "FRAGMENT")
_LIBRARY.define(
    "local_attention(Tensor query, Tensor key, Tensor value, str layout, str backend, float scale, "
    "bool with_lse) -> (Tensor, Tensor)"
)
_LIBRARY.define(
    "local_attention_backward(Tensor grad, Tensor query, Tensor key, Tensor value, Tensor output, "
    "Tensor lse, str layout, float scale) -> (Tensor, Tensor, Tensor)"
)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, layout: str, backend: str, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    pattern = layout_of(layout)
    name = choose(pattern, query, backend).backend
    query, key, value = (x.detach().contiguous() for x in (query, key, value))
    if name == "reference":
        output, found = reference_forward(query, key, value, pattern, scale)
    else:
        output, found = MODULES[name].forward(query, key, value, pattern, scale, with_lse)
    return output.contiguous(), found.contiguous() if with_lse else _no_lse(query)


def _attend_shapes(
    query: Tensor, key: Tensor, value: Tensor, layout: str, backend: str, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    lse = _no_lse(query)
    if with_lse:
        lse = lse.new_empty(query.shape[0], query.shape[2], query.shape[1])
    return query.new_empty(query.shape), lse


def _no_lse(query: Tensor) -> Tensor:
    return query.new_empty(0, dtype=torch.promote_types(query.dtype, torch.float32))


def _differentiate(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    layout: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    plan = tile_plan(layout_of(layout))
    return backward((query, key, value, output, lse), grad, plan, scale)


def _gradient_shapes(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_rest: Any
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    query, key, value, ctx.layout, _, ctx.scale, with_lse = inputs
    if not with_lse:
        raise RuntimeError("tessera::local_attention needs with_lse=True for gradients")
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, *output)


def _backward(ctx: Any, grad: Tensor, _grad_lse: Tensor) -> tuple[Tensor | None, ...]:
    grads = local_attention_backward(grad.contiguous(), *ctx.saved_tensors, ctx.layout, ctx.scale)
    return *grads, None, None, None, None


_LIBRARY.impl("local_attention", _attend, "CompositeExplicitAutograd")
_LIBRARY.impl("local_attention_backward", _differentiate, "CompositeExplicitAutograd")
torch.library.register_fake("tessera::local_attention", _attend_shapes, lib=_LIBRARY)
torch.library.register_fake("tessera::local_attention_backward", _gradient_shapes, lib=_LIBRARY)
torch.library.register_autograd("tessera::local_attention", _backward, setup_context=_save, lib=_LIBRARY)

# (query `[B, Q, H, D]`, key, value `[B, S, H, D]`, layout code, back end name, scale, with_lse)
# -> (output like query, log-sum-exp `[B, H, Q]`, empty without with_lse). Raises BackendUnavailable.
local_attention = torch.ops.tessera.local_attention.default
# Gradients of query, key and value in their dtypes, the same for every back end.
local_attention_backward = torch.ops.tessera.local_attention_backward.default

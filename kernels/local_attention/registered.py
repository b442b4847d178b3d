"""The op as PyTorch operators, so that compilers see one opaque call with known shapes and an exact gradient.

Operators take plain values only: the layout travels as its `code`, and the back end as its name.
"""

# No postponed annotations here: the operators' schemas are read from them.
import torch
from torch import Tensor

from .choice import MODULES, choose
from .gradient import backward
from .layout import layout_of
from .plan import tile_plan
from .reference import forward as reference_forward


@torch.library.custom_op("tessera::local_attention", mutates_args=())
def local_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: str, backend: str, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    """Attention under a layout.

    Args:
        query: `[B, Q, H, D]`; key, value `[B, S, H, D]`.
        layout: `AttentionLayout.code`.
        backend: "auto" or a name of `choice.BACKENDS`.
        with_lse: without it the second result is empty.

    Returns:
        output like query and log-sum-exp `[B, H, Q]`, both contiguous.

    Raises:
        BackendUnavailable: a back end asked for by name cannot run.
    """
    pattern = layout_of(layout)
    name = choose(pattern, query, backend).backend
    query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
    if name == "reference":
        output, lse = reference_forward(query, key, value, pattern, scale)
        return output.contiguous(), lse.contiguous() if with_lse else _no_lse(query)
    output, found = MODULES[name].forward(query, key, value, pattern, scale, with_lse)
    return output, found.contiguous() if with_lse else _no_lse(query)


@local_attention.register_fake
def _(
    query: Tensor, key: Tensor, value: Tensor, layout: str, backend: str, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor]:
    lse = _no_lse(query)
    if with_lse:
        lse = lse.new_empty(query.shape[0], query.shape[2], query.shape[1])
    return query.new_empty(query.shape), lse


def _no_lse(query: Tensor) -> Tensor:
    return query.new_empty(0, dtype=torch.promote_types(query.dtype, torch.float32))


@torch.library.custom_op("tessera::local_attention_backward", mutates_args=())
def local_attention_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    layout: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, contiguous, in their dtypes; the same for every back end."""
    plan = tile_plan(layout_of(layout))
    return backward((query, key, value, output, lse), grad, plan, scale)


@local_attention_backward.register_fake
def _(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    lse: Tensor,
    layout: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.shape), key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx, inputs, output) -> None:
    query, key, value, ctx.layout, _, ctx.scale, with_lse = inputs
    if not with_lse:
        raise RuntimeError("tessera::local_attention needs with_lse=True for gradients")
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(query, key, value, *output)


def _differentiate(ctx, grad, _grad_lse):
    grads = local_attention_backward(grad.contiguous(), *ctx.saved_tensors, ctx.layout, ctx.scale)
    return *grads, None, None, None, None


local_attention.register_autograd(_differentiate, setup_context=_save)

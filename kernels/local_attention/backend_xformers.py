"""xformers' CUDA attention on gathered tiles: partial attention per set of keys, merged by its own operator.

Its partial attention takes no mask, so masked tiles use the forward that keeps the log-sum-exp for training.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from .plan import LARGE_TILE, SMALL_TILE, tile_plan
from .tiled import DenseCalls, attend

if TYPE_CHECKING:
    from .layout import AttentionLayout

_CHUNK_BYTES = 256 << 20
# Rows of a bias must start at multiples of 16 bytes.
_BIAS_ALIGNMENT = 8


class Operators(NamedTuple):
    """What is used of `xformers.ops.fmha`; tensors are `[B, M, H, K]`, log-sum-exps `[B, H, M]`."""

    partial: Callable[..., tuple[Tensor, Tensor]]
    with_bias: Callable[..., tuple[Tensor, Tensor]]
    merge: Callable[..., tuple[Tensor, Tensor]]


def load_operators() -> Operators:
    """Import xformers. Raises ImportError where it cannot be."""
    from xformers.ops import fmha

    return Operators(
        fmha.memory_efficient_attention_partial,
        fmha.memory_efficient_attention_forward_requires_grad,
        fmha.merge_attentions,
    )


def refusal(layout: AttentionLayout, query: Tensor) -> str | None:
    """Why this back end cannot take such a tensor; None: it can."""
    if importlib.util.find_spec("xformers") is None:
        return "the xformers package is not installed"
    if query.device.type != "cuda":
        return f"its operators need a CUDA device, got {query.device.type}"
    if query.dtype not in (torch.float16, torch.bfloat16):
        return f"needs float16 or bfloat16, got {query.dtype}"
    if query.shape[-1] % 8:
        return f"needs heads of a multiple of 8, got {query.shape[-1]}"
    return _probe(str(query.device), query.dtype, query.shape[-1])


@lru_cache(maxsize=16)
def _probe(device: str, dtype: torch.dtype, dim: int) -> str | None:
    """Run the operators once: the package can be importable without any that works."""
    sample = torch.zeros(1, 16, 1, dim, dtype=dtype, device=device)
    bias = sample.new_zeros(16, 16)
    try:
        calls = dense_calls(load_operators())
        plain = calls.dense(sample, sample, sample, None, 1.0)
        masked = calls.dense(sample, sample, sample, bias, 1.0)
        calls.merge(plain[0][0], plain[1][0], masked[0][0], masked[1][0])
    except (ImportError, NotImplementedError, OSError, RuntimeError, ValueError) as error:
        return f"its operators do not run here: {str(error).strip().splitlines()[0]}"
    return None


def forward(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention without gradients; shapes as in `backend_sdpa.forward`."""
    plan = tile_plan(layout, LARGE_TILE if layout.radius >= 8 else SMALL_TILE)
    return attend((query, key, value), plan, scale, with_lse, dense_calls(load_operators()))


def dense_calls(operators: Operators) -> DenseCalls:
    """The operators in the form that tiled attention asks for."""

    def dense(
        query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float
    ) -> tuple[Tensor, Tensor]:
        options: dict[str, Any] = {"scale": scale}
        attention = operators.partial
        if bias is not None:
            attention = operators.with_bias
            options["attn_bias"] = _aligned(bias).expand(query.shape[0], query.shape[2], -1, -1)
        output, lse = attention(query.contiguous(), key.contiguous(), value.contiguous(), **options)
        # Some operators pad the rows of the log-sum-exp.
        return output, lse[:, :, : query.shape[1]].transpose(1, 2).float()

    def merge(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> tuple[Tensor, Tensor]:
        sums = [x.T[None].contiguous() for x in (first_lse, second_lse)]
        output, lse = operators.merge([first[None].contiguous(), second[None].contiguous()], sums)
        return output[0].to(first.dtype), lse[0].T

    return DenseCalls(dense, merge, _CHUNK_BYTES)


def _aligned(bias: Tensor) -> Tensor:
    width = -(-bias.shape[1] // _BIAS_ALIGNMENT) * _BIAS_ALIGNMENT
    return bias.new_zeros(bias.shape[0], width)[:, : bias.shape[1]].copy_(bias)

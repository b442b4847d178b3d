"""PyTorch's flex attention with a block mask built from the layout's lists.

On CUDA it is compiled once per shape. On a CPU it runs eagerly and forms all scores: a check, no fast path.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .block_lists import block_lists
from .visibility import visibility

if TYPE_CHECKING:
    from .layout import AttentionLayout

_BLOCK = (128, 64)
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Eager flex attention holds several matrices of all scores; this keeps each below half a gigabyte.
_EAGER_SCORES = 1 << 27


def refusal(layout: AttentionLayout, query: Tensor) -> str | None:
    """Why this back end cannot take such a tensor; None: it can."""
    if importlib.util.find_spec("torch.nn.attention.flex_attention") is None:
        return "this PyTorch has no flex attention"
    if query.dtype not in _DTYPES:
        return f"needs float32, bfloat16 or float16, got {query.dtype}"
    if query.device.type == "cpu":
        scores = query.shape[0] * query.shape[2] * query.shape[1] * layout.length if query.ndim == 4 else 0
        if scores > _EAGER_SCORES:
            return (
                "on a CPU it forms all scores and has no gradient when compiled; "
                f"at most {_EAGER_SCORES} scores there, got {scores}"
            )
        return None
    if query.device.type != "cuda":
        return f"needs a CUDA device or a CPU, got {query.device.type}"
    if importlib.util.find_spec("triton") is None:
        return "compiling it for CUDA needs the triton package"
    return None


def forward(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention without gradients; shapes as in `backend_sdpa.forward`."""
    from torch.nn.attention.flex_attention import AuxRequest

    options: dict[str, Any] = {
        "block_mask": block_mask(layout, query.shape[1], str(query.device)),
        "scale": scale,
        "return_aux": AuxRequest(lse=True),
    }
    heads = [x.transpose(1, 2) for x in (query, key, value)]
    if query.device.type == "cuda":
        options["kernel_options"] = {"BLOCK_M": 64 if query.shape[-1] > 128 else 128, "BLOCK_N": 64}
        output, aux = _compiled()(*heads, **options)
    else:
        with _uncompiled() as attend:
            output, aux = attend(*heads, **options)
    return output.transpose(1, 2).contiguous(), aux.lse if with_lse else None


@lru_cache(maxsize=16)
def block_mask(layout: AttentionLayout, rows: int, device: str) -> Any:
    """The layout as flex attention's `BlockMask`: full blocks, and partial blocks with a mask function.

    Args:
        rows: number of queries: `layout.length`, or fewer when the guide's queries are left out.
    """
    from torch.nn.attention.flex_attention import BlockMask

    lists, seen = block_lists(layout, _BLOCK, rows), visibility(layout).to(device)
    shape = (-(-rows // _BLOCK[0]), -(-layout.length // _BLOCK[1]))
    partial = _padded(lists.part_offsets, lists.part_indices, shape, device)
    full = _padded(lists.full_offsets, lists.full_indices, shape, device)

    def visible(_batch: Tensor, _head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return seen.visible(query, key)

    return BlockMask.from_kv_blocks(
        *partial, *full, BLOCK_SIZE=_BLOCK, mask_mod=visible, seq_lengths=(rows, layout.length)
    )


def _padded(offsets: Tensor, indices: Tensor, shape: tuple[int, int], device: str) -> tuple[Tensor, Tensor]:
    """Compressed rows as counts `[1, 1, rows]` and indices `[1, 1, rows, key blocks]`, as flex wants them."""
    counts = offsets.diff()
    table = torch.zeros(shape, dtype=torch.int32)
    rows = torch.repeat_interleave(torch.arange(shape[0]), counts)
    table[rows, torch.arange(rows.numel()) - offsets[rows]] = indices
    return counts.int()[None, None].to(device), table[None, None].to(device)


@lru_cache(maxsize=1)
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False)


@contextmanager
def _uncompiled() -> Iterator[Callable[..., Any]]:
    """Flex attention as plain tensor code: by default even eager calls are traced, at seconds each."""
    import warnings

    from torch.nn.attention import flex_attention as module

    name = "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"
    before = getattr(module, name, None)
    try:
        if before is not None:
            setattr(module, name, True)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            yield module.flex_attention
    finally:
        if before is not None:
            setattr(module, name, before)

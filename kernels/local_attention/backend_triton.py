"""A block-sparse flash kernel in Triton: one program per query block walks the key blocks of its rows.

Key blocks come from `block_lists`: full ones need no mask at all, partial ones bring one bit per pair.
Softmax is online and in base 2; sums are kept in fp32. The kernel
itself is `triton_kernel`, imported (and Triton with it) when it is first asked for.
"""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .block_lists import block_lists_on

if TYPE_CHECKING:
    from .layout import AttentionLayout

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
_LOG2_E, _LN_2 = 1.4426950408889634, 0.6931471805599453
_INTERPRET = "TRITON_INTERPRET"
# The interpreter runs numpy block by block: half a second for 512 tokens.
_INTERPRETED_TOKENS = 4096


@dataclass(frozen=True)
class KernelConfig:
    """One compiled form of the kernel.

    Attributes:
        head_dim: largest head size it serves (padded to this power of two).
        item_bytes: bytes per number of query, key and value: 2 or 4.
        queries, keys: tokens per block.
        warps, stages: threads / 32, and depth of the pipeline of loads.
        shared_bytes: shared memory it needs; a test compiles every form and compares.
    """

    head_dim: int
    item_bytes: int
    queries: int
    keys: int
    warps: int
    stages: int
    shared_bytes: int


# Smallest first; the first that is large enough is taken. All fit the 99 KiB of consumer cards (A100 offers
# 163, H100 227). At this depth keys and values are double-buffered and copied asynchronously; a fourth stage
# compiles to the same code.
CONFIGS = (
    KernelConfig(64, 2, 128, 64, 4, 3, 50196),
    KernelConfig(128, 2, 128, 64, 8, 3, 99348),
    KernelConfig(64, 4, 64, 32, 8, 2, 41728),
)


def refusal(layout: AttentionLayout, query: Tensor) -> str | None:
    """Why this back end cannot take such a tensor; None: it can."""
    if importlib.util.find_spec("triton") is None:
        return "the triton package is not installed (CUDA builds of PyTorch bring it)"
    if query.dtype not in _DTYPES:
        return f"needs float16, bfloat16 or float32, got {query.dtype}"
    if query.device.type == "cpu" and not interpreted():
        return f"needs a CUDA device; on a CPU it runs interpreted, when {_INTERPRET}=1 is set beforehand"
    if query.device.type == "cpu" and layout.length > _INTERPRETED_TOKENS:
        return f"the interpreter is for at most {_INTERPRETED_TOKENS} tokens, got {layout.length}"
    if query.device.type not in ("cpu", "cuda"):
        return f"needs a CUDA device, got {query.device.type}"
    if query.device.type == "cuda" and torch.cuda.get_device_capability(query.device) < (8, 0):
        return "needs compute capability 8.0 or newer"
    if _config(query) is None:
        return f"no kernel form for heads of {query.shape[-1]} in {query.dtype} fits this device"
    return None


def interpreted() -> bool:
    """Whether Triton was told to run kernels on the CPU, slowly, for tests."""
    return os.environ.get(_INTERPRET) == "1"


def _config(query: Tensor) -> KernelConfig | None:
    limit = None
    if query.device.type == "cuda":
        limit = torch.cuda.get_device_properties(query.device).shared_memory_per_block_optin
    for config in CONFIGS:
        fits = limit is None or config.shared_bytes <= limit
        if fits and config.head_dim >= query.shape[-1] and config.item_bytes == query.element_size():
            return config
    return None


def forward(
    query: Tensor, key: Tensor, value: Tensor, layout: AttentionLayout, scale: float, with_lse: bool
) -> tuple[Tensor, Tensor | None]:
    """Attention without gradients; shapes as in `backend_sdpa.forward`. The log-sum-exp comes for free."""
    from .triton_kernel import attend

    config = _config(query)
    assert config is not None
    batch, rows, heads, dim = query.shape
    lists = block_lists_on(layout, (config.queries, config.keys), rows, str(query.device))
    output = torch.empty_like(query)
    lse = query.new_empty(batch, heads, rows, dtype=torch.float32)
    tables = (lists.full_offsets, lists.full_indices, lists.part_offsets, lists.part_indices)
    patterns = (lists.part_masks, lists.masks, lists.seen, lists.order)
    sizes = (rows, key.shape[1], heads, scale * _LOG2_E)
    attend[(lists.order.numel(), batch * heads)](
        query, key, value, output, lse, *tables, *patterns, *sizes, **constants(config, dim)
    )
    return output, lse if with_lse else None


def constants(config: KernelConfig, dim: int) -> dict[str, Any]:
    """Compile-time arguments and launch options of a form, for heads of `dim`."""
    return {
        "DIM": dim,
        "PADDED": config.head_dim,
        "QUERIES": config.queries,
        "KEYS": config.keys,
        # The CPU interpreter multiplies bf16 wrongly and without a warning (seen in 3.7 and 3.9).
        "WIDEN": interpreted(),
        "num_warps": config.warps,
        "num_stages": config.stages,
    }

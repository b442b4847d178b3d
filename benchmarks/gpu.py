"""The op on a CUDA device against PyTorch's dense flash attention, at FLUX's sizes."""

import statistics
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.proof import require_agreement, require_green
from pipelines.kernels.local_attention.choice import BackendUnavailable, choose
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import hierarchical_local_attention

HEADS, DIM, TEXT = 24, 128, 512
SIDES = (64, 128, 256)  # tokens: pictures of 1024, 2048 and 4096 px
# To be reached with D = 128 at 4096 px: share of the measured peak of matrix products, times dense flash.
PEAK_SHARE, SPEED_UP = 0.45, 12.0
_L2_BYTES = 256 << 20


def gpu_table(rounds: int = 7) -> list[dict[str, Any]]:
    """One row per size and form; empty without a CUDA device.

    Raises:
        NotProven: the op's tests are red, or a back end is wrong on this device.
    """
    if not torch.cuda.is_available():
        return []
    require_green()
    rows = []
    peak = _matrix_peak()
    for side in SIDES:
        layout = AttentionLayout(
            TEXT, (side, side), (side // 4, side // 4), local="own", image_to_guide="all"
        )
        shape = (1, layout.length, HEADS, DIM)
        query, key, value = (torch.randn(shape, device="cuda", dtype=torch.bfloat16) for _ in range(3))
        heads = [x.transpose(1, 2) for x in (query, key, value)]
        dense = _milliseconds(partial(_flash, heads), rounds)
        for backend in ("triton", "flex", "xformers"):
            try:
                choose(layout, query, backend)
            except BackendUnavailable as refusal:
                rows.append({"tokens": layout.length, "form": backend, "refused": str(refusal)})
                continue
            error = require_agreement((query, key, value), layout, backend)
            call = partial(hierarchical_local_attention, query, key, value, layout, backend=backend)
            spent = _milliseconds(call, rounds)
            share = layout.flops(1, HEADS, DIM) / (spent * 1e-3) / peak
            row = {"tokens": layout.length, "form": backend, "ms": round(spent, 3), "error": error}
            row |= {"dense_ms": round(dense, 3), "vs_dense": round(dense / spent, 2)}
            row |= {"of_peak": round(share, 3), "device": torch.cuda.get_device_name()}
            if side == SIDES[-1]:
                row["reached"] = share >= PEAK_SHARE and dense / spent >= SPEED_UP
            rows.append(row)
    return rows


def _flash(heads: list[torch.Tensor]) -> torch.Tensor:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return F.scaled_dot_product_attention(*heads)


def _matrix_peak() -> float:
    """Operations per second of plain bf16 matrix products."""
    side = 8192
    first, second = (torch.randn(side, side, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * side**3 / (_milliseconds(lambda: first @ second, 7) * 1e-3)


def _milliseconds(call: Callable[[], object], rounds: int) -> float:
    """Median of CUDA events, with a cold second-level cache before each."""
    flush = torch.empty(_L2_BYTES, dtype=torch.int8, device="cuda")
    call()
    spent = []
    for _ in range(rounds):
        flush.zero_()
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        call()
        ended.record()
        torch.cuda.synchronize()
        spent.append(began.elapsed_time(ended))
    return statistics.median(spent)

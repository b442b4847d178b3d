"""What this machine offers: device, the dtype that is fast on it, memory."""

import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Runtime:
    """Where and how a pipeline runs: `device` "cpu" or "cuda", `dtype` "bfloat16" or "float32"."""

    device: str
    dtype: str


def choose_runtime() -> Runtime:
    """CUDA when there is one; bf16 where the processor multiplies it in hardware, else fp32."""
    import torch

    if torch.cuda.is_available():
        return Runtime("cuda", "bfloat16")
    return Runtime("cpu", "bfloat16" if has_fast_bf16() else "float32")


def has_fast_bf16() -> bool:
    """Whether the CPU has bf16 dot products (AVX-512 BF16 or AMX). Elsewhere bf16 is emulated and slow."""
    import torch

    names = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(probe()) for name in names if (probe := getattr(torch.cpu, name, None)))


def available_bytes() -> int:
    """Memory that can still be had, in bytes (Linux: MemAvailable; elsewhere half of what there is)."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def peak_bytes() -> int:
    """Largest resident size of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def report() -> dict[str, str]:
    """What `doctor` prints about this side: device, dtype and the attention back end with its reason."""
    import torch

    from pipelines.kernels.local_attention.layout import AttentionLayout
    from pipelines.kernels.local_attention.op import explain

    runtime = choose_runtime()
    query = torch.zeros(1, 4, 1, 32, dtype=getattr(torch, runtime.dtype), device=runtime.device)
    return {
        "device": runtime.device,
        "dtype": runtime.dtype,
        "attention": str(explain(AttentionLayout(0, (2, 2)), query)),
    }

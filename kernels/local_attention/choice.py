"""Which back end runs a call: the fastest that can, or the one that was named, with reasons."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor

from . import backend_explicit, backend_flex, backend_sdpa, backend_triton, backend_xformers
from .layout import AttentionLayout

# All but the reference have a module with `refusal` and `forward`.
MODULES: dict[str, ModuleType] = {
    "sdpa": backend_sdpa,
    "explicit": backend_explicit,
    "flex": backend_flex,
    "triton": backend_triton,
    "xformers": backend_xformers,
}
BACKENDS = ("reference", *MODULES)

_SLOW = "it is the slow oracle; ask for it by name"
_CHOSEN = {
    "sdpa": "fastest for this dtype on this CPU",
    "explicit": "batched matrix products run on any device and dtype",
    "flex": "compiled block-sparse attention over the layout's key blocks",
    "triton": "block-sparse kernel over the layout's key blocks",
    "xformers": "CUDA flash attention on gathered tiles",
}
_ON_CPU = {
    "explicit": "measured slower here, and it rounds scores to the input's dtype",
    "flex": "runs eagerly on a CPU and forms all scores",
    "triton": "runs interpreted on a CPU, for tests",
}
_ON_CUDA = {
    "explicit": "keeps its scores in memory",
    "flex": "the Triton kernel covers the same blocks without a compilation per shape",
    "triton": "exact fp32 products do not use its matrix units",
    "xformers": "gathers keys per tile, which block-sparse kernels do not",
}


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
    if backend == "auto":
        return _automatic(layout, tensor)
    reason = MODULES[backend].refusal(layout, tensor) if backend in MODULES else None
    if reason:
        raise BackendUnavailable(f"attention back end {backend!r} cannot run: {reason}")
    return Explanation(backend, "asked for by name", {})


def _automatic(layout: AttentionLayout, tensor: Tensor) -> Explanation:
    order, passed_over = _preferences(tensor)
    cannot = {name: reason for name in order if (reason := MODULES[name].refusal(layout, tensor))}
    name = next(name for name in order if name not in cannot)
    others = {other: cannot.get(other) or passed_over[other] for other in order if other != name}
    return Explanation(name, _CHOSEN[name], {**others, "reference": _SLOW})


def _preferences(tensor: Tensor) -> tuple[tuple[str, ...], dict[str, str]]:
    """Back ends, best first, and why one that could run is passed over. "explicit" can always run."""
    if tensor.device.type == "cuda":
        if tensor.dtype in (torch.float16, torch.bfloat16):
            return ("triton", "flex", "xformers", "explicit", "sdpa"), _ON_CUDA
        return ("explicit", "flex", "triton", "xformers", "sdpa"), _ON_CUDA
    if tensor.dtype == torch.bfloat16 and _has_bf16_dot_products_only():
        slower = "without matrix tiles its kernel multiplies bf16 at fp32 speed"
        return ("explicit", "sdpa", "flex", "triton", "xformers"), {**_ON_CPU, "sdpa": slower}
    return ("sdpa", "explicit", "flex", "triton", "xformers"), _ON_CPU


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

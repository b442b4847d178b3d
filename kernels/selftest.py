"""A short proof on this machine: which attention back ends run, how exact they are, and how fast.

Every back end computes a small layout; its output is compared with the reference in fp64. A speed-up is
measured only with a back end that passed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .local_attention.choice import BACKENDS, BackendUnavailable, choose
from .local_attention.layout import AttentionLayout
from .local_attention.op import hierarchical_local_attention

# Relative Frobenius error on normal inputs. The first two are what rounding explains (see docs/kernels.md).
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}
_LAYOUT = AttentionLayout(7, (24, 20), (6, 5), window=8, radius=3)
_HEADS, _DIM = 2, 64


@dataclass(frozen=True)
class BackendResult:
    """What one back end did.

    Attributes:
        backend: its name.
        status: "ran", "refused" (it cannot run here) or "failed" (it ran and was wrong, or raised).
        reason: why it was refused or failed; for one that ran, whether "auto" takes it.
        is_chosen: whether "auto" takes it for this device and dtype.
        max_error: largest absolute difference from the reference in fp64; None unless it ran.
        relative_error: the same as a relative Frobenius norm; None unless it ran.
        duration_ms: one call on a warm cache, in milliseconds; None unless it ran.
    """

    backend: str
    status: str
    reason: str
    is_chosen: bool
    max_error: float | None = None
    relative_error: float | None = None
    duration_ms: float | None = None


def run_selftest(
    device: str = "cpu", dtype: str = "float32", backends: tuple[str, ...] = BACKENDS
) -> list[BackendResult]:
    """Try back ends on a small layout with text, image and guide, an odd shape and a partial edge window.

    Args:
        device: where the tensors live, such as "cpu" or "cuda".
        dtype: "float32", "float16" or "bfloat16".
        backends: names of `BACKENDS`.

    Returns:
        one result per name, in the order of `backends`. Nothing is raised by a back end that fails.

    Raises:
        ValueError: unknown dtype or back end.
    """
    kind = getattr(torch, dtype, None)
    if kind not in TOLERANCES:
        names = ", ".join(str(known).removeprefix("torch.") for known in TOLERANCES)
        raise ValueError(f"dtype must be one of {names}, got {dtype!r}")
    unknown = [name for name in backends if name not in BACKENDS]
    if unknown:
        raise ValueError(f"backends must be among {', '.join(BACKENDS)}, got {unknown[0]!r}")
    generator = torch.Generator().manual_seed(0)
    shape = (1, _LAYOUT.length, _HEADS, _DIM)
    tensors = [torch.randn(shape, generator=generator).to(device, kind) for _ in range(3)]
    exact = _attend([x.cpu().double() for x in tensors], _LAYOUT, "reference")
    chosen = choose(_LAYOUT, tensors[0], "auto").backend
    return [_try(name, tensors, exact, name == chosen) for name in backends]


def _attend(tensors: list[Tensor], layout: AttentionLayout, backend: str) -> Tensor:
    query, key, value = tensors
    output = hierarchical_local_attention(query, key, value, layout, backend=backend)
    assert isinstance(output, Tensor)  # a pair only when the log-sum-exp is asked for
    return output


@dataclass(frozen=True)
class Speedup:
    """Local against dense attention on the same tensors, interleaved.

    Attributes:
        backend: the back end that "auto" takes.
        tokens: length of the sequence.
        dense_ms, local_ms: the least of a few rounds, in milliseconds.
    """

    backend: str
    tokens: int
    dense_ms: float
    local_ms: float

    @property
    def ratio(self) -> float:
        """How many times faster the local form is."""
        return self.dense_ms / self.local_ms


def measure_speedup(device: str = "cpu", dtype: str = "float32", side: int = 64, rounds: int = 3) -> Speedup:
    """Time the op against dense attention over the same tokens: `side` x `side` of a picture, and a guide.

    Args:
        side: image tokens per side, 8 or more; 64 is a picture of 1024 px and takes about a second on a CPU.
        rounds: repeats of each, at least 1.

    Raises:
        RuntimeError: the chosen back end does not pass its self-test; a figure would mean nothing.
        ValueError: unknown dtype, or sizes out of range.
    """
    if side < 8 or rounds < 1:
        raise ValueError(f"side must be at least 8 and rounds at least 1, got {side} and {rounds}")
    kind = getattr(torch, dtype, torch.float32)
    layout = AttentionLayout(64, (side, side), (side // 4, side // 4))
    probe = torch.zeros(1, layout.length, _HEADS, _DIM, dtype=kind, device=device)
    backend = choose(layout, probe, "auto").backend
    result = run_selftest(device, dtype, (backend,))[0]
    if result.status != "ran":
        raise RuntimeError(f"attention back end {backend!r} {result.status}: {result.reason}")
    tensors = [torch.randn_like(probe) for _ in range(3)]
    heads = [x.transpose(1, 2) for x in tensors]
    calls = {
        "dense": lambda: torch.nn.functional.scaled_dot_product_attention(*heads),
        "local": lambda: _attend(tensors, layout, backend),
    }
    calls["local"]()  # builds the plan
    least = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            least[name] = min(least[name], _milliseconds(call, device))
    return Speedup(backend, layout.length, least["dense"], least["local"])


def _try(name: str, tensors: list[Tensor], exact: Tensor, is_chosen: bool) -> BackendResult:
    try:
        choose(_LAYOUT, tensors[0], name)
    except BackendUnavailable as refusal:
        return BackendResult(name, "refused", str(refusal).split("cannot run: ", 1)[-1], is_chosen)
    try:
        output = _attend(tensors, _LAYOUT, name)  # builds plans, compiles
        duration = _milliseconds(lambda: _attend(tensors, _LAYOUT, name), tensors[0].device.type)
    # A broken installation may raise anything; the panel has to say so and go on.
    except Exception as error:
        return BackendResult(name, "failed", f"{type(error).__name__}: {error}", is_chosen)
    if not output.isfinite().all():  # no figures then: NaN is nothing that JSON can hold
        return BackendResult(name, "failed", "its output holds NaN or infinity", is_chosen)
    difference = output.cpu().double() - exact
    largest, relative = float(difference.abs().max()), float(difference.norm() / exact.norm())
    tolerance = TOLERANCES[tensors[0].dtype]
    if relative > tolerance:
        reason = f"differs from the reference by {relative:.1e} (relative), allowed {tolerance:.0e}"
        return BackendResult(name, "failed", reason, is_chosen, largest, relative, duration)
    reason = "chosen by auto" if is_chosen else "on request"
    return BackendResult(name, "ran", reason, is_chosen, largest, relative, duration)


def _milliseconds(call: Callable[[], object], device: str) -> float:
    def settled() -> float:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.perf_counter()

    began = settled()
    call()
    return (settled() - began) * 1e3

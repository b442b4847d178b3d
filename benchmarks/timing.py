"""Interleaved timing: every variant once per round, so that other load on the machine meets all alike."""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

_GEMM_SIDE = 1024
_GEMM_REPEATS = 8


@dataclass(frozen=True)
class Timing:
    """Seconds per call over the rounds.

    Attributes:
        wall_s: median of the clock's time.
        busy_s: median of the processor time of all threads; it leaves out what other processes took.
        least_s: least processor time.
    """

    wall_s: float
    busy_s: float
    least_s: float


def interleaved(
    calls: Mapping[str, Callable[[], object]], rounds: int, *, is_warm: bool = False
) -> dict[str, Timing]:
    """Time calls round by round; unless they are warm, one more round (plans, pages) does not count."""
    walls: dict[str, list[float]] = {name: [] for name in calls}
    busy: dict[str, list[float]] = {name: [] for name in calls}
    with torch.no_grad():
        for turn in range(is_warm, rounds + 1):
            for name, call in calls.items():
                wall, processor = time.perf_counter(), time.process_time()
                call()
                if turn:
                    walls[name].append(time.perf_counter() - wall)
                    busy[name].append(time.process_time() - processor)
    return {
        name: Timing(statistics.median(walls[name]), statistics.median(busy[name]), min(busy[name]))
        for name in calls
    }


def matrix_product(dtype: torch.dtype) -> tuple[Callable[[], object], int]:
    """A call of plain matrix products, the machine's yardstick, and its floating-point operations."""
    first, second = (torch.randn(_GEMM_SIDE, _GEMM_SIDE).to(dtype) for _ in range(2))

    def multiply() -> None:
        for _ in range(_GEMM_REPEATS):
            torch.mm(first, second)

    return multiply, 2 * _GEMM_REPEATS * _GEMM_SIDE**3


def extra_mib(call: Callable[[], object]) -> float | None:
    """Peak of a call's memory above what the process holds, in MiB; None where the system cannot tell.

    Counted are resident pages (Linux, glibc): what the allocator keeps is handed back first, and the system's
    high-water mark is reset.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        reset.write_text("5")
        before = _resident_kib(status, "VmRSS")
        call()
        return round((_resident_kib(status, "VmHWM") - before) / 1024, 1)
    except OSError:
        return None


def _resident_kib(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])

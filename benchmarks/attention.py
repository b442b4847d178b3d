"""Dense against local attention, interleaved in one process; ratios hold within one run only."""

import time
from collections.abc import Callable

import torch

from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import choose, hierarchical_local_attention

HEADS, DIM, TEXT = 4, 48, 32


def agrees_with_reference(dtype: torch.dtype) -> bool:
    """The op's check on a small layout: without it no ratio is worth printing."""
    layout = AttentionLayout(TEXT, (24, 20), (6, 5))
    generator = torch.Generator().manual_seed(0)
    shape = (1, layout.length, HEADS, DIM)
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for _ in range(3))
    fast = hierarchical_local_attention(query, key, value, layout).float()
    exact = hierarchical_local_attention(
        query.float(), key.float(), value.float(), layout, backend="reference"
    )
    error = (fast - exact).norm() / exact.norm()
    return bool(error < (1e-2 if dtype == torch.bfloat16 else 1e-5))


def attention_table(sides: tuple[int, ...], rounds: int = 3) -> list[dict[str, float | int | str]]:
    """One row per picture side in pixels and dtype.

    Raises:
        RuntimeError: the op disagrees with its reference.
    """
    rows: list[dict[str, float | int | str]] = []
    for dtype in (torch.float32, torch.bfloat16):
        if not agrees_with_reference(dtype):
            raise RuntimeError(f"local attention disagrees with its reference in {dtype}; no ratios")
        for side in sides:
            rows.append(_row(side, dtype, rounds))
    return rows


def _row(side: int, dtype: torch.dtype, rounds: int) -> dict[str, float | int | str]:
    grid = (side // 16, side // 16)
    layout = AttentionLayout(TEXT, grid, (grid[0] // 4, grid[1] // 4))
    shape = (1, layout.length, HEADS, DIM)
    query, key, value = (torch.randn(shape, dtype=dtype) for _ in range(3))
    heads = [part.transpose(1, 2) for part in (query, key, value)]

    def local() -> object:
        return hierarchical_local_attention(query, key, value, layout)

    def dense() -> object:
        return torch.nn.functional.scaled_dot_product_attention(*heads)

    local()  # builds the plan
    best = {"local": float("inf"), "dense": float("inf")}
    for _ in range(rounds):
        for name, call in (("local", local), ("dense", dense)):
            best[name] = min(best[name], _seconds(call))
    return {
        "side_px": side,
        "tokens": layout.length,
        "dtype": str(dtype).removeprefix("torch."),
        "backend": choose(layout, query, "auto").backend,
        "local_s": round(best["local"], 4),
        "dense_s": round(best["dense"], 4),
        "ratio": round(best["dense"] / best["local"], 2),
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

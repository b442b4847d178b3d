"""Local attention beside dense, masked, gathered and flex attention on the same tensors, in one process."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.proof import require_agreement, require_green
from benchmarks.timing import Timing, extra_mib, interleaved, matrix_product
from pipelines.kernels.hilbert.order import OrderName
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.kernels.local_attention.op import choose, hierarchical_local_attention

Row = dict[str, Any]
Tensors = tuple[Tensor, Tensor, Tensor]

HEADS, DIM, WINDOW = 4, 64, 16
ODD_GRIDS = ((63, 97), (135, 240))
TEXTS = (0, 7, 512)


def windows_and_shared(side: int, shared: tuple[int, int] = (48, 32)) -> AttentionLayout:
    """Own window of 16 x 16 plus `shared` keys that everybody sees: the form with the fewest moving parts."""
    return AttentionLayout(0, (side, side), shared, WINDOW, local="own", image_to_guide="all")


def sliding_box(side: int, order: OrderName = "window_hilbert") -> AttentionLayout:
    """The studio's default: a box of radius 8, 64 text tokens, a guide of a quarter per side."""
    return AttentionLayout.for_mode("exact", 64, (side, side), (side // 4, side // 4), order=order)


def random_tensors(
    layout: AttentionLayout, dtype: torch.dtype, batch: int = 1, heads: int = HEADS
) -> Tensors:
    """Normal query of text and image, key and value of all tokens: `[B, S, H, D]`; the guide is cached."""
    rows = layout.text + layout.image
    lengths = (rows, layout.length, layout.length)
    query, key, value = (torch.randn(batch, length, heads, DIM).to(dtype) for length in lengths)
    return query, key, value


def dense(tensors: Tensors, mask: Tensor | None = None) -> Tensor:
    """Every query sees every key, or those of a mask."""
    query, key, value = (x.transpose(1, 2) for x in tensors)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2)


def gathered(tensors: Tensors, layout: AttentionLayout) -> Tensor:
    """What people write by hand: keys of window and guide side by side per window, then one dense call."""
    query, key, value = tensors
    windows = (query.shape[0], -1, WINDOW * WINDOW, *query.shape[2:])
    near = []
    for source in (key, value):
        own, shared = source.split([layout.image, layout.guide], 1)
        own = own.view(windows)
        shared = shared[:, None].expand(-1, own.shape[1], -1, -1, -1)
        near.append(torch.cat([own, shared], 2).flatten(0, 1))
    return dense((query.view(windows).flatten(0, 1), near[0], near[1])).view(query.shape)


def window_table(side: int, dtype: torch.dtype, rounds: int, *, all_forms: bool = False) -> list[Row]:
    """Dense, gathered and local attention over own window + 1,536 shared keys, and the sliding box beside.

    Args:
        all_forms: also masked and flex attention, which form every score: for small sides.
    Raises:
        NotProven: the op's tests are red, or one of the calls measured is wrong.
    """
    require_green()
    layout, box = windows_and_shared(side), sliding_box(side)
    tensors, box_tensors = random_tensors(layout, dtype), random_tensors(box, dtype)
    errors = {"local": require_agreement(tensors, layout), "sliding box": require_agreement(box_tensors, box)}
    product_call, product_flops = matrix_product(dtype)
    calls: dict[str, Callable[[], object]] = {
        "matrix products": product_call,
        "local": lambda: hierarchical_local_attention(*tensors, layout),
        "gathered": lambda: gathered(tensors, layout),
        "dense": lambda: dense(tensors),
        "sliding box": lambda: hierarchical_local_attention(*box_tensors, box),
    }
    if all_forms:
        mask = layout.token_mask(slice(0, layout.image))
        calls["masked"] = lambda: dense(tensors, mask)
        calls["flex, eager"] = lambda: hierarchical_local_attention(*tensors, layout, backend="flex")
    with torch.no_grad():
        memory = {name: extra_mib(call) for name, call in calls.items()}
    timings = interleaved(calls, rounds, is_warm=True)
    useful = {name: _flops(layout) for name in calls} | {
        "matrix products": product_flops,
        "dense": 4 * HEADS * DIM * layout.image * layout.length,
        "sliding box": _flops(box),
    }
    peak = product_flops / timings["matrix products"].busy_s
    rows = []
    for name, timing in timings.items():
        row = _row(name, dtype, timing) | {"tokens": layout.image}
        row["gflops"] = round(useful[name] / timing.busy_s / 1e9, 1)
        row["of_peak"] = round(useful[name] / timing.busy_s / peak, 3)
        if name != "matrix products":
            row |= _ratios(timing, timings, ("dense", "gathered"))
            row["extra_mib"] = memory[name]
        if name in errors:
            row["error"] = float(f"{errors[name]:.1e}")
            row["backend"] = choose(layout, tensors[0], "auto").backend
        rows.append(row)
    return rows


def order_table(side: int, dtype: torch.dtype, rounds: int) -> list[Row]:
    """What the token order buys: key blocks touched, and time of exact and of block-wise attention.

    Raises:
        NotProven: as for `window_table`.
    """
    require_green()
    orders: tuple[OrderName, ...] = ("raster", "window_raster", "window_hilbert", "hilbert")
    calls: dict[str, Callable[[], object]] = {}
    for order in orders:
        exact = sliding_box(side, order)
        blocks = AttentionLayout(
            64, (side, side), (side // 4, side // 4), WINDOW, order=order, dilate=(128, 64)
        )
        tensors = random_tensors(exact, dtype)
        for kind, layout in (("exact", exact), ("blocks", blocks)):
            require_agreement(tensors, layout)
            calls[f"{order}, {kind}"] = partial(hierarchical_local_attention, *tensors, layout)
    timings = interleaved(calls, rounds)
    rows = []
    for order in orders:
        plain = AttentionLayout(0, (side, side), None, WINDOW, order=order)
        touched = plain.block_map((128, 64))
        rows.append(
            {
                "order": order,
                "tokens": side * side,
                "dtype": _name(dtype),
                "key_blocks": round(touched.count / touched.shape[0], 1),
                "exact_ms": round(timings[f"{order}, exact"].busy_s * 1e3),
                "blocks_ms": round(timings[f"{order}, blocks"].busy_s * 1e3),
            }
        )
    return rows


def accuracy_table(backends: tuple[str, ...] = ("sdpa", "explicit")) -> list[Row]:
    """Back ends against the reference in fp64 on odd grids: worst relative error over texts and guides.

    Raises:
        NotProven: an error above 1e-5 in fp32 or 2e-2 in bf16.
    """
    rows = []
    for grid, dtype, backend in product(ODD_GRIDS, (torch.float32, torch.bfloat16), backends):
        errors = {}
        for name, layout in _odd_layouts(grid):
            errors[name] = require_agreement(random_tensors(layout, dtype, batch=2, heads=2), layout, backend)
        rows.append(
            {"grid": f"{grid[0]}x{grid[1]}", "dtype": _name(dtype), "backend": backend}
            | {name: float(f"{error:.1e}") for name, error in errors.items()}
        )
    return rows


def _odd_layouts(grid: tuple[int, int]) -> Iterator[tuple[str, AttentionLayout]]:
    guide = (grid[0] // 4 + 1, grid[1] // 5)
    for text in TEXTS:
        yield f"text {text}", AttentionLayout(text, grid, guide)
    yield "text 7, no guide", AttentionLayout(7, grid)
    yield "own window, all guide", AttentionLayout(7, grid, guide, local="own", image_to_guide="all")


def _flops(layout: AttentionLayout) -> int:
    """Useful operations of the text and image rows."""
    pairs = int(layout.keys_per_query()[: layout.text + layout.image].sum())
    return 4 * HEADS * DIM * pairs


def _row(name: str, dtype: torch.dtype, timing: Timing) -> Row:
    return {
        "form": name,
        "dtype": _name(dtype),
        "wall_ms": round(timing.wall_s * 1e3, 1),
        "busy_ms": round(timing.busy_s * 1e3, 1),
        "least_ms": round(timing.least_s * 1e3, 1),
    }


def _ratios(timing: Timing, timings: dict[str, Timing], others: tuple[str, ...]) -> Row:
    return {f"vs_{name}": round(timings[name].busy_s / timing.busy_s, 2) for name in others}


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")

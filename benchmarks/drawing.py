"""Draw token orders: `python -m benchmarks.drawing docs/images/token_orders.svg`."""

import sys
from pathlib import Path

import torch

from pipelines.kernels.hilbert.order import OrderName
from pipelines.kernels.local_attention.layout import AttentionLayout

_SIDE, _WINDOW, _RADIUS, _QUERIES, _KEYS = 24, 8, 4, 32, 16
_BLOCK = 10  # the query block that is drawn
_CELL, _GAP, _TOP = 10, 30, 34
_PANELS: tuple[tuple[OrderName, str], ...] = (
    ("raster", "raster"),
    ("window_raster", "windows, raster inside"),
    ("window_hilbert", "windows, Hilbert inside"),
)


def drawing() -> str:
    """An SVG of three panels: the order as a line, a block of queries, the key blocks it touches."""
    width = len(_PANELS) * (_SIDE * _CELL + _GAP) + _GAP
    height = _SIDE * _CELL + _TOP + _GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, (order, title) in enumerate(_PANELS):
        left = _GAP + number * (_SIDE * _CELL + _GAP)
        parts.append(f'<g transform="translate({left} {_TOP})">{_panel(order, title)}</g>')
    return "\n".join([*parts, "</svg>", ""])


def _panel(order: OrderName, title: str) -> str:
    layout = AttentionLayout(0, (_SIDE, _SIDE), None, _WINDOW, order=order, radius=_RADIUS)
    blocks = layout.block_map((_QUERIES, _KEYS))
    start, stop = blocks.offsets[_BLOCK : _BLOCK + 2].tolist()
    places = layout.image_order.order
    touched = torch.cat([places[block * _KEYS : (block + 1) * _KEYS] for block in blocks.indices[start:stop]])
    queries = places[_BLOCK * _QUERIES : (_BLOCK + 1) * _QUERIES]
    line = " ".join(f"{x * _CELL + _CELL // 2},{y * _CELL + _CELL // 2}" for y, x in map(_place, places))
    side = _SIDE * _CELL
    return "".join(
        [
            f'<text y="-12" font-size="12" fill="#222">{title}: {stop - start} key blocks</text>',
            f'<path d="{_squares(touched)}" fill="#cfe3f6"/>',
            f'<path d="{_squares(queries)}" fill="#f3a65b"/>',
            f'<polyline points="{line}" fill="none" stroke="#345" stroke-width="1"/>',
            f'<rect width="{side}" height="{side}" fill="none" stroke="#999"/>',
        ]
    )


def _squares(tokens: torch.Tensor) -> str:
    return "".join(f"M{x * _CELL} {y * _CELL}h{_CELL}v{_CELL}h-{_CELL}z" for y, x in map(_place, tokens))


def _place(token: torch.Tensor) -> tuple[int, int]:
    row, column = divmod(int(token), _SIDE)
    return row, column


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(drawing())

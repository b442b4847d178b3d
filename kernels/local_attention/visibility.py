"""Whether one token may see another, pair by pair and in tensor arithmetic only.

The token mask, the bit masks of the block-sparse kernel and the mask function of flex attention are all this
one function at different indices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .layout import AttentionLayout

TEXT, IMAGE, GUIDE = 0, 1, 2
HIDDEN, VISIBLE = 0, 1
# Rules from here on mean "near in that field": a plane in which both tokens of a pair have a place.
NEAR = 2
IMAGE_FIELD, CELL_FIELD, GUIDE_FIELD = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Visibility:
    """The token mask of a layout as a function of two positions in sequence order.

    Attributes:
        kinds: int32 `[length]`: `TEXT`, `IMAGE` or `GUIDE`.
        rules: by kinds of query and key: `HIDDEN`, `VISIBLE`, or `NEAR` + field.
        places: int32 `[3, 2, length]`: row and column of each token per field; 0 where it has none.
        reach: largest Chebyshev distance per field.
        blocks: bool `[query blocks, key blocks]` of a dilated layout, which then decides alone; else None.
        block: sizes of those blocks.
    """

    kinds: Tensor
    rules: tuple[tuple[int, int, int], ...]
    places: Tensor
    reach: tuple[int, int, int]
    blocks: Tensor | None
    block: tuple[int, int]

    def visible(self, query: Tensor, key: Tensor) -> Tensor:
        """bool of the broadcast shape of two int tensors of positions in [0, length)."""
        if self.blocks is not None:
            return self.blocks[query // self.block[0], key // self.block[1]]
        query_kinds, key_kinds = self.kinds[query], self.kinds[key]
        seen = (query_kinds < 0) & (key_kinds < 0)  # nothing yet, in the shape of the result
        for of_query, line in enumerate(self.rules):
            for of_key, rule in enumerate(line):
                if rule == HIDDEN:
                    continue
                pair = (query_kinds == of_query) & (key_kinds == of_key)
                seen = seen | (pair if rule == VISIBLE else pair & self._near(query, key, rule - NEAR))
        return seen

    def _near(self, query: Tensor, key: Tensor, field: int) -> Tensor:
        row, col = self.places[field, 0], self.places[field, 1]
        reach = self.reach[field]
        return ((row[query] - row[key]).abs() <= reach) & ((col[query] - col[key]).abs() <= reach)

    def to(self, device: torch.device | str) -> Visibility:
        blocks = None if self.blocks is None else self.blocks.to(device)
        return replace(self, kinds=self.kinds.to(device), places=self.places.to(device), blocks=blocks)


@lru_cache(maxsize=16)
def visibility(layout: AttentionLayout) -> Visibility:
    """The visibility of a layout, on the CPU, cached."""
    image_end = layout.text + layout.image
    image, guide = slice(layout.text, image_end), slice(image_end, layout.length)
    kinds = torch.full((layout.length,), TEXT, dtype=torch.int32)
    kinds[image], kinds[guide] = IMAGE, GUIDE
    places = torch.zeros(3, 2, layout.length, dtype=torch.int32)
    order, cols = layout.image_order.order, layout.grid[1]
    windows = 1 if layout.local == "radius" else layout.window
    places[IMAGE_FIELD][:, image] = torch.stack([order // cols // windows, order % cols // windows]).int()
    local = {"radius": layout.radius, "own": 0, "ring": 1}[layout.local]
    if layout.guide_grid is not None:
        order, cols = layout.guide_order.order, layout.guide_grid[1]
        places[GUIDE_FIELD][:, guide] = torch.stack([order // cols, order % cols]).int()
        if layout.image_to_guide not in ("all", "none"):
            _place_in_cells(places[CELL_FIELD], layout, image, guide)
    reach = (local, 0 if layout.image_to_guide == "aligned" else 1, layout.guide_radius)
    dense = None if layout.dilate is None else layout.block_map().dense()
    return Visibility(kinds, _rules(layout), places, reach, dense, layout.dilate or (1, 1))


def _place_in_cells(places: Tensor, layout: AttentionLayout, image: slice, guide: slice) -> None:
    cells = layout.guide_cells
    # The authors' rule compares window numbers, not their rows and columns: one long row of cells.
    across = cells.visible.shape[0] if layout.image_to_guide == "upstream_raster1" else cells.across
    for part, numbers, order in (
        (image, cells.of_image, layout.image_order.order),
        (guide, cells.of_guide, layout.guide_order.order),
    ):
        places[0, part], places[1, part] = (numbers // across)[order].int(), (numbers % across)[order].int()


def _rules(layout: AttentionLayout) -> tuple[tuple[int, int, int], ...]:
    to_guide = {"all": VISIBLE, "none": HIDDEN}.get(layout.image_to_guide, NEAR + CELL_FIELD)
    guide_to_guide = VISIBLE if layout.guide_to_guide == "all" else NEAR + GUIDE_FIELD
    return (
        (VISIBLE, VISIBLE, VISIBLE if layout.text_to_guide else HIDDEN),
        (VISIBLE, NEAR + IMAGE_FIELD, to_guide),
        (VISIBLE if layout.guide_to_text else HIDDEN, HIDDEN, guide_to_guide),
    )

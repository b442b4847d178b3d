"""Who may see whom: one frozen description of a sequence `[text | high-res | low-res]`.

The same layout yields the token mask (the definition), the block map (for block-sparse kernels) and the tile
plan (for the back ends of this folder). It follows the mask of Scale-DiT (arXiv 2510.16325), and adds choices
that the authors' code lacks: exact masks, any grid, any ratio, guide neighbourhoods in two dimensions.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Literal, get_args

import torch
from torch import Tensor

from ..hilbert.order import ORDER_NAMES, OrderName, TokenOrder, token_order
from .blocks import BlockMap, block_map
from .cells import GuideCells, Reach, guide_cells
from .visibility import visibility

LocalMode = Literal["own", "ring", "radius"]
Mode = Literal["exact", "block", "window"]
ImageToGuide = Literal["all", "aligned", "neighbours", "upstream_raster1", "none"]


@dataclass(frozen=True)
class AttentionLayout:
    """Visibility of a sequence `[text | image | guide]`; hashable, so plans are cached per layout.

    Attributes:
        text: number of text tokens, 0 or more. Text sees text and image.
        grid: (rows, columns) of the image tokens.
        guide_grid: (rows, columns) of the low-res tokens, or None. Any ratio to `grid`, also per axis.
        window: window side in tokens, for the order and for `own`, `ring` and the guide neighbourhoods.
        order: name of the image token order; the guide follows the same kind with windows of `guide_window`.
        local: image tokens see their own window, the 3 x 3 windows around it, or all tokens at a Chebyshev
            distance of at most `radius`. All three are cut at the borders.
        radius: reach in tokens of `local="radius"`.
        dilate: None for the exact token mask; (query block, key block) computes every pair of a block in
            which one pair is visible, as the authors' kernel does with (128, 64): their weights rely on it.
        image_to_guide: which guide tokens an image token sees. "aligned": those under its own window;
            "neighbours": under its own and the 8 windows around; "upstream_raster1": the authors' rule,
            windows whose raster numbers differ by at most one (wraps at the row ends); "all"; "none".
        text_to_guide, guide_to_text: whether those see each other. Guide tokens never see image tokens.
        guide_to_guide: "all", or "radius" for a Chebyshev distance of at most `guide_radius`.
        code: all of the above in one line, for operators that take plain values; `layout_of` reads it.

    Raises:
        ValueError: a value out of range, with what was expected.
    """

    text: int
    grid: tuple[int, int]
    guide_grid: tuple[int, int] | None = None
    window: int = 16
    order: OrderName = "window_hilbert"
    local: LocalMode = "radius"
    radius: int = 8
    dilate: tuple[int, int] | None = None
    image_to_guide: ImageToGuide = "neighbours"
    text_to_guide: bool = False
    guide_to_text: bool = False
    guide_to_guide: Reach = "all"
    guide_radius: int = 2
    code: str = field(init=False, repr=False, compare=False)

    @classmethod
    def for_mode(
        cls,
        mode: Mode,
        text: int,
        grid: tuple[int, int],
        guide_grid: tuple[int, int] | None = None,
        *,
        order: OrderName | None = None,
    ) -> AttentionLayout:
        """One of the three patterns that the studio offers.

        Args:
            mode: "exact": a sliding box of radius 8 and the 3 x 3 guide windows around; the token order
                changes nothing but speed. "block": the block map that released Scale-DiT weights rely on,
                128 queries x 64 keys, in the authors' order. "window": each 16 x 16 window sees itself and
                the whole guide.
            order: another token order than the mode's own; refused for "block", which it would change.

        Raises:
            ValueError: unknown mode, an order for "block", or a value out of range.
        """
        if mode not in get_args(Mode):
            raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        if mode == "block":
            if order not in (None, "window_raster"):
                raise ValueError(f'mode "block" is tied to the order window_raster, got {order!r}')
            return cls(
                text,
                grid,
                guide_grid,
                order="window_raster",
                dilate=(128, 64),
                image_to_guide="upstream_raster1",
                guide_to_guide="radius",
            )
        chosen = order or "window_hilbert"
        if mode == "window":
            return cls(text, grid, guide_grid, order=chosen, local="own", image_to_guide="all")
        return cls(text, grid, guide_grid, order=chosen)

    def __post_init__(self) -> None:
        for name in ("grid", "guide_grid", "dilate"):
            pair = getattr(self, name)
            if pair is None and name != "grid":
                continue
            if len(pair) != 2 or min(pair) < 1:
                raise ValueError(f"{name} must be two whole numbers of at least 1, got {pair!r}")
            object.__setattr__(self, name, (int(pair[0]), int(pair[1])))
        for name, least in (("text", 0), ("window", 1), ("radius", 0), ("guide_radius", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        choices = {
            "order": ORDER_NAMES,
            "local": get_args(LocalMode),
            "image_to_guide": get_args(ImageToGuide),
            "guide_to_guide": get_args(Reach),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}")
        values = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.init}
        object.__setattr__(self, "code", json.dumps(values))

    @property
    def image(self) -> int:
        """Number of image tokens."""
        return self.grid[0] * self.grid[1]

    @property
    def guide(self) -> int:
        """Number of low-res tokens."""
        return self.guide_grid[0] * self.guide_grid[1] if self.guide_grid else 0

    @property
    def length(self) -> int:
        """Number of tokens of the whole sequence."""
        return self.text + self.image + self.guide

    @property
    def guide_window(self) -> tuple[int, int]:
        """Rows and columns of the guide's windows in its order: the image window over the whole ratio."""
        if self.guide_grid is None:
            return (1, 1)
        row_ratio = max(self.grid[0] // self.guide_grid[0], 1)
        col_ratio = max(self.grid[1] // self.guide_grid[1], 1)
        return max(self.window // row_ratio, 1), max(self.window // col_ratio, 1)

    @property
    def image_order(self) -> TokenOrder:
        """Order of the image tokens; apply it once before the first layer and undo it once after the last."""
        return token_order(*self.grid, self.order, self.window)

    @property
    def guide_order(self) -> TokenOrder:
        """Order of the low-res tokens.

        Raises:
            ValueError: the layout has no guide.
        """
        if self.guide_grid is None:
            raise ValueError("this layout has no guide tokens")
        return token_order(*self.guide_grid, self.order, self.guide_window)

    @property
    def guide_cells(self) -> GuideCells:
        """The cells that decide which guide tokens an image token sees."""
        assert self.guide_grid is not None and self.image_to_guide not in ("all", "none")
        return guide_cells(self.grid, self.guide_grid, self.window, self.image_to_guide)

    def token_mask(self, rows: slice = slice(None)) -> Tensor:
        """Rows of the token mask: the definition that every back end has to meet.

        Args:
            rows: which queries; take few at a time, the whole mask has `length` squared entries.

        Returns:
            bool `[len(rows), length]`, True where the query may see the key, both in sequence order.
        """
        positions = torch.arange(self.length)
        return visibility(self).visible(positions[rows, None], positions)

    def block_map(self, block: tuple[int, int] | None = None) -> BlockMap:
        """Blocks of (query tokens, key tokens) that hold a visible pair, as compressed rows.

        Args:
            block: block sizes; default `dilate`, or (128, 64). With `dilate` they must divide its sizes.
        """
        return block_map(self, block or self.dilate or (128, 64))

    def keys_per_query(self) -> Tensor:
        """Number of visible keys of each query: int64 `[length]`."""
        from .plan import tile_plan  # the plan is built from a layout, so it cannot be imported above

        return tile_plan(self).keys_per_query()

    def flops(self, batch: int, heads: int, head_dim: int) -> int:
        """Useful floating-point operations of one call: 4 * batch * heads * head_dim * visible pairs."""
        return 4 * batch * heads * head_dim * int(self.keys_per_query().sum())


@lru_cache(maxsize=64)
def layout_of(code: str) -> AttentionLayout:
    """The layout whose `code` this is."""
    return AttentionLayout(**json.loads(code))

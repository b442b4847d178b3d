"""How the stages after the first are painted: their options, and who sees whom."""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from pipelines.kernels.hilbert.order import ORDER_NAMES, OrderName
from pipelines.kernels.local_attention.layout import AttentionLayout
from pipelines.scale_dit.positions import AnchorRule, RopeFactors
from pipelines.scale_dit.schedule import FrequencySchedule
from pipelines.scale_dit.stages import DENSE_LIMIT, Stage

AttentionMode = Literal["exact", "block", "window"]
GuideMode = Literal["cached", "along", "reads_text"]
EnlargeMode = Literal["latents", "pixels", "sharpened"]
Solver = Literal["adams_bashforth", "euler"]
RADIUS = 4  # tokens that image tokens see to each side; training crops hold such boxes whole
OWN_WINDOW = 16  # side in tokens of the windows of "window"
GUIDE_WINDOW = 2  # side in guide tokens of the windows of "exact", of which 3 x 3 are seen
AUTHORS_RADIUS = 8
BLOCK = (128, 64)  # queries and keys of a block of the authors' kernel
BLOCK_SIZE_PX = 256  # sides in this multiple keep text, image and guide on borders of blocks
AUTHORS_GUIDE_RADIUS = 2


@dataclass(frozen=True)
class HighResOptions:
    """Choices for every stage after the first. The defaults are Storybook's.

    Attributes:
        attention: which image tokens an image token sees beside the text and the guide windows around it.
            "exact": a box of radius 4, per token, so that the order changes nothing. "block": the authors'
            inference mask widened to their kernel's blocks of 128 queries and 64 keys, in their order, which
            released LoRAs expect; every stage's sides must be multiples of 256 px. "window": the token's own
            window of 16 x 16.
        order: token order of "exact" and "window"; "block" has its own.
        enlarge: how the stage before becomes the start: "latents", bicubic in latent space (the authors'
            later code; cheap, but many autoencoders decode such latents to grids); "pixels", decoded, bicubic
            and encoded again; "sharpened", the same with an unsharp mask (the authors' FLUX.1 release).
        anchors: positions of guide tokens, "centred" floats or the authors' "official" whole numbers.
        ntk_factor, linear_factor: factors of the rotary frequencies (`RopeFactors`).
        guide: "cached": encoded once per stage. "along": encoded anew in every step, for less memory and the
            same picture. "reads_text": in every step, and it sees the text, as in the authors' training.
        guidance_scale: of these stages. With classifier-free guidance the default is 1 (none: one pass per
            step); for a transformer with a guidance embedding it is that of the first stage.
        guidance_interval: noise levels within which classifier-free guidance acts; outside of it one pass
            does.
        solver: of these stages' steps: "euler", as the authors have it, or "adams_bashforth", of second order
            at the same price (the velocity's change since the step before is carried on; F. Bashforth and
            J. C. Adams, 1883): eight such steps paint more detail than sixteen of Euler's.
        low_frequencies: pull the velocity towards the enlarged picture of the stage before, by the schedule
            of `guide_frequencies`.
    Raises:
        ValueError: a value out of range, with what is allowed.
    """

    attention: AttentionMode = "exact"
    order: OrderName = "window_hilbert"
    enlarge: EnlargeMode = "pixels"
    anchors: AnchorRule = "centred"
    ntk_factor: float = 1.0
    linear_factor: float = 1.0
    guide: GuideMode = "cached"
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] = (0.0, 1.0)
    solver: Solver = "adams_bashforth"
    low_frequencies: FrequencySchedule = "none"

    def __post_init__(self) -> None:
        choices = {
            "attention": get_args(AttentionMode),
            "order": ORDER_NAMES,
            "enlarge": get_args(EnlargeMode),
            "anchors": get_args(AnchorRule),
            "guide": get_args(GuideMode),
            "solver": get_args(Solver),
            "low_frequencies": get_args(FrequencySchedule),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(allowed)}")
        if self.attention == "block" and self.order != "window_hilbert":
            raise ValueError(f"order is {self.order!r}; attention 'block' has an order of its own")
        if self.guidance_scale is not None and not math.isfinite(self.guidance_scale):
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be finite")
        low, high = self.guidance_interval
        if not 0.0 <= low < high <= 1.0:
            raise ValueError(f"guidance_interval is {self.guidance_interval}; it must rise within [0, 1]")
        _ = self.rope

    @property
    def rope(self) -> RopeFactors:
        """Factors of the rotary frequencies."""
        return RopeFactors(self.ntk_factor, self.linear_factor)

    @property
    def text_multiple(self) -> int:
        """Text is padded to a multiple of so many tokens (or to the limit, when that is less)."""
        return 512 if self.attention == "block" else 8

    def check_stages(self, stages: tuple[Stage, ...]) -> None:
        """Raise ValueError when a stage after the first has a size that these options can't paint."""
        for stage in stages[1:]:
            if self.attention == "block" and (stage.height % BLOCK_SIZE_PX or stage.width % BLOCK_SIZE_PX):
                raise ValueError(
                    f"a stage is {stage.width}x{stage.height} px; attention 'block' needs sides that are "
                    f"multiples of {BLOCK_SIZE_PX}"
                )

    def check_text(self, widths: tuple[int, ...]) -> None:
        """Raise ValueError when these options can't take a text of so many tokens."""
        for width in widths:
            if self.attention == "block" and width % BLOCK[0]:
                raise ValueError(
                    f"text has {width} tokens; attention 'block' needs a multiple of {BLOCK[0]}: give such a "
                    "max_sequence_length"
                )

    def layout(self, grid: tuple[int, int], guide_grid: tuple[int, int]) -> AttentionLayout | None:
        """Who sees whom among the image and guide tokens of a stage; None: image tokens see everything."""
        reads = self.guide == "reads_text"
        if self.attention == "block":
            return AttentionLayout(
                0, grid, guide_grid, order="window_raster", radius=AUTHORS_RADIUS, dilate=BLOCK,
                image_to_guide="upstream_raster1", guide_to_text=reads,
                guide_to_guide="radius", guide_radius=AUTHORS_GUIDE_RADIUS,
            )  # fmt: skip
        if self.attention == "exact" and grid[0] * grid[1] <= DENSE_LIMIT:
            return None
        small = guide_grid[0] * guide_grid[1] <= DENSE_LIMIT
        own = self.attention == "window"
        ratio = min(side / low for side, low in zip(grid, guide_grid, strict=True))
        window = OWN_WINDOW if own else GUIDE_WINDOW * max(round(ratio), 2)
        return AttentionLayout(
            0, grid, guide_grid, window, order=self.order, radius=RADIUS,
            local="own" if own else "radius", guide_to_text=reads,
            guide_to_guide="all" if small else "radius", guide_radius=RADIUS,
        )  # fmt: skip


# with 28 + 18 steps, high_res_strength 27 / 32 (18 / 28 before a shift of 3) and guidance 3.5: FLUX.1
FLUX1_RELEASE = HighResOptions(
    attention="block", enlarge="sharpened", anchors="official", ntk_factor=10.0, guidance_scale=4.5,
    solver="euler",
)  # fmt: skip
# with 50 + 18 steps, strength 1 and guidance 4: FLUX.2-klein-base
FLUX2_BASE_RELEASE = replace(FLUX1_RELEASE, enlarge="latents", guidance_scale=8.0)
# with 4 + 4 steps, strength 1 and guidance 1: FLUX.2-klein
FLUX2_RELEASE = replace(FLUX2_BASE_RELEASE, ntk_factor=1.0, guidance_scale=1.0)


def guide_layout(layout: AttentionLayout) -> AttentionLayout | None:
    """Attention of guide tokens alone among themselves, as `layout` has it; None: all see all.

    Raises:
        ValueError: a guide that can't be encoded alone.
    """
    assert layout.guide_grid is not None
    if layout.guide_to_guide == "all":
        return None
    window = layout.window
    if layout.dilate is not None:  # then the order decides who sees whom: it must be the guide's own
        down, across = layout.guide_window
        if down != across:
            raise ValueError(f"enlarging by about {16 // down}x{16 // across} can't keep the authors' blocks")
        window = down
    return AttentionLayout(
        0, layout.guide_grid, window=window, order=layout.order, radius=layout.guide_radius,
        dilate=layout.dilate,
    )  # fmt: skip

"""SCOP's rules: which pairs of boxes show an unambiguous relation, and what that relation is.

Boxes here are COCO's (left, top, width, height) in pixels, y downwards. Section numbers and thresholds are
those of arXiv 2412.13195 and its code; where the two differ, the "official" profile follows the code (sum of
areas instead of their union, comparisons that include equality).
"""

# Shape letters: P pairs.

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
PROFILES = ("official", "strict")

LEFT, RIGHT, ABOVE, BELOW = "to the left of", "to the right of", "above", "below"
OPPOSITE = {LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE}


@dataclass(frozen=True)
class ScopParams:
    """Thresholds of the filter.

    Attributes:
        min_bbox_area: boxes of fewer square pixels are dropped.
        visual_significance: least share of the picture that both boxes cover (tau_v).
        spatial_clarity: largest distance of the centres in diagonals of the smaller box (tau_u).
        minimal_overlap: the intersection must be below this share of the smaller box (tau_o).
        size_balance: least ratio of the smaller to the larger area (tau_s).
        profile: "official" decides as the authors' code does. "strict" measures the union of the boxes,
            leaves out crowds, and asks that both boxes are inside the square crop and alone of their kind
            there.
        containment: strict: least share of each box inside the crop.
        uniqueness: strict: a third box of either class may show at most this share of the smaller box's area
            inside the crop.
    Raises:
        ValueError: a threshold that isn't finite or is negative, or an unknown profile.
    """

    min_bbox_area: float = 1024.0
    visual_significance: float = 0.2
    spatial_clarity: float = 2.0
    minimal_overlap: float = 0.3
    size_balance: float = 0.5
    profile: str = "official"
    containment: float = 0.9
    uniqueness: float = 0.1

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile is {self.profile!r}; it must be one of {PROFILES}")
        for name, value in vars(self).items():
            if name != "profile" and not 0 <= value < float("inf"):
                raise ValueError(f"{name} is {value}; it must be finite and not negative")


# thresholds that the authors tuned for the position task of GenEval
GENEVAL_PARAMS = ScopParams(
    visual_significance=0.40087064191445176,
    spatial_clarity=1.077654397636866,
    minimal_overlap=0.23206626338746755,
    size_balance=0.4823213426319574,
)


def box_problem(box: Any) -> str | None:
    """Why something is no box, as the end of a sentence; None when it is one."""
    if not isinstance(box, list | tuple) or len(box) != 4:
        return f"bbox is {box!r:.60}; it must be [left, top, width, height]"
    if any(isinstance(value, bool) or not isinstance(value, int | float) for value in box):
        return f"bbox is {box!r:.60}; it must hold four numbers"
    if not all(abs(value) < 1e9 for value in box):  # also false for NaN
        return f"bbox is {box!r:.60}; its numbers must be finite"
    if box[2] <= 0 or box[3] <= 0:
        return f"bbox is {box!r:.60}; width and height must be above 0"
    return None


@dataclass(frozen=True)
class Verdicts:
    """What each constraint says of P pairs, `[P]` each; True: the pair passes it."""

    visual_significance: Bools
    semantic_distinction: Bools
    spatial_clarity: Bools
    minimal_overlap: Bools
    size_balance: Bools

    @property
    def accepted(self) -> Bools:
        constraints = list(vars(self).values())
        return np.logical_and.reduce(constraints)


def judge_pairs(
    first: Floats, second: Floats, different: Bools, picture_area: tuple[Floats, Floats], params: ScopParams
) -> Verdicts:
    """Apply the five constraints to pairs whose boxes are large enough already.

    Args:
        first, second: boxes `[P, 4]` float64.
        different: `[P]`, the two have different categories.
        picture_area: widths and heights of the pictures, `[P]` each.
    """
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first.T, second.T
    area1, area2 = w1 * h1, w2 * h2
    smaller, larger = np.minimum(area1, area2), np.maximum(area1, area2)
    across = np.minimum(x1 + w1, x2 + w2) - np.maximum(x1, x2)
    down = np.minimum(y1 + h1, y2 + h2) - np.maximum(y1, y2)
    disjoint = (across < 0) | (down < 0)
    shared = np.where(disjoint, 0.0, across * down)
    covered = area1 + area2
    if params.profile == "strict":
        covered = covered - shared
    dx, dy = (x1 + w1 / 2) - (x2 + w2 / 2), (y1 + h1 / 2) - (y2 + h2 / 2)
    diagonal = np.minimum(np.sqrt(w1 * w1 + h1 * h1), np.sqrt(w2 * w2 + h2 * h2))
    width, height = picture_area
    return Verdicts(
        visual_significance=covered >= params.visual_significance * (width * height),
        semantic_distinction=different,
        spatial_clarity=np.sqrt(dx * dx + dy * dy) <= params.spatial_clarity * diagonal,
        minimal_overlap=disjoint | (shared < params.minimal_overlap * smaller),
        size_balance=smaller >= params.size_balance * larger,
    )


def scop_relations(first: Sequence[float], second: Sequence[float]) -> list[str]:
    """Relations of two boxes: the first half reads first to second, the other half second to first.

    Two phrases for a plain relation, four for a diagonal one (both orders of the axes). An axis decides when
    the boxes overlap less on it; equal overlaps are vertical, equal centres read "right" and "below".

    Raises:
        ValueError: a box without extent.
    """
    for box in (first, second):
        if (problem := box_problem(list(box))) is not None:
            raise ValueError(problem)
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    across = LEFT if x1 + w1 / 2 < x2 + w2 / 2 else RIGHT
    down = ABOVE if y1 + h1 / 2 < y2 + h2 / 2 else BELOW
    overlap_x = max(0, min(x1 + w1, x2 + w2) - max(x1, x2)) / min(w1, w2)
    overlap_y = max(0, min(y1 + h1, y2 + h2) - max(y1, y2)) / min(h1, h2)
    if overlap_x < 1 / 3 and overlap_y < 1 / 3:
        pairs = [(across, down), (down, across)]
        pairs += [(OPPOSITE[across], OPPOSITE[down]), (OPPOSITE[down], OPPOSITE[across])]
        return [" and ".join(pair) for pair in pairs]
    relation = across if overlap_x < overlap_y else down
    return [relation, OPPOSITE[relation]]


def triples(first_name: str, second_name: str, relations: Sequence[str]) -> list[tuple[str, str, str]]:
    """(subject, relation, object) for each phrase of `scop_relations`."""
    half = len(relations) // 2
    return [
        (first_name, relation, second_name) if index < half else (second_name, relation, first_name)
        for index, relation in enumerate(relations)
    ]


def mirrored(relation: str) -> str:
    """The relation in the mirror image: left and right change places."""
    return relation.replace("left", "\0").replace("right", "left").replace("\0", "right")

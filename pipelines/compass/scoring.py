"""Spatial scores of three benchmarks, on boxes alone: VISOR, GenEval position, T2I-CompBench 2D spatial.

Boxes are (left, top, right, bottom), y downwards. A detector is anything that gives `Detected` objects; its
name and thresholds belong beside every score.
"""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.compass.relations import ABOVE, BELOW, LEFT, PLAIN, RIGHT, axis_signs

VISOR_THRESHOLD = 0.1
GENEVAL_THRESHOLD = 0.3
GENEVAL_MARGIN = 0.1
T2I_IOU = 0.1
T2I_DISTANCE_PX = 150.0  # for pictures of 512 px
_T2I_NEAR = frozenset({"next to", "near", "on side of"})
_T2I_WAYS = {
    "on the left of": ("x", 1),
    "on the right of": ("x", -1),
    "on the top of": ("y", 1),
    "on the bottom of": ("y", -1),
}
Box = Sequence[float]


@dataclass(frozen=True)
class Detected:
    """One found object: the name that was asked for, score 0 to 1, box (left, top, right, bottom)."""

    label: str
    score: float
    box: tuple[float, float, float, float]


def centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


# ---- VISOR (arXiv 2212.10015) ----


def visor_holds(first: Box, relation: str, second: Box) -> bool:
    """Whether the centres stand in a plain relation, strictly.

    Raises:
        ValueError: a relation that VISOR doesn't know.
    """
    relation = relation.removeprefix("to the ")
    if relation not in PLAIN:
        raise ValueError(f"relation is {relation!r}; VISOR knows {PLAIN}")
    (ax, ay), (bx, by) = centre(first), centre(second)
    return {LEFT: ax < bx, RIGHT: ax > bx, ABOVE: ay < by, BELOW: ay > by}[relation]


@dataclass(frozen=True)
class VisorImage:
    """One picture of one prompt: which object it shows, and whether some pair of them stands right."""

    prompt: Hashable
    has_first: bool
    has_second: bool
    is_right: bool

    @property
    def has_both(self) -> bool:
        return self.has_first and self.has_second


def visor_image(
    prompt: Hashable,
    detected: Iterable[Detected],
    first: str,
    relation: str,
    second: str,
    threshold: float = VISOR_THRESHOLD,
) -> VisorImage:
    """Judge a picture; detections count above (not at) the threshold, and any pair of boxes may be right."""
    kept = [item for item in detected if item.score > threshold]
    firsts = [item.box for item in kept if item.label == first]
    seconds = [item.box for item in kept if item.label == second]
    right = any(visor_holds(a, relation, b) for a in firsts for b in seconds)
    return VisorImage(prompt, bool(firsts), bool(seconds), right)


@dataclass(frozen=True)
class VisorScores:
    """Percentages.

    Attributes:
        first, second: pictures that show that object (OA_A, OA_B). both: that show both (OA).
        conditional: of those, the share that is right. unconditional: right pictures of all.
        at_least: prompts with at least 1, 2, 3, 4 right pictures (VISOR_1 to VISOR_4).
        images, prompts: how many were counted.
    """

    first: float
    second: float
    both: float
    conditional: float
    unconditional: float
    at_least: tuple[float, ...]
    images: int
    prompts: int


def visor(images: Sequence[VisorImage], per_prompt: int = 4) -> VisorScores:
    """Scores over all pictures; those without any detection count as wrong.

    Raises:
        ValueError: no picture.
    """
    if not images:
        raise ValueError("VISOR needs at least one picture")
    count, both = len(images), sum(image.has_both for image in images)
    right = sum(image.has_both and image.is_right for image in images)
    by_prompt: dict[Hashable, int] = {}
    for image in images:
        by_prompt[image.prompt] = by_prompt.get(image.prompt, 0) + (image.has_both and image.is_right)
    return VisorScores(
        first=100 * sum(image.has_first for image in images) / count,
        second=100 * sum(image.has_second for image in images) / count,
        both=100 * both / count,
        conditional=100 * right / both if both else 0.0,
        unconditional=100 * right / count,
        at_least=tuple(
            100 * sum(hits >= least for hits in by_prompt.values()) / len(by_prompt)
            for least in range(1, per_prompt + 1)
        ),
        images=count,
        prompts=len(by_prompt),
    )


# ---- GenEval (arXiv 2310.11513) ----


def geneval_offset(first: Box, second: Box, margin: float = GENEVAL_MARGIN) -> tuple[float, float]:
    """Where `first` lies as seen from `second`: the offset of the centres, less a margin, by its own length.

    The margin is `margin` times the sum of both widths (heights). Components lie in [-1, 1]; (0, 0) is
    "nowhere clear".
    """
    (ax, ay), (bx, by) = centre(first), centre(second)
    dx, dy = ax - bx, ay - by
    spare_x = margin * ((first[2] - first[0]) + (second[2] - second[0]))
    spare_y = margin * ((first[3] - first[1]) + (second[3] - second[1]))
    rx, ry = (math.copysign(max(abs(d) - spare, 0.0), d) for d, spare in ((dx, spare_x), (dy, spare_y)))
    if abs(rx) < 1e-3 and abs(ry) < 1e-3:
        return 0.0, 0.0
    length = math.sqrt(dx * dx + dy * dy)
    return rx / length, ry / length


def geneval_relations(first: Box, second: Box, margin: float = GENEVAL_MARGIN) -> set[str]:
    """Relations of `first` to `second`; one for each axis may hold."""
    dx, dy = geneval_offset(first, second, margin)
    held = {LEFT: dx < -0.5, RIGHT: dx > 0.5, ABOVE: dy < -0.5, BELOW: dy > 0.5}
    return {relation for relation, holds in held.items() if holds}


def geneval_position(
    objects: Mapping[str, Sequence[Box]], include: Sequence[Mapping[str, Any]]
) -> tuple[bool, list[str]]:
    """Whether a picture shows what a GenEval position prompt asks for, and what it lacks.

    Args:
        objects: class -> boxes from the surest to the least sure, above the detector's threshold.
        include: the prompt's requirements: "class", "count", and for one of them "position": (relation, index
            of the requirement that it refers to). Only the first `count` boxes of a class are looked at.
    """
    reasons: list[str] = []
    groups: list[Sequence[Box] | None] = []
    for wanted in include:
        name, count = str(wanted["class"]), int(wanted.get("count", 1))
        found = list(objects.get(name, ()))[:count]
        before = len(reasons)
        if len(found) < count:
            reasons.append(f"{len(found)} of {count} {name} were found")
        elif "position" in wanted:
            relation, index = wanted["position"]
            reasons += _misplaced(name, found, str(relation), groups[index])
        groups.append(found if len(reasons) == before else None)
    return not reasons, reasons


def _misplaced(name: str, found: Sequence[Box], relation: str, others: Sequence[Box] | None) -> list[str]:
    if others is None:
        return [f"there is nothing for {name} to be {relation}"]
    for box in found:
        for other in others:
            seen = geneval_relations(box, other)
            if relation not in seen:
                return [f"{name} should be {relation}; it is {' and '.join(sorted(seen)) or 'nowhere clear'}"]
    return []


def geneval_objects(
    detected: Iterable[Detected], threshold: float = GENEVAL_THRESHOLD, most: int = 16
) -> dict[str, list[tuple[float, float, float, float]]]:
    """Class -> boxes above the threshold, surest first, at most `most` each."""
    objects: dict[str, list[tuple[float, float, float, float]]] = {}
    for item in sorted(detected, key=lambda item: -item.score):
        if item.score > threshold and len(objects.setdefault(item.label, [])) < most:
            objects[item.label].append(item.box)
    return {name: boxes for name, boxes in objects.items() if boxes}


# ---- T2I-CompBench (arXiv 2307.06350) ----


def overlap(first: Box, second: Box) -> float:
    """Intersection over union, 0 to 1."""
    across = min(first[2], second[2]) - max(first[0], second[0])
    down = min(first[3], second[3]) - max(first[1], second[1])
    shared = max(across, 0.0) * max(down, 0.0)
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (first, second))
    return shared / (areas - shared) if shared else 0.0


def t2i_position(
    locality: str, first: Box, second: Box, iou_threshold: float = T2I_IOU, distance: float = T2I_DISTANCE_PX
) -> float:
    """Score 0 to 1 of where `first` stands.

    Args:
        locality: "next to", "near", "on side of", or "on the left|right|top|bottom of". Anything else scores
            0.
        distance: what counts as near, in the unit of the boxes; the benchmark takes 150 px for 512 px
            pictures.
    """
    (ax, ay), (bx, by) = centre(first), centre(second)
    delta = {"x": bx - ax, "y": by - ay}
    if locality in _T2I_NEAR:
        longest = max(abs(delta["x"]), abs(delta["y"]))
        near = abs(delta["x"]) < distance or abs(delta["y"]) < distance
        return 1.0 if near else distance / longest
    if locality not in _T2I_WAYS:
        return 0.0
    axis, sign = _T2I_WAYS[locality]
    cross = "y" if axis == "x" else "x"
    if delta[axis] * sign <= 0 or abs(delta[axis]) <= abs(delta[cross]):
        return 0.0
    iou = overlap(first, second)
    return 1.0 if iou < iou_threshold else iou_threshold / iou


def t2i_spatial(
    detected: Iterable[Detected], first: str, locality: str, second: str, size: tuple[int, int]
) -> float:
    """Score of a picture: a quarter for the confidence of each object, half for the position; below 0.5 is 0.

    Args:
        detected: the first detection of each name counts. size: (width, height); what is near scales with it.
    """
    boxes: dict[str, Detected] = {}
    for item in detected:
        boxes.setdefault(item.label, item)
    a, b = boxes.get(first), boxes.get(second)
    score = sum(0.25 * item.score for item in (a, b) if item is not None)
    if a is not None and b is not None:
        distance = T2I_DISTANCE_PX * math.sqrt(size[0] * size[1]) / 512
        score += 0.5 * t2i_position(locality, a.box, b.box, distance=distance)
    return score if score >= 0.5 else 0.0


def t2i_depth(
    relation: str, first: Box, second: Box, depths: tuple[float, float], iou_threshold: float = 0.5
) -> float:
    """Position score of the 3D part: nearer (farther) and overlapping.

    Args:
        relation: "in front of" or "behind". depths: mean depth of each object's box, larger is nearer.
    """
    sign = axis_signs(relation).get("z")
    if sign is None:
        raise ValueError(f"relation is {relation!r}; it must be 'in front of' or 'behind'")
    if (depths[0] - depths[1]) * sign >= 0:
        return 0.0
    return min(overlap(first, second) / iou_threshold, 1.0)

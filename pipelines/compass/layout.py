"""From relations to boxes: a layout in which all of them hold, drawn without a model.

Entities start on a grid given by their order along each axis and are then moved, one violated inequality at a
time, until every relation holds with a margin (cyclic projections onto half-planes).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.compass.parser import ParsedPrompt
from pipelines.compass.relations import (
    BEHIND,
    BETWEEN,
    FRONT,
    INSIDE,
    NEXT,
    ON_TOP,
    Relation,
    axis_ranks,
    axis_signs,
)

Box = tuple[float, float, float, float]  # left, top, right, bottom relative to the picture

MARGIN = 0.06  # of the picture's shorter side, kept free along its border
GAP = 1.25  # least distance of related centres, in sides of a box
STEEPNESS = 0.35  # a plain relation may lean by this much of its distance towards the other axis
_ROUNDS = 400


@dataclass
class _Point:
    x: float
    y: float


def suggest_layout(parsed: ParsedPrompt, aspect: float = 1.0) -> dict[int, Box]:
    """A box for every entity of a prompt.

    Args:
        aspect: width over height of the picture.
    Returns:
        entity -> (left, top, right, bottom), 0 to 1. Contradictory relations are followed as far as they go,
        earlier ones first; entities without a relation stand in a free place.
    Raises:
        ValueError: an aspect that isn't positive.
    """
    if not 0 < aspect < math.inf:
        raise ValueError(f"aspect is {aspect}; it must be above 0")
    count = len(parsed.entities)
    if not count:
        return {}
    points = _start(parsed.relations, count, [entity.position for entity in parsed.entities])
    for _ in range(_ROUNDS):
        moved = max((_enforce(points, relation) for relation in parsed.relations), default=0.0)
        moved = max(moved, _separate(points, parsed.relations))
        if moved < 1e-6:
            break
    boxes = _on_page(points, aspect)
    for relation in parsed.relations:
        if relation.predicate == INSIDE:
            boxes[relation.subject] = _shrunk(boxes[relation.objects[0]], 0.5)
    return dict(enumerate(boxes))


def _start(relations: Sequence[Relation], count: int, positions: Sequence[str | None]) -> list[_Point]:
    """Ranks along each axis; who has none on an axis takes that of what it is related to."""
    ranks = {axis: axis_ranks(relations, count, axis) for axis in "xy"}
    wanted = {"left": ("x", 0), "right": ("x", 2), "top": ("y", 0), "bottom": ("y", 2)}
    for index, position in enumerate(positions):
        axis, rank = wanted.get(position or "", ("", 0))
        if axis and ranks[axis][index] is None:
            ranks[axis][index] = rank
    for _ in range(count):
        for relation in relations:
            for values in ranks.values():
                for a, b in (
                    (relation.subject, relation.objects[0]),
                    (relation.objects[0], relation.subject),
                ):
                    if values[a] is None and values[b] is not None:
                        values[a] = values[b]
    free = 0
    points = []
    for index in range(count):
        x, y = (ranks[axis][index] for axis in "xy")
        if x is None and y is None:
            x, y, free = free, 0, free + 1
        # a little apart, so that equal places have a direction to part in
        points.append(_Point((x or 0) * GAP + 0.013 * index, (y or 0) * GAP + 0.017 * index))
    return points


def _enforce(points: list[_Point], relation: Relation) -> float:
    """Move the entities of one relation until it holds; returns how far they went."""
    subject, other = points[relation.subject], points[relation.objects[0]]
    if relation.predicate == BETWEEN:
        second = points[relation.objects[1]]
        moved = _push(other, second, "x", 2 * GAP) if abs(second.y - other.y) < 2 * GAP else 0.0
        x, y = (other.x + second.x) / 2, (other.y + second.y) / 2
        moved = max(moved, abs(subject.x - x), abs(subject.y - y))
        subject.x, subject.y = x, y
        return moved
    if relation.predicate in (NEXT, INSIDE, FRONT, BEHIND):
        return _approach(
            subject, other, {NEXT: GAP, INSIDE: 0.0, FRONT: 0.45, BEHIND: 0.45}[relation.predicate]
        )
    signs = axis_signs(relation.predicate)
    moved = 0.0
    for axis, sign in signs.items():
        first, second = (subject, other) if sign < 0 else (other, subject)
        moved = max(moved, _push(first, second, axis, 1.0 if relation.predicate == ON_TOP else GAP))
    if len(signs) == 1:
        moved = max(moved, _straighten(subject, other, next(iter(signs))))
    return moved


def _push(first: _Point, second: _Point, axis: str, gap: float) -> float:
    """Make `first` come before `second` by at least `gap`, each moving half the way."""
    lack = gap - (getattr(second, axis) - getattr(first, axis))
    if lack <= 0:
        return 0.0
    setattr(first, axis, getattr(first, axis) - lack / 2)
    setattr(second, axis, getattr(second, axis) + lack / 2)
    return lack


def _straighten(first: _Point, second: _Point, axis: str) -> float:
    """Bring two entities nearly in line, so that a plain relation looks plain."""
    cross = "y" if axis == "x" else "x"
    allowed = STEEPNESS * abs(getattr(second, axis) - getattr(first, axis))
    lean = getattr(second, cross) - getattr(first, cross)
    excess = abs(lean) - allowed
    if excess <= 0:
        return 0.0
    shift = math.copysign(excess / 2, lean)
    setattr(first, cross, getattr(first, cross) + shift)
    setattr(second, cross, getattr(second, cross) - shift)
    return excess


def _approach(first: _Point, second: _Point, distance: float) -> float:
    """Bring two entities side by side at a distance of centres."""
    middle_x, middle_y = (first.x + second.x) / 2, (first.y + second.y) / 2
    sign = -1 if first.x <= second.x else 1
    moved = max(abs(first.x - middle_x - sign * distance / 2), abs(first.y - middle_y))
    first.x, second.x = middle_x + sign * distance / 2, middle_x - sign * distance / 2
    first.y = second.y = middle_y
    return moved


def _separate(points: list[_Point], relations: Sequence[Relation]) -> float:
    """Push entities apart that nothing relates and that would cover each other."""
    related = {frozenset((relation.subject, item)) for relation in relations for item in relation.objects}
    moved = 0.0
    for a in range(len(points)):
        for b in range(a + 1, len(points)):
            first, second = points[a], points[b]
            if frozenset((a, b)) in related or max(abs(first.x - second.x), abs(first.y - second.y)) >= 1.1:
                continue
            axis = "x" if abs(first.x - second.x) >= abs(first.y - second.y) else "y"
            before, after = (
                (first, second) if getattr(first, axis) <= getattr(second, axis) else (second, first)
            )
            moved = max(moved, _push(before, after, axis, 1.1))
    return moved


def _on_page(points: list[_Point], aspect: float) -> list[Box]:
    """Scale the centres into the picture; boxes are squares of the same size, as large as fits."""
    xs, ys = [point.x for point in points], [point.y for point in points]
    across, down = max(xs) - min(xs) + 1, max(ys) - min(ys) + 1
    width, height = max(aspect, 1.0), max(1.0, 1.0 / aspect)  # the picture, its shorter side 1
    room_x, room_y = width - 2 * MARGIN, height - 2 * MARGIN
    side = min(room_x / across, room_y / down, 0.45)
    left = (width - side * across) / 2 + side / 2
    top = (height - side * down) / 2 + side / 2
    boxes = []
    for point in points:
        x, y = left + (point.x - min(xs)) * side, top + (point.y - min(ys)) * side
        half = 0.46 * side
        boxes.append(((x - half) / width, (y - half) / height, (x + half) / width, (y + half) / height))
    return boxes


def _shrunk(box: Box, share: float) -> Box:
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    w, h = (box[2] - box[0]) * share / 2, (box[3] - box[1]) * share / 2
    return (x - w, y - h, x + w, y + h)

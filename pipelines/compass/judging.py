"""Whether a picture shows the relations of a prompt: verdict, margin and soft score for each of them."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.compass.parser import ParsedPrompt
from pipelines.compass.relations import BEHIND, BETWEEN, FRONT, INSIDE, NEXT, ON_TOP, Relation, axis_signs
from pipelines.compass.scoring import (
    GENEVAL_THRESHOLD,
    T2I_DISTANCE_PX,
    VISOR_THRESHOLD,
    Box,
    Detected,
    centre,
    geneval_offset,
    t2i_position,
)

RULES = ("geneval", "visor")
TEMPERATURE = 0.25  # of the soft score; offsets lie in [-1, 1]
_COUNTS = {"two": 2, "three": 3, "four": 4, "five": 5}
_MOST_WAYS = 720  # of giving boxes to things of the same name


@dataclass(frozen=True)
class RelationResult:
    """What a picture says about one relation.

    Attributes:
        passed: None where it can't be told (depth, or a thing that the detector doesn't know).
        margin: how clearly, -1 to 1; above 0.5 a plain relation holds by GenEval's rule. None without boxes.
        soft: 0 to 1, confidence included; for choosing among pictures.
        reason: a sentence for people when it didn't pass.
    """

    passed: bool | None
    margin: float | None
    soft: float
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a picture says about a prompt.

    Attributes:
        relations: one for each relation of the prompt. boxes: entity -> the detection that stands for it.
        missing: entities that should be there and weren't found. unknown: those no detector can tell of.
    """

    relations: tuple[RelationResult, ...]
    boxes: dict[int, Detected]
    missing: tuple[int, ...]
    unknown: tuple[int, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is missing and no relation failed."""
        return not self.missing and all(result.passed is not False for result in self.relations)

    @property
    def score(self) -> float:
        """Mean soft score of the relations; of the confidences where there are none. For best of n."""
        if self.relations:
            return sum(result.soft for result in self.relations) / len(self.relations)
        asked = len(self.boxes) + len(self.missing)
        return sum(item.score for item in self.boxes.values()) / asked if asked else 0.0


def judge(
    parsed: ParsedPrompt,
    detected: Sequence[Detected],
    size: tuple[int, int],
    *,
    rule: str = "geneval",
    knows: Sequence[bool] | None = None,
    temperature: float = TEMPERATURE,
) -> Verdict:
    """Hold detections against a prompt.

    Args:
        detected: labels are the nouns of the entities (`Entity.noun`).
        size: (width, height) of the picture.
        rule: "geneval": the surest box of each thing, clearly offset; "visor": centres alone, and every
            detection above 0.1 counts as there.
        knows: for each entity, whether the detector knows it. Default: all.
    Raises:
        ValueError: an unknown rule.
    """
    if rule not in RULES:
        raise ValueError(f"rule is {rule!r}; it must be one of {RULES}")
    least = GENEVAL_THRESHOLD if rule == "geneval" else VISOR_THRESHOLD
    kept = sorted((item for item in detected if item.score > least), key=lambda item: -item.score)
    known = list(knows) if knows is not None else [True] * len(parsed.entities)
    best: Verdict | None = None
    for boxes in _assignments(parsed, kept, known):
        results = tuple(
            _judge_relation(parsed, relation, boxes, known, size, rule, temperature)
            for relation in parsed.relations
        )
        missing = tuple(i for i in range(len(known)) if known[i] and i not in boxes)
        verdict = Verdict(results, boxes, missing, tuple(i for i in range(len(known)) if not known[i]))
        if best is None or (verdict.passed, verdict.score) > (best.passed, best.score):
            best = verdict
    assert best is not None  # there is always one assignment, if an empty one
    return best


def _assignments(
    parsed: ParsedPrompt, kept: list[Detected], known: Sequence[bool]
) -> list[dict[int, Detected]]:
    """Ways to give detections to entities: the surest of each name, in all orders among equal names."""
    groups: dict[str, list[int]] = {}
    for index, entity in enumerate(parsed.entities):
        if known[index]:
            groups.setdefault(entity.noun.lower(), []).append(index)
    ways: list[list[dict[int, Detected]]] = []
    for noun, members in groups.items():
        found = [item for item in kept if item.label.lower() == noun]
        counts = [_COUNTS.get(parsed.entities[index].article, 1) for index in members]
        if len(found) < max(counts):
            found = []
        chosen = found[: len(members)]
        ways.append(
            [dict(zip(order, chosen, strict=False)) for order in itertools.permutations(members, len(chosen))]
        )
    combined = itertools.islice(itertools.product(*ways), _MOST_WAYS)
    return [{key: item for part in way for key, item in part.items()} for way in combined]


def _judge_relation(
    parsed: ParsedPrompt,
    relation: Relation,
    boxes: dict[int, Detected],
    known: Sequence[bool],
    size: tuple[int, int],
    rule: str,
    temperature: float,
) -> RelationResult:
    involved = (relation.subject, *relation.objects)
    unknown = [parsed.entities[index].noun for index in involved if not known[index]]
    if unknown:
        return RelationResult(None, None, 0.0, f"the detector doesn't know {', '.join(unknown)}")
    missing = [parsed.entities[index].noun for index in involved if index not in boxes]
    if missing:
        return RelationResult(False, None, 0.0, f"not found: {', '.join(missing)}")
    confidence = min(boxes[index].score for index in involved)
    if relation.predicate in (FRONT, BEHIND):
        return RelationResult(None, None, 0.5 * confidence, "boxes don't tell what is in front")
    margin, passed = _margin(relation.predicate, [boxes[index].box for index in involved], size, rule)
    soft = confidence / (1 + math.exp(-margin / temperature))
    reason = "" if passed else f"{parsed.describe(relation)} is not what the boxes show"
    return RelationResult(passed, margin, soft, reason)


def _margin(predicate: str, boxes: Sequence[Box], size: tuple[int, int], rule: str) -> tuple[float, bool]:
    """How clearly a relation holds (-1 to 1), and whether it does."""
    first, second = boxes[0], boxes[1]
    if predicate == NEXT:
        score = t2i_position(
            "near", first, second, distance=T2I_DISTANCE_PX * math.sqrt(size[0] * size[1]) / 512
        )
        return 2 * score - 1, score >= 1
    if predicate == INSIDE:
        share = _share_inside(first, second)
        return 2 * share - 1, share >= 0.8
    if predicate == BETWEEN:
        return _between(first, second, boxes[2])
    offset = geneval_offset(first, second, 0.0 if rule == "visor" else 0.1)
    signed = [sign * offset["xy".index(axis)] for axis, sign in axis_signs(predicate).items()]
    margin = min(signed)
    passed = margin > (0.0 if rule == "visor" else 0.5)
    if predicate == ON_TOP:
        across = min(first[2], second[2]) - max(first[0], second[0])
        passed = passed and across >= min(first[2] - first[0], second[2] - second[0]) / 3
    return margin, passed


def _share_inside(inner: Box, outer: Box) -> float:
    across = max(min(inner[2], outer[2]) - max(inner[0], outer[0]), 0.0)
    down = max(min(inner[3], outer[3]) - max(inner[1], outer[1]), 0.0)
    area = (inner[2] - inner[0]) * (inner[3] - inner[1])
    return across * down / area if area > 0 else 0.0


def _between(subject: Box, first: Box, second: Box) -> tuple[float, bool]:
    """Along the axis that parts the two objects more: 1 in the middle, 0 at either of them."""
    (sx, sy), (ax, ay), (bx, by) = centre(subject), centre(first), centre(second)
    at, start, end = (sx, ax, bx) if abs(ax - bx) >= abs(ay - by) else (sy, ay, by)
    if start == end:
        return -1.0, False
    share = (at - start) / (end - start)
    margin = max(1 - abs(2 * share - 1), -1.0)
    return margin, margin > 0

"""What a detector says about a picture, held against what was asked for; shares with their confidence.

Nothing here looks at pixels: `detector.detect` does, this module compares words and boxes.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.storybook.vocabulary import RELATIONS

if TYPE_CHECKING:
    from pipelines.storybook.detector import Detection, Detections


@dataclass(frozen=True)
class WantedObject:
    """An object that was asked for; `None` means that any will do."""

    kind: str | None = None
    colour: str | None = None
    pattern: str | None = None

    def fits(self, item: "Detection") -> bool:
        pairs = ((self.kind, item.kind), (self.colour, item.colour), (self.pattern, item.pattern))
        return all(wanted is None or wanted == got for wanted, got in pairs)


@dataclass(frozen=True)
class Wanted:
    """A parsed request.

    Attributes:
        objects: what should be there; the same thing twice asks for two of them.
        place: word of the vocabulary, or None.
        relation: of the first object to the second ("left of", "right of", "above", "below"), or None.
    """

    objects: tuple[WantedObject, ...] = ()
    place: str | None = None
    relation: str | None = None

    def __post_init__(self) -> None:
        if self.relation is not None and (self.relation not in RELATIONS or len(self.objects) != 2):
            raise ValueError(
                f"expected two objects and one of {RELATIONS}, got {len(self.objects)} and {self.relation!r}"
            )


@dataclass(frozen=True)
class Verdict:
    """What of a request is fulfilled; `None` where nothing was asked. A relation needs both objects."""

    objects: tuple[bool, ...]
    place: bool | None
    relation: bool | None

    @property
    def all_present(self) -> bool:
        return all(self.objects)

    @property
    def everything(self) -> bool:
        """Whether all that was asked for can be seen."""
        return self.all_present and self.place is not False and self.relation is not False


def verify(detections: "Detections", wanted: Wanted) -> Verdict:
    """Compare a picture's detections with a request; each detection answers for one wanted object only."""
    matches = assign(detections, wanted.objects)
    place = None if wanted.place is None else place_right(detections, wanted.place)
    relation = None
    if wanted.relation is not None:
        boxes = [match.box for match in matches if match is not None]
        both = len(boxes) == 2
        relation = both and box_relation(boxes[0], boxes[1], detections.aspect) == wanted.relation
    return Verdict(tuple(match is not None for match in matches), place, relation)


def assign(detections: "Detections", wanted: Sequence[WantedObject]) -> "list[Detection | None]":
    """A different detection for each wanted object: as many as possible, then the surest."""
    best: tuple[int, float, list[Detection | None]] = (-1, 0.0, [])

    def extend(index: int, used: frozenset[int], chosen: "list[Detection | None]") -> None:
        nonlocal best
        if index == len(wanted):
            there = [item for item in chosen if item is not None]
            value = (len(there), sum(item.score for item in there))
            if value > best[:2]:
                best = (*value, chosen)
            return
        for position, item in enumerate(detections.objects):
            if position not in used and wanted[index].fits(item):
                extend(index + 1, used | {position}, [*chosen, item])
        extend(index + 1, used, [*chosen, None])

    extend(0, frozenset(), [])
    return best[2]


def one_object_right(detections: "Detections", kind: str | None, colour: str | None) -> bool:
    """Whether some object has this kind and colour; None for either asks for the other alone."""
    return assign(detections, (WantedObject(kind, colour),))[0] is not None


def two_objects_right(detections: "Detections", first: tuple[str, str], second: tuple[str, str]) -> bool:
    """Whether two different objects have these (kind, colour) pairs."""
    return None not in assign(detections, (WantedObject(*first), WantedObject(*second)))


def place_right(detections: "Detections", place: str) -> bool:
    return detections.place == place


def relation_right(
    detections: "Detections", first: tuple[str, str], relation: str, second: tuple[str, str]
) -> bool:
    """Whether both of these (kind, colour) pairs are there and the surest objects of each stand so."""
    return (
        verify(detections, Wanted((WantedObject(*first), WantedObject(*second)), relation=relation)).relation
        is True
    )


def box_relation(first: Sequence[float], second: Sequence[float], aspect: float = 1.0) -> str | None:
    """The strict relation of one box to another, by the rule of `scene.relation_between`.

    Args:
        first, second: (left, top, right, bottom) relative to the picture, 0 to 1.
        aspect: width over height of the picture, which turns shares of it into lengths.
    Returns:
        "left of", "right of", "above", "below", or None when neither axis separates the boxes clearly.
    """
    width, height = math.sqrt(aspect), 1.0 / math.sqrt(aspect)
    delta_x = (second[0] + second[2] - first[0] - first[2]) / 2 * width
    delta_y = (second[1] + second[3] - first[1] - first[3]) / 2 * height
    if abs(delta_x) > abs(delta_y):
        margin = 0.3 * (first[2] - first[0] + second[2] - second[0]) * width
        return None if abs(delta_x) < margin else ("left of" if delta_x > 0 else "right of")
    margin = 0.3 * (first[3] - first[1] + second[3] - second[1]) * height
    return None if abs(delta_y) < margin else ("above" if delta_y > 0 else "below")


@dataclass(frozen=True)
class Share:
    """`right` of `n` answers."""

    right: int
    n: int

    @classmethod
    def of(cls, answers: Iterable[bool | None]) -> "Share":
        """Count the answers; None doesn't count as one."""
        counted = [bool(answer) for answer in answers if answer is not None]
        return cls(sum(counted), len(counted))

    @property
    def value(self) -> float:
        """Between 0 and 1; 0 without answers."""
        return self.right / self.n if self.n else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % confidence interval (E. B. Wilson, 1927); the whole range without answers."""
        if not self.n:
            return 0.0, 1.0
        z = 1.959964
        middle = self.value + z * z / (2 * self.n)
        spread = z * math.sqrt(self.value * (1 - self.value) / self.n + z * z / (4 * self.n * self.n))
        scale = 1 + z * z / self.n
        return max(0.0, (middle - spread) / scale), min(1.0, (middle + spread) / scale)

    def as_dict(self) -> dict[str, float | int | list[float]]:
        """For JSON: value, n and interval, rounded to four places."""
        return {"value": round(self.value, 4), "n": self.n, "ci95": [round(end, 4) for end in self.interval]}


def prompt_metrics(verdicts: Sequence[Verdict]) -> dict[str, Share]:
    """Shares over many pictures.

    Returns:
        "present": pictures with all wanted objects (OA of VISOR, arXiv:2212.10015); "objects": over single
        objects; "place"; "everything"; "relation" over those that should have one (VISOR unconditional);
        "relation_when_present" over those that show both objects (VISOR conditional).
    """
    return {
        "present": Share.of(verdict.all_present for verdict in verdicts),
        "objects": Share.of(answer for verdict in verdicts for answer in verdict.objects),
        "place": Share.of(verdict.place for verdict in verdicts),
        "everything": Share.of(verdict.everything for verdict in verdicts),
        "relation": Share.of(verdict.relation for verdict in verdicts),
        "relation_when_present": Share.of(verdict.relation for verdict in verdicts if verdict.all_present),
    }

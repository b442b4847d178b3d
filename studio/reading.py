"""What a prompt says about space: things, relations between them, a layout in which all relations hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from studio.checks import check_integer, shown
from studio.errors import StudioError

Box = tuple[float, float, float, float]
MAX_BOXES = 64


@dataclass(frozen=True)
class Thing:
    """Something a prompt names; `start ... end - 1` are its characters, `text` the words without article."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class SaidRelation:
    """A relation the prompt says.

    Args:
        subject, objects: Places in the list of things; two objects for "between".
        predicate: For instance "left of".
        start, end: Characters of its words; both 0 when it comes from two positions ("on the left ...").
        text: The whole of it, for instance "red cat left of blue house".
        options: Predicates that can be put in its place; empty when its words can't be changed.
    """

    subject: int
    objects: tuple[int, ...]
    predicate: str
    start: int
    end: int
    text: str
    options: tuple[str, ...]


@dataclass(frozen=True)
class Reading:
    """What a prompt says about space.

    Args:
        prompt: The text.
        things: What takes part in a relation or stands for itself.
        relations: In order of the text.
        boxes: Place of a thing -> (left, top, right, bottom), shares of the picture; all relations hold.
        impossible: Relations (places) that can't all hold, and a sentence about them.
        remarks: Sentences about words that look like a relation and are none.
    """

    prompt: str
    things: tuple[Thing, ...]
    relations: tuple[SaidRelation, ...]
    boxes: dict[int, Box]
    impossible: tuple[tuple[tuple[int, ...], str], ...]
    remarks: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        boxes = {str(place): [round(edge, 4) for edge in box] for place, box in self.boxes.items()}
        return {**asdict(self), "boxes": boxes}


class Reader(Protocol):
    """What reads prompts. The real one is `studio.doors.reading.PipelineReader`; it takes no model."""

    def read(self, prompt: str, aspect: float) -> Reading:
        """Read a clean prompt; `aspect` is width over height of the picture to come."""

    def with_predicate(self, prompt: str, relation: int, predicate: str) -> str:
        """The prompt with one relation said differently. Raises ValueError when it can't be."""

    def with_boxes(self, prompt: str, boxes: Mapping[int, Box], aspect: float) -> str:
        """The prompt with every relation as its boxes show it now."""


def changed_prompt(reader: Reader, prompt: str, change: Mapping[str, Any]) -> str:
    """Apply a change that comes from outside to a clean prompt.

    Args:
        change: {"relation": place, "predicate": words}, or {"boxes": {place: box}, "aspect": number}.
    Raises:
        StudioError: "bad_input", naming the field.
    """
    if "boxes" in change:
        return reader.with_boxes(prompt, _boxes(change["boxes"]), _aspect(change.get("aspect", 1.0)))
    check_integer("relation", change.get("relation"), 0, 10_000)
    try:
        return reader.with_predicate(prompt, change["relation"], str(change.get("predicate", "")))
    except ValueError as error:
        raise StudioError("bad_input", f"predicate: {error}.") from error


def _aspect(value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0.01 <= value <= 100:
        raise StudioError("bad_input", f"aspect: given {shown(value)}, allowed numbers from 0.01 to 100.")
    return float(value)


def _boxes(value: object) -> dict[int, Box]:
    if not isinstance(value, Mapping) or len(value) > MAX_BOXES:
        raise StudioError("bad_input", f"boxes: given {shown(value)}, allowed up to {MAX_BOXES} by place.")
    boxes: dict[int, Box] = {}
    for place, box in value.items():
        fits = isinstance(box, list | tuple) and len(box) == 4 and all(_is_share(edge) for edge in box)
        if not str(place).isdigit() or not fits or not (box[0] < box[2] and box[1] < box[3]):
            raise StudioError(
                "bad_input", f"boxes: given {shown(box)}, allowed left, top, right, bottom from 0 to 1."
            )
        boxes[int(place)] = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
    return boxes


def _is_share(value: object) -> bool:
    # NaN fails the comparison
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1

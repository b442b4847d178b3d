"""What the eyes see in pictures: objects, colours, where they are, and how they stand to each other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from PIL import Image

from studio.registry import Registry

EYES = "storybook-eyes"
Result = TypeVar("Result")


@dataclass(frozen=True)
class SeenObject:
    """One object.

    Args:
        kind, colour, pattern: Words of Storybook's world.
        box: (left, top, right, bottom) as shares of the picture, 0 to 1.
        score: How sure the eyes are, 0 to 1.
    """

    kind: str
    colour: str
    pattern: str
    box: tuple[float, float, float, float]
    score: float


@dataclass(frozen=True)
class SeenRelation:
    """Object number `subject` is `relation` ("left of", "right of", "above", "below") number `object`."""

    subject: int
    relation: str
    object: int


@dataclass(frozen=True)
class Seen:
    """What one picture shows.

    Args:
        place: Word of Storybook's world.
        place_score: How sure, 0 to 1.
        objects: From the surest to the least sure.
        relations: Of each pair that stands clearly, from the surer object to the less sure one.
    """

    place: str
    place_score: float
    objects: tuple[SeenObject, ...]
    relations: tuple[SeenRelation, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, numbers to four places."""
        objects = [
            {**asdict(item), "box": [round(edge, 4) for edge in item.box], "score": round(item.score, 4)}
            for item in self.objects
        ]
        relations = [asdict(relation) for relation in self.relations]
        place = {"place": self.place, "place_score": round(self.place_score, 4)}
        return {**place, "objects": objects, "relations": relations}


class Looker(Protocol):
    """What looks. The real one is `studio.doors.seeing.PipelineLooker`."""

    def load_eyes(self, folder: Path) -> Any:
        """An opaque handle of the eyes in `folder`. Raises ValueError or OSError when they can't be read."""

    def look(self, eyes: Any, pictures: Sequence[Image.Image]) -> list[Seen]:
        """What each picture shows."""


class Eyes:
    """The installed eyes, loaded when first needed and kept: they are small. Thread-safe.

    Args:
        registry: Knows where they are.
        looker: Looks.
    """

    def __init__(self, registry: Registry, looker: Looker) -> None:
        self._registry = registry
        self._looker = looker
        self._lock = threading.Lock()
        self._loaded: Any = None

    def look(self, pictures: Sequence[Image.Image]) -> list[Seen]:
        """What each picture shows; a few hundredths of a second per picture.

        Raises:
            StudioError: the eyes are not installed, or damaged.
        """
        return self.used(lambda eyes: self._looker.look(eyes, pictures))

    def used(self, work: Callable[[Any], Result]) -> Result:
        """The result of `work`, which is handed the loaded eyes.

        Raises:
            StudioError: the eyes are not installed, or damaged.
        """
        # several threads at once would only take turns on the processor
        with self._lock:
            if self._loaded is None:
                card = self._registry.usable(EYES, "eyes")
                self._loaded = self._registry.opened(card, self._looker.load_eyes)
            return work(self._loaded)

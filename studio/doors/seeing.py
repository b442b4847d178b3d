"""The door to Storybook's detectors, imported when first needed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from studio.seeing import Seen, SeenObject, SeenRelation

if TYPE_CHECKING:
    from pipelines.storybook.detector import Detections


class PipelineLooker:
    """The real `Looker`."""

    def load_eyes(self, folder: Path) -> Any:
        """See `Looker`."""
        from pipelines.compose.quiet import quiet_loading
        from pipelines.storybook.detector import StorybookEyes

        with quiet_loading():
            return StorybookEyes.from_pretrained(str(folder)).eval()

    def look(self, eyes: Any, pictures: Sequence[Image.Image]) -> list[Seen]:
        """See `Looker`."""
        from pipelines.storybook.detector import detect

        return [_seen(found) for found in detect(eyes, list(pictures))]


def _seen(found: Detections) -> Seen:
    from pipelines.storybook.verify import box_relation

    relations = []
    for (one, first), (two, second) in combinations(enumerate(found.objects), 2):
        relation = box_relation(first.box, second.box, found.aspect)
        if relation:
            relations.append(SeenRelation(one, relation, two))
    objects = tuple(
        SeenObject(item.kind, item.colour, item.pattern, item.box, item.score) for item in found.objects
    )
    return Seen(found.place, found.place_score, objects, tuple(relations))

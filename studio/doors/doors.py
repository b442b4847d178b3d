"""All doors to `pipelines` in one value, so that tests put others in their place."""

from __future__ import annotations

from dataclasses import dataclass, field

from studio.doors.seeing import PipelineLooker
from studio.seeing import Looker


@dataclass(frozen=True)
class Doors:
    """What the studio reaches besides painting; each imports its side when first needed.

    Args:
        looker: Looks at pictures.
    """

    looker: Looker = field(default_factory=PipelineLooker)

"""Progress as the studio itself reports it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True)
class Report:
    """Fulfils `studio.painter.ProgressReport`; the fields mean what they do there."""

    phase: str
    stage: int = 0
    stages: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    width: int = 0
    height: int = 0
    preview: Image.Image | None = None

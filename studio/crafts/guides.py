"""What earlier stages of a picture looked like, kept small beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from PIL import Image

from studio.errors import StudioError
from studio.gallery.encoding import thumbnail_bytes
from studio.painter import ProgressReport


def guide_name(stage: int) -> str:
    """The job's file with the guide of a stage, counted from 1."""
    return f"stage-{stage}.webp"


class GuideKeeper:
    """Passes a painter's reports on and keeps the last preview of each stage that another one grows from.

    Args:
        report: Where the reports go.
        keep: Takes the files (see `guide_name`); a stage too quick for a preview has none.
    """

    def __init__(self, report: Callable[[ProgressReport], None], keep: Callable[[str, bytes], None]) -> None:
        self._report = report
        self._keep = keep
        self._stage = 0
        self._preview: Image.Image | None = None

    def __call__(self, news: ProgressReport) -> None:
        """Take in one report."""
        if news.stage != self._stage:
            if self._preview is not None:
                # a full disk is told when the picture itself can't be saved: it must not be lost for this
                with contextlib.suppress(StudioError):
                    self._keep(guide_name(self._stage), thumbnail_bytes(self._preview))
            self._stage, self._preview = news.stage, None
        if news.phase == "paint" and news.preview is not None:
            self._preview = news.preview
        self._report(news)

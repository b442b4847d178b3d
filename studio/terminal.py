"""One line of progress on a terminal; nothing at all anywhere else."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

from studio.jobs.progress import time_left
from studio.painter import ProgressReport

_EVERY_S = 0.1
_BAR = 20


class ProgressLine:
    """Rewrites one line on stderr while a picture is painted.

    Args:
        forecast_s: Seconds painting should take.
        stream: Where to write. Default: stderr.
    """

    def __init__(self, forecast_s: float, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._forecast_s = forecast_s
        self._began: float | None = None
        self._shown_at = 0.0

    def loading(self, model: str) -> None:
        """Say that a model is being loaded."""
        self._show(f"loading {model}")

    def report(self, news: ProgressReport) -> None:
        """Show what the painter reports, at most ten times a second."""
        now = time.monotonic()
        if self._began is None:
            self._began = now
        if not self._is_terminal or now - self._shown_at < _EVERY_S:
            return
        self._shown_at = now
        left = time_left(news.fraction, now - self._began, self._forecast_s)
        filled = round(_BAR * news.fraction)
        bar = "#" * filled + "-" * (_BAR - filled)
        stage = f" stage {news.stage}/{news.stages} {news.width}x{news.height}" if news.stages else ""
        step = f" step {news.step}/{news.steps}" if news.steps else ""
        self._show(f"[{bar}] {news.fraction:4.0%} {news.phase}{stage}{step}, {max(0, round(left))} s left")

    def close(self) -> None:
        """Wipe the line."""
        if self._is_terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def _show(self, text: str) -> None:
        if self._is_terminal:
            width = shutil.get_terminal_size().columns
            self._stream.write(f"\r\x1b[K{text[: max(1, width - 1)]}")
            self._stream.flush()

"""How far a running job is: kept in memory for pages to watch, never written to disk."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass, field, replace
from typing import Any

from studio.gallery.encoding import preview_jpeg
from studio.painter import ProgressReport

logger = logging.getLogger(__name__)
_PREVIEW_EVERY_S = 0.3
# from this share of the job on, the measured pace alone decides about the time left
_TRUST_MEASURED_FROM = 0.25


@dataclass(frozen=True)
class Moment:
    """One consistent view of a running job; the fields mean what they do in `JobSnapshot`."""

    phase: str = "load"
    stage: int = 0
    stages: int = 0
    step: int = 0
    steps: int = 0
    fraction: float = 0.0
    width: int = 0
    height: int = 0
    eta_s: float | None = None
    preview: bytes | None = None
    preview_number: int = 0
    result: dict[str, Any] = field(default_factory=dict)


class Progress:
    """Progress of one running job. The worker writes, any thread reads.

    Args:
        forecast_s: Seconds painting should take.
    """

    def __init__(self, forecast_s: float) -> None:
        self._forecast_s = forecast_s
        self._lock = threading.Lock()
        self._moment = Moment()
        self._cancel = threading.Event()
        self._painting_since: float | None = None
        self._updated = time.monotonic()
        self._preview_at = 0.0

    def report(self, news: ProgressReport) -> None:
        """Take in what the painter reports."""
        now = time.monotonic()
        preview = self._new_preview(news, now)
        with self._lock:
            if self._painting_since is None:
                self._painting_since = now
            old = self._moment
            # a bar never runs backwards
            fraction = min(1.0, max(old.fraction, float(news.fraction)))
            self._moment = Moment(
                phase=news.phase,
                stage=news.stage,
                stages=news.stages,
                step=news.step,
                steps=news.steps,
                fraction=fraction,
                width=news.width,
                height=news.height,
                eta_s=time_left(fraction, now - self._painting_since, self._forecast_s),
                preview=preview or old.preview,
                preview_number=old.preview_number + (1 if preview else 0),
                result=old.result,
            )
            self._updated = now

    def enter(self, phase: str) -> None:
        """Begin a phase the painter knows nothing of: "load" or "save"."""
        with self._lock:
            old = self._moment
            self._moment = Moment(
                phase=phase,
                stage=old.stage,
                stages=old.stages,
                fraction=old.fraction,
                width=old.width,
                height=old.height,
                eta_s=self._forecast_s if phase == "load" else 1.0,
                preview=old.preview,
                preview_number=old.preview_number,
                result=old.result,
            )
            self._updated = time.monotonic()

    def show(self, result: dict[str, Any]) -> None:
        """Take what can be shown of the unfinished product."""
        with self._lock:
            self._moment = replace(self._moment, result=result)

    def read(self) -> Moment:
        """The state now; the time left runs down between reports."""
        with self._lock:
            moment, waited = self._moment, time.monotonic() - self._updated
        if moment.eta_s is None or moment.phase == "load":
            return moment
        return replace(moment, eta_s=max(0.0, moment.eta_s - waited))

    def cancel(self) -> None:
        """Ask the job to stop."""
        self._cancel.set()

    def is_cancelled(self) -> bool:
        """Whether somebody asked the job to stop."""
        return self._cancel.is_set()

    def _new_preview(self, news: ProgressReport, now: float) -> bytes | None:
        picture = news.preview
        if picture is None or now - self._preview_at < _PREVIEW_EVERY_S:
            return None
        self._preview_at = now
        try:
            return preview_jpeg(picture)
        except (OSError, ValueError) as error:
            # a preview that can't be shown must not end the picture it previews
            logger.warning("preview left out: %s", error)
            return None


def time_left(fraction: float, elapsed_s: float, forecast_s: float) -> float:
    """Seconds left: the forecast at first, more and more what was measured so far.

    Args:
        fraction: Share done, 0 to 1.
        elapsed_s: Seconds painted so far.
        forecast_s: Seconds the whole should take.
    """
    planned = forecast_s * (1.0 - fraction)
    if fraction <= 0.0:
        return planned
    measured = elapsed_s * (1.0 - fraction) / fraction
    trust = min(1.0, fraction / _TRUST_MEASURED_FROM)
    return trust * measured + (1.0 - trust) * planned

"""The queue: one worker thread owns the device, records outlive the process, pages only watch."""

from __future__ import annotations

import logging
import secrets
import statistics
import threading
import time
from collections import OrderedDict
from io import BytesIO

from studio.errors import StudioError
from studio.gallery.encoding import write_picture
from studio.gallery.files import NotPublished, storage_error
from studio.gallery.gallery import Gallery
from studio.jobs.identifiers import is_identifier
from studio.jobs.progress import Progress
from studio.jobs.records import FolderLock, JobRecord, JobRecords
from studio.jobs.runner import Painted, Runner
from studio.jobs.snapshot import RETRYABLE_STATES, JobSnapshot
from studio.painter import PaintingStopped
from studio.requests import ImageRequest
from studio.settings import Settings

logger = logging.getLogger(__name__)
_HOLD_S = 2.0
_KEPT_UNSAVED = 2
_CLOSE_WAIT_S = 30.0


class JobQueue:
    """Queue, worker and what pages see of them. Thread-safe.

    Args:
        settings: Data folder and queue limit.
        runner: Checks and paints.
    Raises:
        StudioError: "in_use" or "unwritable" data folder.
    """

    def __init__(self, settings: Settings, runner: Runner) -> None:
        self._settings = settings
        self._runner = runner
        self._lock = FolderLock(settings.data_dir)
        try:
            self._records = JobRecords(settings.data_dir / "jobs.sqlite3")
        except OSError as error:
            self._lock.release()
            raise storage_error(error, "the job records", settings.data_dir) from error
        self._wake = threading.Condition()
        self._closing = False
        self._current: tuple[str, Progress] | None = None
        self._unsaved: OrderedDict[str, Painted] = OrderedDict()
        self._on_hold = ""
        self._gallery: Gallery | None = None
        self._worker: threading.Thread | None = None

    def start(self, gallery: Gallery) -> None:
        """Sort out what a killed process left, then begin to work."""
        self._gallery = gallery
        for job_id in self._records.running():
            if gallery.has(job_id):
                # killed after the picture was whole, before the record said so
                self._records.finish(job_id, "done")
                continue
            error = StudioError("interrupted", "The studio stopped while this was painting.", "Press retry.")
            self._records.finish(job_id, "interrupted", error=error)
        self._records.prune()
        self._worker = threading.Thread(target=self._work, name="studio-worker", daemon=True)
        self._worker.start()

    def submit(self, request: ImageRequest) -> str:
        """See `Studio.submit`."""
        plan = self._runner.check(request, self.pace(request.model, request.width * request.height))
        with self._wake:
            if self._closing:
                raise StudioError("conflict", "The studio is closing.", "Start it again, then retry.")
            job_id = self._records.add(
                request,
                plan.prompt,
                plan.forecast.seconds,
                plan.warnings,
                plan.unknown_words,
                self._settings.max_queue,
            )
            self._wake.notify_all()
        return job_id

    def watch(self, job_id: str) -> JobSnapshot:
        """See `Studio.watch`."""
        return self._snapshot(self._find(job_id))

    def recent(self, limit: int) -> list[JobSnapshot]:
        """See `Studio.jobs`."""
        return [self._snapshot(record) for record in self._records.recent(limit)]

    def cancel(self, job_id: str) -> bool:
        """See `Studio.cancel`."""
        self._find(job_id)
        with self._wake:
            if self._records.cancel_queued(job_id):
                return True
            if self._current and self._current[0] == job_id:
                self._current[1].cancel()
                return True
        return False

    def retry(self, job_id: str) -> str:
        """See `Studio.retry`."""
        record = self._find(job_id)
        if record.state not in RETRYABLE_STATES:
            raise StudioError("conflict", f"This job is {record.state}; only ended ones can be retried.")
        self._runner.check(record.request)
        with self._wake:
            self._records.requeue(job_id)
            self._wake.notify_all()
        return job_id

    def unsaved_png(self, job_id: str) -> bytes:
        """See `Studio.unsaved_png`."""
        self._find(job_id)
        with self._wake:
            painted = self._unsaved.get(job_id)
        if painted is None:
            raise StudioError("not_found", "This job has no unsaved picture.")
        buffer = BytesIO()
        write_picture(painted.image, painted.recipe, buffer)
        return buffer.getvalue()

    def pace(self, model: str, pixels: int) -> float:
        """Factor from forecast to real seconds on this machine: the median of earlier jobs, 1 without any."""
        paces = self._records.paces(model, pixels)
        return min(20.0, max(0.05, statistics.median(paces))) if paces else 1.0

    def close(self) -> None:
        """See `Studio.close`."""
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._worker is not None and self._worker is not threading.current_thread():
            self._worker.join(_CLOSE_WAIT_S)
        self._records.close()
        self._lock.release()

    def _find(self, job_id: str) -> JobRecord:
        record = self._records.get(job_id) if is_identifier(job_id) else None
        if record is None:
            raise StudioError("not_found", "There is no such job.")
        return record

    def _snapshot(self, record: JobRecord) -> JobSnapshot:
        with self._wake:
            current = self._current
            unsaved = record.id in self._unsaved
            on_hold = self._on_hold if record.state == "queued" else ""
        snapshot = JobSnapshot(
            id=record.id,
            state=record.state,
            request=record.request,
            prompt=record.prompt,
            created=record.created,
            started=record.started,
            finished=record.finished,
            phase=record.state,
            fraction=1.0 if record.state == "done" else 0.0,
            image_id=record.id if record.state == "done" else None,
            elapsed_s=max(0.0, (record.finished or time.time()) - record.started) if record.started else 0.0,
            seconds=record.seconds,
            warnings=record.warnings,
            unknown_words=record.unknown_words,
            error_kind=record.error_kind,
            error=record.error,
            hint=record.hint,
            can_retry=record.state in RETRYABLE_STATES,
            has_unsaved_image=unsaved,
            on_hold=on_hold,
        )
        live: dict[str, object] = {}
        if record.state == "queued":
            live = self._place_in_queue(record, current)
        elif record.state == "running" and current and current[0] == record.id:
            live = dict(current[1].read().__dict__)
        return JobSnapshot(**{**snapshot.__dict__, **live})

    def _place_in_queue(self, record: JobRecord, current: tuple[str, Progress] | None) -> dict[str, object]:
        count, seconds = self._records.ahead(record.turn)
        running_s = (current[1].read().eta_s or 0.0) if current else 0.0
        return {"position": count + (1 if current else 0), "eta_s": seconds + running_s + record.forecast}

    def _work(self) -> None:
        while True:
            with self._wake:
                record = None if self._closing else self._records.next_queued()
                while record is None and not self._closing:
                    self._wake.wait()
                    record = None if self._closing else self._records.next_queued()
                if self._closing or record is None:
                    return
                self._on_hold = self._reason_to_hold(record)
                if self._on_hold:
                    self._wake.wait(_HOLD_S)
                    continue
                if not self._records.begin(record.id):
                    continue
                progress = Progress(record.forecast)
                self._current = (record.id, progress)
            try:
                self._run(record, progress)
            finally:
                with self._wake:
                    self._current = None

    def _reason_to_hold(self, record: JobRecord) -> str:
        """A full disk would fail every job in turn: the queue waits instead, and says so."""
        assert self._gallery is not None
        if record.id in self._unsaved or self._gallery.has_room(record.request.width, record.request.height):
            return ""
        return "Waiting for disk space: the data folder's disk is full."

    def _run(self, record: JobRecord, progress: Progress) -> None:
        """Paint and save one job; whatever happens, its record gets a final state."""
        try:
            painted = self._unsaved.get(record.id) or self._paint(record, progress)
            self._save(record, painted, progress)
        except (PaintingStopped, NotPublished):
            if progress.is_cancelled():
                self._forget_unsaved(record.id)
                self._records.finish(record.id, "cancelled")
            else:
                error = StudioError(
                    "interrupted", "The studio closed while this was painting.", "Press retry."
                )
                self._records.finish(record.id, "interrupted", error=error)
        except StudioError as failure:
            logger.warning("job %s failed: %s", record.id, failure)
            self._records.finish(record.id, "failed", error=failure)
        except Exception:
            # the worker must live on; the person gets a number that leads to the traceback in the log
            incident = secrets.token_hex(3)
            logger.exception("job %s failed, incident %s", record.id, incident)
            error = StudioError(
                "internal", f"Painting failed unexpectedly (incident {incident}).", "Try again."
            )
            self._records.finish(record.id, "failed", error=error)

    def _paint(self, record: JobRecord, progress: Progress) -> Painted:
        plan = self._runner.check(record.request)
        return self._runner.paint(
            plan, progress.report, lambda: self._should_stop(progress), lambda _: progress.enter("load")
        )

    def _save(self, record: JobRecord, painted: Painted, progress: Progress) -> None:
        assert self._gallery is not None
        progress.enter("save")
        if self._should_stop(progress):
            raise PaintingStopped
        try:
            self._gallery.add(
                record.id, painted.image, painted.recipe, lambda: not self._should_stop(progress)
            )
        except StudioError:
            self._keep_unsaved(record.id, painted)
            raise
        self._forget_unsaved(record.id)
        recipe = painted.recipe
        self._records.finish(record.id, "done", seconds=recipe.seconds, warnings=recipe.warnings)

    def _should_stop(self, progress: Progress) -> bool:
        return self._closing or progress.is_cancelled()

    def _keep_unsaved(self, job_id: str, painted: Painted) -> None:
        with self._wake:
            self._unsaved[job_id] = painted
            while len(self._unsaved) > _KEPT_UNSAVED:
                self._unsaved.popitem(last=False)

    def _forget_unsaved(self, job_id: str) -> None:
        with self._wake:
            self._unsaved.pop(job_id, None)

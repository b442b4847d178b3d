"""The queue as the facade sees it: records that outlive the process, one worker, snapshots for pages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO

from studio.crafts.craft import Crafts, Plan
from studio.crafts.pictures import Painted
from studio.errors import StudioError
from studio.gallery.encoding import write_picture
from studio.gallery.files import storage_error
from studio.gallery.gallery import Gallery
from studio.gallery.results import Results
from studio.jobs.folder_lock import FolderLock
from studio.jobs.identifiers import is_identifier
from studio.jobs.progress import Progress
from studio.jobs.records import JobRecord, JobRecords, NewJob, Outcome
from studio.jobs.snapshot import RETRYABLE_STATES, JobSnapshot
from studio.jobs.worker import Worker
from studio.requests import Kind, Request
from studio.settings import Settings

_CLOSE_WAIT_S = 30.0
# a job that takes the process down with it must not do so at every start
_MOST_STARTS = 3


class JobQueue:
    """Queue, worker and what pages see of them. Thread-safe.

    Opening sorts out what a killed process left: running jobs become interrupted, or done when their picture
    is in the gallery; queued ones go on.

    Args:
        settings: Data folder and queue limit.
        make_crafts: Gives the crafts, one per kind of request, that work with this gallery and these results.
    Raises:
        StudioError: "in_use" or "unwritable" data folder.
    """

    def __init__(self, settings: Settings, make_crafts: Callable[[Gallery, Results], Crafts]) -> None:
        self._settings = settings
        self._folder_lock = FolderLock(settings.data_dir)
        try:
            self.gallery = Gallery(settings.data_dir)
            self.results = Results(settings.data_dir)
            self._crafts = make_crafts(self.gallery, self.results)
            self._records = JobRecords(settings.data_dir / "jobs.sqlite3")
            self._sort_out()
        except OSError as error:
            self._folder_lock.release()
            raise storage_error(error, "the job records", settings.data_dir) from error
        except BaseException:
            self._folder_lock.release()
            raise
        self._worker = Worker(self._records, self._crafts, self.gallery, self.results)

    def submit(self, request: Request, owner: str) -> str:
        """See `Studio.submit`."""
        plan = self.plan(request)
        job = NewJob(
            plan.request,
            plan.prompt,
            plan.forecast.seconds,
            plan.warnings,
            plan.unknown_words,
            owner,
        )
        job_id = self._records.add(job, self._settings.max_queue)
        self._worker.wake()
        return job_id

    def plan(self, request: Request) -> Plan:
        """See `Studio.plan`."""
        plan = self._crafts[request.kind].check(request)
        pace = self.pace(request.kind, plan.request.model, plan.request.amount)
        return replace(plan, forecast=plan.forecast.scaled(pace))

    def watch(self, job_id: str) -> JobSnapshot:
        """See `Studio.watch`."""
        # under the worker's lock record and progress are of one moment: a bar never jumps back at the end
        with self._worker.lock:
            return self._snapshot(self._find(job_id))

    def recent(self, limit: int, kind: Kind | None) -> list[JobSnapshot]:
        """See `Studio.jobs`."""
        with self._worker.lock:
            return [self._snapshot(record) for record in self._records.recent(limit, kind)]

    def find_done(self, request: Request, owner: str) -> str | None:
        """See `Studio.find_done`."""
        return self._records.find_done(request, owner)

    def forget(self, job_id: str) -> None:
        """See `Studio.forget`."""
        record = self._find(job_id)
        if not self._records.forget(job_id):
            raise StudioError("conflict", f"This job is {record.state}.", "Cancel it first.")
        self.results.remove(job_id)

    def cancel(self, job_id: str) -> bool:
        """See `Studio.cancel`."""
        self._find(job_id)
        with self._worker.lock:
            if self._records.cancel_queued(job_id):
                return True
            current = self._worker.current
            if current and current[0] == job_id:
                current[1].cancel()
                return True
        return False

    def retry(self, job_id: str) -> str:
        """See `Studio.retry`."""
        record = self._find(job_id)
        if record.state not in RETRYABLE_STATES:
            raise StudioError("conflict", f"This job is {record.state}; only ended ones can be retried.")
        self._crafts[record.request.kind].check(record.request)
        self._records.requeue(job_id, self._settings.max_queue)
        self._worker.wake()
        return job_id

    def unsaved_png(self, job_id: str) -> bytes:
        """See `Studio.unsaved_png`."""
        self._find(job_id)
        with self._worker.lock:
            painted = self._worker.unsaved.get(job_id)
        if not isinstance(painted, Painted):
            raise StudioError("not_found", "This job has no unsaved picture.")
        buffer = BytesIO()
        write_picture(painted.image, painted.recipe, buffer)
        return buffer.getvalue()

    def pace(self, kind: Kind, model: str, amount: int) -> float:
        """Factor from forecast to real seconds on this machine: the median of earlier jobs, 1 without any.

        `model` is the name of its card, `amount` what the request says.
        """
        paces = self._records.paces(kind, model, amount)
        return min(20.0, max(0.05, statistics.median(paces))) if paces else 1.0

    def close(self) -> None:
        """See `Studio.close`."""
        self._worker.close(_CLOSE_WAIT_S)
        self._records.close()
        self.gallery.close()
        self._folder_lock.release()

    def _sort_out(self) -> None:
        for record in self._records.running():
            craft = self._crafts[record.request.kind]
            outcome = craft.recover(record)
            if outcome is None and craft.resumes and record.starts < _MOST_STARTS:
                self._records.put_back(record.id)
                continue
            error = StudioError("interrupted", "The studio stopped while this was painting.", "Press retry.")
            self._records.finish(record.id, outcome or Outcome("interrupted", error=error))
        self._records.prune()
        self.results.tidy(self._records.identifiers())

    def _find(self, job_id: str) -> JobRecord:
        record = self._records.get(job_id) if is_identifier(job_id) else None
        if record is None:
            raise StudioError("not_found", "There is no such job.")
        return record

    def _snapshot(self, record: JobRecord) -> JobSnapshot:
        """The caller holds the worker's lock."""
        current = self._worker.current
        unsaved = record.id in self._worker.unsaved
        on_hold = self._worker.on_hold if record.state == "queued" else ""
        outcome = self._worker.unrecorded.get(record.id)
        if outcome is not None and record.state == "running":
            error = outcome.error
            record = replace(
                record,
                state=outcome.state,
                error_kind=error.kind if error else None,
                error=error.message if error else "",
                hint=error.hint if error else "",
            )
        snapshot = _at_rest(record, has_unsaved_image=unsaved, on_hold=on_hold)
        if record.state == "queued":
            position, eta_s = self._place_in_queue(record, current)
            return replace(snapshot, position=position, eta_s=eta_s)
        if record.state == "running" and current and current[0] == record.id:
            return replace(snapshot, **current[1].read().__dict__)
        return snapshot

    def _place_in_queue(self, record: JobRecord, current: tuple[str, Progress] | None) -> tuple[int, float]:
        """Jobs ahead of a queued one, and seconds until it is done."""
        count, seconds = self._records.ahead(record.turn)
        running_s = (current[1].read().eta_s or 0.0) if current else 0.0
        return count + (1 if current else 0), seconds + running_s + record.forecast


def _at_rest(record: JobRecord, *, has_unsaved_image: bool, on_hold: str) -> JobSnapshot:
    """What the record alone says."""
    until = record.finished or time.time()
    return JobSnapshot(
        id=record.id,
        state=record.state,
        request=record.request,
        prompt=record.prompt,
        created=record.created,
        started=record.started,
        finished=record.finished,
        phase=record.state,
        fraction=1.0 if record.state == "done" else 0.0,
        image_id=record.id if record.state == "done" and record.request.kind == "picture" else None,
        elapsed_s=max(0.0, until - record.started) if record.started else 0.0,
        seconds=record.seconds,
        warnings=record.warnings,
        unknown_words=record.unknown_words,
        error_kind=record.error_kind,
        error=record.error,
        hint=record.hint,
        can_retry=record.state in RETRYABLE_STATES,
        has_unsaved_image=has_unsaved_image,
        on_hold=on_hold,
        owner=record.owner,
        peak_bytes=record.peak_bytes,
        result=record.result,
    )

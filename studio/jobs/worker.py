"""The one thread that paints: takes the next job, paints it, saves it, and gives every job a final state."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict

from studio.crafts.craft import Crafts, News, Product
from studio.errors import StudioError
from studio.gallery.files import NotPublished
from studio.gallery.gallery import Gallery, void
from studio.gallery.results import Results
from studio.jobs.progress import Progress
from studio.jobs.records import JobRecord, JobRecords, Outcome
from studio.painter import PaintingStopped

logger = logging.getLogger(__name__)
_HOLD_S = 2.0
_KEPT_UNSAVED = 2


class Worker:
    """Owns the device. `lock` guards what other threads read.

    Args:
        records: Where jobs come from and outcomes go.
        crafts: Do the work, one per kind of request.
        gallery: Knows how much room is left.
        results: Takes the small files of jobs.
    """

    def __init__(self, records: JobRecords, crafts: Crafts, gallery: Gallery, results: Results) -> None:
        self._records = records
        self._results = results
        self._crafts = crafts
        self._gallery = gallery
        self.lock = threading.Condition(threading.RLock())
        self.current: tuple[str, Progress] | None = None
        self.on_hold = ""
        self.unsaved: OrderedDict[str, Product] = OrderedDict()
        # outcomes that a full disk kept out of the records
        self.unrecorded: dict[str, Outcome] = {}
        self.is_closing = False
        self._thread = threading.Thread(target=self._work, name="studio-worker", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Say that there may be something to do."""
        with self.lock:
            self.lock.notify_all()

    def close(self, wait_s: float) -> None:
        """Stop after the current step or tile, and wait for that at most `wait_s` seconds."""
        with self.lock:
            self.is_closing = True
            self.lock.notify_all()
        self._thread.join(wait_s)

    def _work(self) -> None:
        while True:
            with self.lock:
                if self.is_closing:
                    return
                try:
                    begun = self._begin_next()
                except StudioError as error:
                    # the records can't be written: nothing may start until they can
                    logger.warning("the queue waits: %s", error)
                    begun, self.on_hold = None, str(error)
                if begun is None:
                    self.lock.wait(_HOLD_S if self.on_hold else None)
                    continue
                self.current = (begun[0].id, begun[1])
            outcome = self._run(*begun)
            with self.lock:
                if outcome is None:
                    self._records.put_back(begun[0].id, is_forgiven=True)
                else:
                    self._note(begun[0].id, outcome)
                self.current = None

    def _begin_next(self) -> tuple[JobRecord, Progress] | None:
        """Mark the next job as running; None when there is none or the disk is too full for it."""
        for job_id, outcome in list(self.unrecorded.items()):
            self._record(job_id, outcome)
            del self.unrecorded[job_id]
        record = self._records.next_queued()
        self.on_hold = self._reason_to_hold(record) if record else ""
        if record is None or self.on_hold or not self._records.begin(record.id):
            return None
        return record, Progress(record.forecast)

    def _reason_to_hold(self, record: JobRecord) -> str:
        """A full disk would fail every job in turn: the queue waits instead, and says so."""
        needed = self._crafts[record.request.kind].room_bytes(record.request)
        if record.id in self.unsaved or self._gallery.has_room(needed):
            return ""
        return "Waiting for disk space: the data folder's disk is full."

    def _run(self, record: JobRecord, progress: Progress) -> Outcome | None:
        """How the job ended; None when it goes back in line, to go on where it was at the next start."""
        try:
            with self.lock:
                kept = self.unsaved.get(record.id)
            product = kept or self._make(record, progress)
            self._save(record, product, progress)
            return Outcome("done", product.seconds, product.warnings, product.peak_bytes, product.result)
        except (PaintingStopped, NotPublished):
            shown = progress.read().result
            if progress.is_cancelled():
                self._forget_unsaved(record.id)
                return Outcome("cancelled", result=shown)
            if self._crafts[record.request.kind].resumes:
                return None
            stopped = StudioError("interrupted", "The studio closed while this was painting.", "Press retry.")
            return Outcome("interrupted", error=stopped)
        except StudioError as failure:
            logger.warning("job %s failed: %s", record.id, failure)
            return Outcome("failed", result=progress.read().result, error=failure)
        except BaseException:
            # the worker must live on; the person gets a number that leads to the traceback in the log
            incident = secrets.token_hex(3)
            logger.exception("job %s failed, incident %s", record.id, incident)
            error = StudioError(
                "internal", f"Painting failed unexpectedly (incident {incident}).", "Try again."
            )
            return Outcome("failed", result=progress.read().result, error=error)

    def _make(self, record: JobRecord, progress: Progress) -> Product:
        craft = self._crafts[record.request.kind]
        news = News(
            report=progress.report,
            should_stop=lambda: self._should_stop(progress),
            loading=lambda _: progress.enter("load"),
            show=progress.show,
            keep=lambda name, data: self._keep(record.id, name, data),
        )
        return craft.make(record, craft.check(record.request), news)

    def _keep(self, job_id: str, name: str, data: bytes) -> None:
        self._results.write(job_id, name, lambda file: void(file.write(data)))

    def _save(self, record: JobRecord, product: Product, progress: Progress) -> None:
        progress.enter("save")
        if self._should_stop(progress):
            raise PaintingStopped
        try:
            craft = self._crafts[record.request.kind]
            craft.save(record, product, lambda: not self._should_stop(progress))
        except StudioError:
            with self.lock:
                self.unsaved[record.id] = product
                while len(self.unsaved) > _KEPT_UNSAVED:
                    self.unsaved.popitem(last=False)
            raise
        self._forget_unsaved(record.id)

    def _should_stop(self, progress: Progress) -> bool:
        return self.is_closing or progress.is_cancelled()

    def _forget_unsaved(self, job_id: str) -> None:
        with self.lock:
            self.unsaved.pop(job_id, None)

    def _note(self, job_id: str, outcome: Outcome) -> None:
        try:
            self._record(job_id, outcome)
        except StudioError as error:
            logger.warning("the outcome of job %s waits to be recorded: %s", job_id, error)
            self.unrecorded[job_id] = outcome

    def _record(self, job_id: str, outcome: Outcome) -> None:
        self._records.finish(job_id, outcome)

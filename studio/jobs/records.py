"""Job records that outlive the process, and the lock that gives a data folder to one process."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from studio.errors import ErrorKind, StudioError, error_kind
from studio.gallery.database import Database
from studio.jobs.identifiers import new_identifier
from studio.jobs.snapshot import FINAL_STATES, JobState
from studio.requests import ImageRequest

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, state TEXT NOT NULL, turn INTEGER NOT NULL,
    request TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL, pixels INTEGER NOT NULL,
    forecast REAL NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
    seconds TEXT NOT NULL DEFAULT '{}', warnings TEXT NOT NULL, unknown TEXT NOT NULL,
    error_kind TEXT, error TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, turn);
"""
_VERSION = 1
_KEPT_JOBS = 2000


@dataclass(frozen=True)
class JobRecord:
    """One row; `turn` orders the queue, times are seconds since the epoch."""

    id: str
    state: JobState
    turn: int
    request: ImageRequest
    prompt: str
    forecast: float
    created: float
    started: float | None
    finished: float | None
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    unknown_words: tuple[str, ...]
    error_kind: ErrorKind | None
    error: str
    hint: str


class JobRecords:
    """All jobs of a data folder. Thread-safe.

    Args:
        path: Database file.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, _VERSION)

    def add(
        self,
        request: ImageRequest,
        prompt: str,
        forecast: float,
        warnings: tuple[str, ...],
        unknown_words: tuple[str, ...],
        max_queue: int,
    ) -> str:
        """A new queued job's identifier.

        Raises:
            StudioError: "queue_full" when `max_queue` jobs wait already.
        """
        with self._database.transaction() as connection:
            _require_room(connection, max_queue)
            job_id = new_identifier()
            connection.execute(
                "INSERT INTO jobs (id, state, turn, request, prompt, model, pixels, forecast, created,"
                " warnings, unknown) VALUES"
                " (?, 'queued', (SELECT coalesce(max(turn), 0) + 1 FROM jobs), ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job_id,
                    json.dumps(request.to_json(), ensure_ascii=False),
                    prompt,
                    request.model,
                    request.width * request.height,
                    forecast,
                    time.time(),
                    json.dumps(warnings, ensure_ascii=False),
                    json.dumps(unknown_words, ensure_ascii=False),
                ),
            )
        return job_id

    def get(self, job_id: str) -> JobRecord | None:
        """The job with this identifier."""
        row = self._database.row("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _record(row) if row else None

    def recent(self, limit: int) -> list[JobRecord]:
        """Newest jobs first."""
        rows = self._database.rows(
            "SELECT * FROM jobs ORDER BY number DESC LIMIT ?", (max(0, min(limit, 500)),)
        )
        return [_record(row) for row in rows]

    def next_queued(self) -> JobRecord | None:
        """The job whose turn it is."""
        row = self._database.row("SELECT * FROM jobs WHERE state = 'queued' ORDER BY turn LIMIT 1")
        return _record(row) if row else None

    def ahead(self, turn: int) -> tuple[int, float]:
        """How many queued jobs come before `turn`, and their forecast seconds."""
        row = self._database.row(
            "SELECT count(*), coalesce(sum(forecast), 0) FROM jobs WHERE state = 'queued' AND turn < ?",
            (turn,),
        )
        return (int(row[0]), float(row[1])) if row else (0, 0.0)

    def begin(self, job_id: str) -> bool:
        """queued -> running; False when it is no longer queued."""
        return self._change(
            "UPDATE jobs SET state = 'running', started = ? WHERE id = ? AND state = 'queued'",
            (time.time(), job_id),
        )

    def finish(
        self,
        job_id: str,
        state: JobState,
        *,
        seconds: dict[str, float] | None = None,
        warnings: tuple[str, ...] | None = None,
        error: StudioError | None = None,
    ) -> bool:
        """queued or running -> a final state; False when it had one already."""
        assert state in FINAL_STATES
        return self._change(
            "UPDATE jobs SET state = ?, finished = ?, seconds = ?, warnings = coalesce(?, warnings),"
            " error_kind = ?, error = ?, hint = ? WHERE id = ? AND state IN ('queued', 'running')",
            (
                state,
                time.time(),
                json.dumps(seconds or {}),
                None if warnings is None else json.dumps(warnings, ensure_ascii=False),
                error.kind if error else None,
                error.message if error else "",
                error.hint if error else "",
                job_id,
            ),
        )

    def cancel_queued(self, job_id: str) -> bool:
        """queued -> cancelled; False when it is not queued."""
        return self._change(
            "UPDATE jobs SET state = 'cancelled', finished = ? WHERE id = ? AND state = 'queued'",
            (time.time(), job_id),
        )

    def requeue(self, job_id: str, max_queue: int) -> None:
        """failed, cancelled or interrupted -> queued, as the last in line; does nothing for other states.

        Raises:
            StudioError: "queue_full" when `max_queue` jobs wait already.
        """
        with self._database.transaction() as connection:
            _require_room(connection, max_queue)
            connection.execute(
                "UPDATE jobs SET state = 'queued', turn = (SELECT max(turn) + 1 FROM jobs), started = NULL,"
                " finished = NULL, error_kind = NULL, error = '', hint = ''"
                " WHERE id = ? AND state IN ('failed', 'cancelled', 'interrupted')",
                (job_id,),
            )

    def running(self) -> list[str]:
        """Identifiers of jobs marked as running."""
        return [row[0] for row in self._database.rows("SELECT id FROM jobs WHERE state = 'running'")]

    def paces(self, model: str, pixels: int, limit: int = 9) -> list[float]:
        """Real over forecast seconds of the newest finished jobs of similar size with the same model."""
        rows = self._database.rows(
            "SELECT seconds, forecast FROM jobs WHERE state = 'done' AND model = ? AND pixels BETWEEN ? AND ?"
            " AND forecast > 0 ORDER BY finished DESC LIMIT ?",
            (model, pixels // 4, pixels * 4, limit),
        )
        found = []
        for row in rows:
            seconds = json.loads(row["seconds"])
            # loading happens once in a while and is no part of the forecast
            found.append((sum(seconds.values()) - seconds.get("load", 0.0)) / row["forecast"])
        return found

    def prune(self) -> None:
        """Forget all but the newest 2000 finished jobs."""
        with self._database.transaction() as connection:
            connection.execute(
                "DELETE FROM jobs WHERE state NOT IN ('queued', 'running') AND number <="
                " (SELECT max(number) FROM jobs) - ?",
                (_KEPT_JOBS,),
            )

    def close(self) -> None:
        """Close the database. Safe to call twice."""
        self._database.close()

    def _change(self, statement: str, values: tuple[Any, ...]) -> bool:
        with self._database.transaction() as connection:
            return connection.execute(statement, values).rowcount == 1


def _require_room(connection: Any, max_queue: int) -> None:
    waiting, ahead_s = connection.execute(
        "SELECT count(*), coalesce(sum(forecast), 0) FROM jobs WHERE state = 'queued'"
    ).fetchone()
    if waiting >= max_queue:
        raise StudioError(
            "queue_full",
            f"The queue is full ({waiting} jobs wait).",
            f"Try again in about {max(1, round(ahead_s / waiting))} s.",
        )


def _record(row: Any) -> JobRecord:
    return JobRecord(
        id=row["id"],
        state=row["state"],
        turn=row["turn"],
        request=ImageRequest.from_json(json.loads(row["request"])),
        prompt=row["prompt"],
        forecast=row["forecast"],
        created=row["created"],
        started=row["started"],
        finished=row["finished"],
        seconds=json.loads(row["seconds"]),
        warnings=tuple(json.loads(row["warnings"])),
        unknown_words=tuple(json.loads(row["unknown"])),
        error_kind=error_kind(row["error_kind"]) if row["error_kind"] else None,
        error=row["error"],
        hint=row["hint"],
    )


class FolderLock:
    """Gives a data folder to one process; the system releases it even after a kill.

    Raises:
        StudioError: "in_use" when another process holds it, "unwritable" when the folder can't be written.
    """

    def __init__(self, folder: Path) -> None:
        self._file: IO[bytes] | None = None
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(folder / "studio.lock", "ab")  # noqa: SIM115 - held open for the life of the lock
        except OSError as error:
            raise StudioError(
                "unwritable",
                f"The data folder can't be written ({error.strerror or error}).",
                "Set TESSERA_DATA_DIR to a folder that can.",
            ) from error
        try:
            _lock(self._file)
        except OSError as error:
            self.release()
            raise StudioError(
                "in_use",
                "Another studio already works in this data folder.",
                "Stop it, or set TESSERA_DATA_DIR to another folder.",
            ) from error

    def release(self) -> None:
        """Let the folder go. Safe to call twice."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)

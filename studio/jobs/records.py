"""Job records that outlive the process."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from studio.errors import ErrorKind, StudioError, error_kind
from studio.gallery.database import Database
from studio.jobs.identifiers import new_identifier
from studio.jobs.snapshot import FINAL_STATES, JobState
from studio.requests import REQUESTS, Kind, Request

_SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, state TEXT NOT NULL, turn INTEGER NOT NULL,
    request TEXT NOT NULL, prompt TEXT NOT NULL, model TEXT NOT NULL, pixels INTEGER NOT NULL,
    forecast REAL NOT NULL, created REAL NOT NULL, started REAL, finished REAL,
    seconds TEXT NOT NULL DEFAULT '{}', warnings TEXT NOT NULL, unknown TEXT NOT NULL,
    error_kind TEXT, error TEXT NOT NULL DEFAULT '', hint TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL DEFAULT 'picture', owner TEXT NOT NULL DEFAULT '', peak INTEGER NOT NULL DEFAULT 0,
    result TEXT NOT NULL DEFAULT '{}', starts INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, turn);
"""
_MIGRATIONS = (
    "ALTER TABLE jobs ADD COLUMN kind TEXT NOT NULL DEFAULT 'picture';"
    "ALTER TABLE jobs ADD COLUMN owner TEXT NOT NULL DEFAULT '';"
    "ALTER TABLE jobs ADD COLUMN peak INTEGER NOT NULL DEFAULT 0;"
    "ALTER TABLE jobs ADD COLUMN result TEXT NOT NULL DEFAULT '{}';"
    "ALTER TABLE jobs ADD COLUMN starts INTEGER NOT NULL DEFAULT 0",
)
_KEPT_JOBS = 2000


@dataclass(frozen=True)
class JobRecord:
    """One row; `turn` orders the queue, times are seconds since the epoch.

    `owner` is the visitor who asked ("" when nobody in particular), `result` what the job has to tell of what
    it made, as plain JSON values, `starts` how often work on it has begun.
    """

    id: str
    state: JobState
    turn: int
    request: Request
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
    owner: str
    peak_bytes: int
    result: dict[str, Any]
    starts: int


@dataclass(frozen=True)
class NewJob:
    """What is noted of a job that passed every check; `forecast` in seconds."""

    request: Request
    prompt: str
    forecast: float
    warnings: tuple[str, ...]
    unknown_words: tuple[str, ...]
    owner: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a job ended; `seconds` per phase."""

    state: JobState
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] | None = None
    peak_bytes: int = 0
    result: dict[str, Any] = field(default_factory=dict)
    error: StudioError | None = None


class JobRecords:
    """All jobs of a data folder. Thread-safe.

    Args:
        path: Database file.
    """

    def __init__(self, path: Path) -> None:
        self._database = Database(path, _SCHEMA, _MIGRATIONS)

    def add(self, job: NewJob, max_queue: int) -> str:
        """A new queued job's identifier.

        Raises:
            StudioError: "queue_full" when `max_queue` jobs wait already.
        """
        request = job.request
        with self._database.transaction() as connection:
            _require_room(connection, max_queue)
            job_id = new_identifier()
            connection.execute(
                "INSERT INTO jobs (id, state, turn, kind, owner, request, prompt, model, pixels, forecast,"
                " created, warnings, unknown) VALUES"
                " (?, 'queued', (SELECT coalesce(max(turn), 0) + 1 FROM jobs), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job_id,
                    request.kind,
                    job.owner,
                    json.dumps(request.to_json(), ensure_ascii=False),
                    job.prompt,
                    request.model,
                    request.amount,
                    job.forecast,
                    time.time(),
                    json.dumps(job.warnings, ensure_ascii=False),
                    json.dumps(job.unknown_words, ensure_ascii=False),
                ),
            )
        return job_id

    def get(self, job_id: str) -> JobRecord | None:
        """The job with this identifier."""
        row = self._database.row("SELECT * FROM jobs WHERE id = ?", (job_id,))
        return _record(row) if row else None

    def recent(self, limit: int, kind: Kind | None = None) -> list[JobRecord]:
        """Newest jobs first, all or those of one kind."""
        rows = self._database.rows(
            "SELECT * FROM jobs WHERE kind = coalesce(?, kind) ORDER BY number DESC LIMIT ?",
            (kind, max(0, min(limit, 500))),
        )
        return [_record(row) for row in rows]

    def find_done(self, request: Request, owner: str) -> str | None:
        """The newest finished job of this owner with exactly this request."""
        text = json.dumps(request.to_json(), ensure_ascii=False)
        row = self._database.row(
            "SELECT id FROM jobs WHERE state = 'done' AND kind = ? AND owner = ? AND request = ?"
            " ORDER BY number DESC LIMIT 1",
            (request.kind, owner, text),
        )
        return str(row[0]) if row else None

    def forget(self, job_id: str) -> bool:
        """Remove a job that has ended; False when there is none or it has not."""
        return self._change("DELETE FROM jobs WHERE id = ? AND state NOT IN ('queued', 'running')", (job_id,))

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
            "UPDATE jobs SET state = 'running', started = ?, starts = starts + 1"
            " WHERE id = ? AND state = 'queued'",
            (time.time(), job_id),
        )

    def finish(self, job_id: str, outcome: Outcome) -> bool:
        """queued or running -> a final state; False when it had one already."""
        assert outcome.state in FINAL_STATES
        error, warnings = outcome.error, outcome.warnings
        return self._change(
            "UPDATE jobs SET state = ?, finished = ?, seconds = ?, warnings = coalesce(?, warnings),"
            " peak = ?, result = ?, error_kind = ?, error = ?, hint = ?"
            " WHERE id = ? AND state IN ('queued', 'running')",
            (
                outcome.state,
                time.time(),
                json.dumps(outcome.seconds),
                None if warnings is None else json.dumps(warnings, ensure_ascii=False),
                outcome.peak_bytes,
                json.dumps(outcome.result, ensure_ascii=False),
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
                " starts = 0, finished = NULL, error_kind = NULL, error = '', hint = ''"
                " WHERE id = ? AND state IN ('failed', 'cancelled', 'interrupted')",
                (job_id,),
            )

    def put_back(self, job_id: str, *, is_forgiven: bool = False) -> None:
        """running -> queued, at the place in line that it had; a forgiven start is not counted."""
        self._change(
            "UPDATE jobs SET state = 'queued', started = NULL, starts = starts - ?"
            " WHERE id = ? AND state = 'running'",
            (int(is_forgiven), job_id),
        )

    def running(self) -> list[JobRecord]:
        """Jobs marked as running."""
        return [_record(row) for row in self._database.rows("SELECT * FROM jobs WHERE state = 'running'")]

    def paces(self, kind: Kind, model: str, amount: int, limit: int = 9) -> list[float]:
        """Real over forecast seconds of the newest finished jobs of similar amount with the same model."""
        rows = self._database.rows(
            "SELECT seconds, forecast FROM jobs WHERE state = 'done' AND kind = ? AND model = ?"
            " AND pixels BETWEEN ? AND ? AND forecast > 0 ORDER BY finished DESC LIMIT ?",
            (kind, model, amount // 4, amount * 4, limit),
        )
        found = []
        for row in rows:
            seconds = json.loads(row["seconds"])
            # loading happens once in a while and is no part of the forecast
            found.append((sum(seconds.values()) - seconds.get("load", 0.0)) / row["forecast"])
        return found

    def identifiers(self) -> set[str]:
        """Identifiers of all jobs."""
        return {row[0] for row in self._database.rows("SELECT id FROM jobs")}

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
        request=REQUESTS[row["kind"]].from_json(json.loads(row["request"])),
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
        owner=row["owner"],
        peak_bytes=row["peak"],
        result=json.loads(row["result"]),
        starts=row["starts"],
    )

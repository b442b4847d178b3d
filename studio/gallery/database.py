"""SQLite files that survive kills and damage: write-ahead log, versioned schema, damaged files set aside."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from studio.errors import StudioError

logger = logging.getLogger(__name__)


class Database:
    """One connection that all threads share under a lock.

    Args:
        path: File; its folder exists.
        schema: Statements that build an empty database.
        migrations: Statements that bring a file of version 1 to 2, of 2 to 3, and so on; the number is kept
            in `user_version`, and a file of a newer version is set aside and begun anew.
    Raises:
        OSError: the file can't be made or opened.

    Its methods raise StudioError: "disk_full" or "unwritable" when a write fails, "conflict" once closed.
    """

    def __init__(self, path: Path, schema: str, migrations: tuple[str, ...] = ()) -> None:
        self._lock = threading.RLock()
        self._connection: sqlite3.Connection | None = None
        try:
            self._connection = _open(path, schema, migrations)
        except sqlite3.DatabaseError as error:
            if not path.exists() or isinstance(error, sqlite3.OperationalError):
                raise OSError(f"{path.name} can't be opened ({error})") from error
            logger.warning("setting %s aside: %s", path.name, error)
            _set_aside(path)
            self._connection = _open(path, schema, migrations)

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A write transaction: committed at the end, rolled back on any exception."""
        with self._lock:
            connection = self._open_connection()
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException as error:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise _storage_error(error) from error
                raise

    def rows(self, statement: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        """All rows of a query."""
        with self._lock:
            return self._open_connection().execute(statement, values).fetchall()

    def row(self, statement: str, values: tuple[Any, ...] = ()) -> sqlite3.Row | None:
        """The first row of a query, or None."""
        with self._lock:
            found: sqlite3.Row | None = self._open_connection().execute(statement, values).fetchone()
            return found

    def close(self) -> None:
        """Fold the log into the file and close. Safe to call twice."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _open_connection(self) -> sqlite3.Connection:
        if self._connection is None:
            # a page may still ask while the studio shuts down
            raise StudioError("conflict", "The studio is closed.", "Start it again.")
        return self._connection


def _storage_error(error: sqlite3.OperationalError) -> StudioError:
    if "full" in str(error):
        return StudioError(
            "disk_full", "The disk is full, nothing could be noted.", "Free some space, then retry."
        )
    return StudioError("unwritable", f"The studio's records can't be written ({error}).")


def _open(path: Path, schema: str, migrations: tuple[str, ...]) -> sqlite3.Connection:
    # autocommit mode: transactions are written out, so nothing commits by accident
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        found = connection.execute("PRAGMA user_version").fetchone()[0]
        version = len(migrations) + 1
        if found > version:
            raise sqlite3.DatabaseError(f"schema version {found}, this studio writes {version}")
        for number in range(found, version) if found else ():
            # one step is done wholly or not at all, so a kill in between is taken up at the next start
            step = f"BEGIN IMMEDIATE; {migrations[number - 1]}; PRAGMA user_version = {number + 1:d}; COMMIT;"
            connection.executescript(step)
        connection.executescript(schema)
        connection.execute(f"PRAGMA user_version = {version:d}")
        if connection.execute("PRAGMA quick_check").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("the file is damaged")
    except BaseException:
        connection.close()
        raise
    return connection


def _set_aside(path: Path) -> None:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for suffix in ("", "-wal", "-shm"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.replace(path.with_name(f"{path.name}{suffix}.damaged-{stamp}"))

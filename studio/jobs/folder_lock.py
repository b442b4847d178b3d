"""The lock that gives a data folder to one process."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from studio.errors import StudioError


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

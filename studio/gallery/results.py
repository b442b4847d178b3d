"""Files of jobs: attempts of a search, token strips, clips. One folder per job, files whole or absent."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

from studio.errors import StudioError
from studio.gallery.files import storage_error, write_whole
from studio.jobs.identifiers import is_identifier

MEDIA_TYPES = {
    ".webp": "image/webp",
    ".png": "image/png",
    ".gif": "image/gif",
    ".mp4": "video/mp4",
    ".fxtk": "application/octet-stream",
}
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,60}\.[a-z0-9]{2,5}", re.ASCII)


class Results:
    """Folders below `data_dir/results`. Thread-safe.

    Args:
        data_dir: Made when it does not exist.
    Raises:
        StudioError: "unwritable".
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "results"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, "the results", data_dir) from error

    def folder(self, job_id: str) -> Path:
        """The job's own folder, made when it does not exist.

        Raises:
            StudioError: the disk is full or can't be written.
        """
        assert is_identifier(job_id)
        folder = self._folder / job_id
        try:
            folder.mkdir(exist_ok=True)
        except OSError as error:
            raise storage_error(error, "the result", self._folder) from error
        return folder

    def write(self, job_id: str, name: str, write: Callable[[BinaryIO], None]) -> Path:
        """A file of the job, in one step.

        Raises:
            StudioError: the disk is full or can't be written; no part of the file is left.
        """
        assert _is_name(name), name
        path = self.folder(job_id) / name
        try:
            write_whole(path, write)
        except OSError as error:
            raise storage_error(error, "the result", self._folder) from error
        return path

    def path(self, job_id: str, name: str) -> Path:
        """A file that is there; names come from outside.

        Raises:
            StudioError: "not_found".
        """
        path = self._folder / job_id / name
        if not is_identifier(job_id) or not _is_name(name) or path.is_symlink() or not path.is_file():
            raise StudioError("not_found", "There is no such file.")
        return path

    def has_folder(self, job_id: str, name: str) -> bool:
        """Whether the job has a folder of its own with this name."""
        return is_identifier(job_id) and (self._folder / job_id / name).is_dir()

    def remove(self, job_id: str) -> None:
        """Forget everything of a job."""
        assert is_identifier(job_id)
        with contextlib.suppress(OSError):
            shutil.rmtree(self._folder / job_id)

    def tidy(self, known: Iterable[str]) -> None:
        """Remove the folders of jobs that are not known any more, and half-written files."""
        jobs = set(known)
        for path in self._folder.iterdir():
            if path.name not in jobs and is_identifier(path.name):
                self.remove(path.name)
        for path in self._folder.glob("*/.*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and Path(name).suffix in MEDIA_TYPES

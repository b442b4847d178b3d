"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from studio.errors import StudioError

TEMPORARY_MARK = ".part-"


class NotPublished(Exception):
    """`keep_going` said no between writing and publishing; nothing appeared."""


def write_whole(
    path: Path, write: Callable[[BinaryIO], None], keep_going: Callable[[], bool] = lambda: True
) -> None:
    """Write a file beside its final name, force it to disk, then give it its name in one step.

    Args:
        path: Final name; its folder exists.
        write: Writes the contents to the open file it is given.
        keep_going: Asked once, right before the file appears.
    Raises:
        OSError: as the system reports it; no part of the file is left.
        NotPublished: `keep_going` answered False.
    """
    temporary = path.with_name(f".{path.name[:100]}{TEMPORARY_MARK}{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if not keep_going():
            raise NotPublished
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # makes the new name itself durable; folders can't be opened for this on Windows
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def check_writable(path: Path, what: str = "the picture") -> None:
    """Refuse a target that could not be written later, by writing beside it now; `what` names it.

    Raises:
        StudioError: "unwritable": no such folder, no right to write, or the target is a folder.
    """
    if path.is_dir():
        raise StudioError("unwritable", f"out: {str(path)!r} is a folder.", "Name a file.")
    if not path.parent.is_dir():
        raise StudioError("unwritable", f"out: there is no folder {str(path.parent)!r}.", "Make it first.")
    trial = path.with_name(f".{path.name[:100]}{TEMPORARY_MARK}{secrets.token_hex(4)}")
    try:
        with open(trial, "xb"):
            pass
        trial.unlink()
    except OSError as error:
        raise storage_error(error, what, path.parent) from error


def is_temporary(path: Path) -> bool:
    """Whether `path` is what a killed `write_whole` left behind."""
    return path.name.startswith(".") and TEMPORARY_MARK in path.name


def free_bytes(folder: Path) -> int:
    """Bytes that can still be written below `folder`."""
    return shutil.disk_usage(folder).free


def storage_error(error: OSError, what: str, folder: Path) -> StudioError:
    """The sentence for a failed write of `what` ("the picture") to `folder`."""
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        try:
            left = f"{free_bytes(folder) / 1e6:.0f} MB free"
        except OSError:
            left = "no space"
        return StudioError(
            "disk_full", f"The disk is full ({left}), {what} was not saved.", "Free some space, then retry."
        )
    reason = error.strerror or type(error).__name__
    return StudioError(
        "unwritable", f"Can't write {what} ({reason}).", "Choose a folder that can be written."
    )

"""The one exception whose text is shown to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ErrorKind = Literal[
    "bad_input",
    "too_long",
    "unknown_model",
    "not_found",
    "too_large",
    "unwritable",
    "queue_full",
    "conflict",
    "not_installed",
    "missing_model",
    "damaged_model",
    "disk_full",
    "in_use",
    "cancelled",
    "interrupted",
    "internal",
]


@dataclass(frozen=True)
class _Codes:
    exit_code: int
    http_status: int


# exit code 2 says "change the request", 1 says "the request was fine, something else was not"
_CODES: dict[ErrorKind, _Codes] = {
    "bad_input": _Codes(2, 400),
    "too_long": _Codes(2, 413),
    "unknown_model": _Codes(2, 404),
    "not_found": _Codes(2, 404),
    "too_large": _Codes(2, 413),
    "unwritable": _Codes(2, 400),
    "queue_full": _Codes(1, 429),
    "conflict": _Codes(1, 409),
    "not_installed": _Codes(2, 503),
    "missing_model": _Codes(1, 503),
    "damaged_model": _Codes(1, 503),
    "disk_full": _Codes(1, 507),
    "in_use": _Codes(1, 409),
    "cancelled": _Codes(1, 409),
    "interrupted": _Codes(1, 503),
    "internal": _Codes(1, 500),
}


class StudioError(Exception):
    """A failure told in one sentence, with what to do about it.

    Args:
        kind: One of `ErrorKind`; decides exit code and HTTP status.
        message: One sentence for the person who asked; no traceback, no foreign path.
        hint: What to do next, or "". Shown after the message.
    """

    def __init__(self, kind: ErrorKind, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.kind: ErrorKind = kind
        self.message = message
        self.hint = hint

    @property
    def exit_code(self) -> int:
        """2 for input that has to change, 1 for everything else."""
        return _CODES[self.kind].exit_code

    @property
    def http_status(self) -> int:
        """The status a web endpoint answers with, 400 to 599."""
        return _CODES[self.kind].http_status

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".strip() if self.hint else self.message


def error_kind(text: str | None) -> ErrorKind:
    """The kind stored as `text`, or "internal" when it is not one (a newer or damaged record)."""
    for kind in _CODES:
        if kind == text:
            return kind
    return "internal"

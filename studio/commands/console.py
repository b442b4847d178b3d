"""What commands share: the words given to them, progress on a terminal, one JSON object on stdout."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from studio.crafts.craft import News
from studio.errors import StudioError
from studio.terminal import ProgressLine

_MAX_PROMPT_BYTES = 16 << 20


def read_prompt(prompt: str | None, prompt_file: str | None) -> str:
    """The prompt as given: in the command, on stdin (-), or in a file.

    Raises:
        StudioError: none or two of them, or a file that can't be read.
    """
    if (prompt is None) == (prompt_file is None):
        raise StudioError("bad_input", "prompt: give either PROMPT (or - for stdin) or --prompt-file.")
    if prompt_file is not None:
        try:
            with open(prompt_file, "rb") as file:
                return _read_text(file)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StudioError("bad_input", f"prompt-file: can't read {prompt_file!r} ({reason}).") from error
    if prompt == "-":
        return _read_text(sys.stdin.buffer)
    return prompt or ""


def _read_text(file: BinaryIO) -> str:
    data = file.read(_MAX_PROMPT_BYTES + 1)
    if len(data) > _MAX_PROMPT_BYTES:
        raise StudioError("too_long", f"prompt: given more than {_MAX_PROMPT_BYTES >> 20} MB of text.")
    return data.decode("utf-8-sig", "replace")


@contextlib.contextmanager
def progress(forecast_s: float) -> Iterator[News]:
    """News that go to a line on the terminal; stdout belongs to the result, so what libraries print goes to
    stderr."""
    line = ProgressLine(forecast_s)
    try:
        with quiet_stdout():
            yield News(report=line.report, loading=line.loading)
    finally:
        line.close()


@contextlib.contextmanager
def quiet_stdout() -> Iterator[None]:
    """Send what libraries print to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def print_json(facts: dict[str, Any]) -> None:
    """One JSON object on one line."""
    print(json.dumps(facts, allow_nan=False))


def print_warnings(warnings: list[str]) -> None:
    """Each on a line of stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def existing(file: str, what: str) -> Path:
    """The path of a file that is there.

    Raises:
        StudioError: "not_found"; `what` says what it should be ("picture").
    """
    path = Path(file)
    if not path.is_file():
        raise StudioError("not_found", f"There is no {what} {file!r}.")
    return path

"""`models convert`: published files into folders of ours; offline, pickles are read as plain tensors."""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
from importlib import import_module

from studio.errors import StudioError

# name -> module with `main(arguments)`, which has a --help of its own
CONVERTERS = {
    "compass": "pipelines.compass.convert_compass",
    "longsd": "pipelines.longalign.convert_longsd",
    "long-clip": "pipelines.longalign.convert_long_clip",
    "vidrd": "pipelines.vidrd.convert_vidrd",
}


def convert(arguments: argparse.Namespace) -> int:
    """Run a converter with the words that follow its name."""
    if arguments.kind not in CONVERTERS:
        raise StudioError("bad_input", f"kind: given {arguments.kind!r}, allowed {', '.join(CONVERTERS)}.")
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            import_module(CONVERTERS[arguments.kind]).main(arguments.words)
    except SystemExit as ended:
        if ended.code:
            # its own parser said how it is called; the last line says what is wrong
            *_, said = complaint.getvalue().strip().splitlines() or [str(ended.code)]
            told = said.rpartition("error: ")[2].rstrip(".")
            hint = f"See `python -m studio models convert {arguments.kind} --help`."
            raise StudioError("bad_input", f"{arguments.kind}: {told}.", hint) from ended
    except FileNotFoundError as error:
        raise StudioError("not_found", f"{arguments.kind}: there is no {error.filename!r}.") from error
    except (ValueError, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:300].rstrip(".")
        raise StudioError("bad_input", f"{arguments.kind}: {reason}.") from error
    sys.stderr.write(complaint.getvalue())
    return 0

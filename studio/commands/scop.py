"""`scop`: CoMPaSS's data engine, from COCO annotations to pairs whose relation is beyond doubt."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from studio.commands.console import print_json, progress, quiet_stdout
from studio.crafts.reports import Report
from studio.errors import StudioError
from studio.gallery.files import check_writable, storage_error

_THRESHOLDS = (
    "min_bbox_area", "visual_significance", "spatial_clarity", "minimal_overlap", "size_balance",
    "containment", "uniqueness",
)  # fmt: skip


def scop(arguments: argparse.Namespace) -> int:
    """Mine pairs into a new folder; nothing appears under its name before it is complete."""
    annotations = Path(arguments.annotations)
    images = Path(arguments.images) if arguments.images else None
    for name, path in (("annotations", annotations), ("images", images)):
        if path is not None and not path.exists():
            raise StudioError("not_found", f"{name}: there is no {str(path)!r}.")
    out = Path(arguments.out)
    check_writable(out / "trial" if out.is_dir() else out, "the data set")
    with quiet_stdout():
        from pipelines.compass.scop import ScopOutput, run_scop
        from pipelines.compass.scop_rules import GENEVAL_PARAMS, ScopParams
    given = {name: value for name in _THRESHOLDS if (value := getattr(arguments, name)) is not None}
    start = GENEVAL_PARAMS if arguments.thresholds == "geneval" else ScopParams()
    with progress(60.0) as news:
        try:
            report = run_scop(
                annotations,
                images,
                out,
                replace(start, profile=arguments.profile, **given),
                ScopOutput(
                    images=arguments.keep,
                    shared_images=Path(arguments.shared_images) if arguments.shared_images else None,
                    samples=arguments.samples,
                    mirror=arguments.mirror,
                ),
                split=arguments.split,
                skip_invalid=arguments.skip_invalid,
                on_progress=_shown(news.report),
            )
        except ValueError as error:
            raise StudioError("bad_input", f"{error}.") from error
        except OSError as error:
            raise storage_error(error, "the data set", out.parent) from error
    if report.skipped:
        print(f"warning: {len(report.skipped)} annotations were left out", file=sys.stderr)
    if arguments.json:
        print_json({"folder": str(out), **asdict(report)})
    else:
        print(f"{out}  {report.accepted} of {report.pairs} pairs accepted, {report.pictures} pictures")
    return 0


def _shown(report: Callable[[Report], None] | None) -> Callable[[Any], None] | None:
    """Progress of the data engine as the line on the terminal takes it."""
    if report is None:
        return None

    def tell(news: Any) -> None:
        report(Report(news.phase, fraction=news.fraction))

    return tell

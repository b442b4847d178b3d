"""SCOP: from a COCO file to pairs of objects whose relation is beyond doubt, with their pictures.

`run_scop` reads the annotations in one pass, mines the pairs, and writes `metadata.jsonl` with the pictures
beside it. Everything is written below a temporary name first: a folder that has its final name is complete.
"""

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.compass.scop_input import (
    MAX_PICTURE_BYTES,
    AnnotationError,
    Annotations,
    PictureSource,
    plain_annotations,
    read_annotations,
    unpack,
)
from pipelines.compass.scop_mine import MinedPairs, mine, pair_weights
from pipelines.compass.scop_rules import ScopParams, mirrored, scop_relations, triples

IMAGE_MODES = ("link", "copy", "none")
METADATA, REPORT = "metadata.jsonl", "report.json"
_CYAN, _MAGENTA = (0, 200, 220), (220, 0, 180)


class ScopStopped(Exception):
    """`should_stop` said yes; nothing was written."""


@dataclass(frozen=True)
class ScopProgress:
    """What a watcher is told.

    Attributes:
        phase: "read", "mine" or "write".
        fraction: of that phase, 0 to 1.
        boxes, pairs, accepted: read, judged and accepted so far.
        pairs_per_second: while mining.
    """

    phase: str
    fraction: float
    boxes: int = 0
    pairs: int = 0
    accepted: int = 0
    pairs_per_second: float = 0.0


@dataclass(frozen=True)
class ScopReport:
    """What a run did; also written as `report.json`.

    Attributes:
        images, boxes: read. boxes_kept: large enough. pairs: judged. accepted: pairs written (without mirror
            images). lines: of `metadata.jsonl`. pictures: of the data set.
        refused: by constraint; a pair may fail several.
        skipped: ids of annotations that were left out on request.
        seconds: by phase. pairs_per_second: of mining alone.
    """

    images: int
    boxes: int
    boxes_kept: int
    pairs: int
    accepted: int
    lines: int
    pictures: int
    refused: dict[str, int]
    skipped: tuple[int, ...]
    seconds: dict[str, float]
    pairs_per_second: float
    params: dict[str, Any]


@dataclass(frozen=True)
class ScopOutput:
    """How results are written.

    Attributes:
        images: "link" (relative symbolic links), "copy", or "none". Pictures from an archive are unpacked.
        shared_images: folder that holds the pictures of several data sets; they are copied there once and
            linked from here.
        samples: how many pictures with drawn boxes to write into `samples/`.
        mirror: also write the mirror image of each pair (strict profile).
    Raises:
        ValueError: an unknown value, a negative number, or something that needs pictures without any.
    """

    images: str = "link"
    shared_images: Path | None = None
    samples: int = 0
    mirror: bool = False

    def __post_init__(self) -> None:
        if self.images not in IMAGE_MODES:
            raise ValueError(f"images is {self.images!r}; it must be one of {IMAGE_MODES}")
        if self.samples < 0:
            raise ValueError(f"samples is {self.samples}; it must be at least 0")
        if self.images == "none" and (self.samples or self.shared_images is not None):
            raise ValueError("samples and shared images need pictures, but images is 'none'")


@dataclass
class _Run:
    """One run, and who watches it."""

    params: ScopParams
    output: ScopOutput
    split: str
    skip_invalid: bool
    on_progress: Callable[[ScopProgress], None] | None
    should_stop: Callable[[], bool] | None
    seconds: dict[str, float] = field(default_factory=dict)
    began: float = 0.0

    def tell(self, phase: str, fraction: float, **figures: Any) -> None:
        if self.should_stop is not None and self.should_stop():
            raise ScopStopped
        if self.on_progress is not None:
            self.on_progress(ScopProgress(phase, min(fraction, 1.0), **figures))

    def spend(self, phase: str) -> float:
        now = time.monotonic()
        self.seconds[phase] = round(now - self.began, 3)
        self.began = now
        return self.seconds[phase]

    def read(self, file: Path) -> Annotations:
        total = max(file.stat().st_size, 1)
        found = read_annotations(file, self.skip_invalid, lambda at: self.tell("read", at / total))
        self.spend("read")
        return found

    def mine(self, annotations: Annotations) -> tuple[MinedPairs, float]:
        began, boxes = time.monotonic(), len(annotations.boxes)

        def report(pairs: int, total: int) -> None:
            speed = pairs / max(time.monotonic() - began, 1e-6)
            self.tell("mine", pairs / total, boxes=boxes, pairs=pairs, pairs_per_second=speed)

        pairs = mine(annotations, self.params, report)
        return pairs, pairs.candidates / max(self.spend("mine"), 1e-3)


def run_scop(
    annotations: Path | str,
    images: Path | str | None,
    out: Path | str,
    params: ScopParams | None = None,
    output: ScopOutput | None = None,
    *,
    split: str = "train2017",
    skip_invalid: bool = False,
    on_progress: Callable[[ScopProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> ScopReport:
    """Mine a data set of pairs.

    Args:
        annotations: COCO instances file, a zip archive with one, or a folder in COCO's layout.
        images: folder or zip archive of the pictures; None: of the annotations' folder where it is in COCO's
            layout, else no pictures are written.
        out: folder to make; it must not exist, or be empty.
        params: thresholds and profile. output: what to write.
        split: name of the part of COCO ("train2017", "val2017").
        skip_invalid: leave out annotations that can't be used instead of refusing the file.
        on_progress, should_stop: called often.
    Returns:
        The report.
    Raises:
        AnnotationError (a ValueError): malformed input, with the id it concerns; nothing is written.
        ScopStopped: `should_stop` answered True; nothing is written.
        ValueError: `out` is in use.
    """
    annotations, out = Path(annotations), Path(out)
    params, output = params or ScopParams(), output or ScopOutput()
    if output.mirror and params.profile != "strict":
        raise ValueError("mirror images belong to the strict profile: the official one has none")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and isn't an empty folder")
    if images is None and annotations.is_dir() and (annotations / split).is_dir():
        images = annotations / split
    if images is None and (output.samples or output.shared_images is not None):
        raise ValueError("samples and shared images need pictures: say where they are")
    run = _Run(params, output, split, skip_invalid, on_progress, should_stop, began=time.monotonic())
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        with plain_annotations(annotations, part, split) as file:
            report = _mine_and_write(run, file, Path(images) if images is not None else None, part, out)
        (part / REPORT).write_text(json.dumps(asdict(report), indent=2) + "\n")
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return report


def _mine_and_write(run: _Run, file: Path, images: Path | None, part: Path, out: Path) -> ScopReport:
    annotations = run.read(file)
    pairs, speed = run.mine(annotations)
    lines = _write_metadata(run, annotations, pairs, part / METADATA)
    used = np.unique(pairs.images).tolist()
    pictures = 0
    if images is not None and run.output.images != "none":
        source = PictureSource(images, run.split)
        try:
            pictures = _write_pictures(run, annotations, source, used, part, out)
        finally:
            source.close()
        _write_samples(run, annotations, pairs, part)
    run.spend("write")
    return ScopReport(
        images=len(annotations.image_ids),
        boxes=len(annotations.boxes),
        boxes_kept=pairs.boxes_kept,
        pairs=pairs.candidates,
        accepted=len(pairs.first),
        lines=lines,
        pictures=pictures,
        refused=pairs.refused,
        skipped=annotations.skipped,
        seconds=run.seconds,
        pairs_per_second=round(speed, 1),
        params=asdict(run.params),
    )


def picture_name(annotations: Annotations, image: int) -> str:
    """Name of a picture in the data set: its id with twelve digits, and the ending of its file."""
    ending = Path(annotations.file_names[image]).suffix.lower() or ".jpg"
    return f"images/{annotations.image_ids[image]:012d}{'.jpg' if ending == '.jpeg' else ending}"


def _write_metadata(run: _Run, annotations: Annotations, pairs: MinedPairs, target: Path) -> int:
    """One line per pair, with the whole annotations as they stand in the file; an empty result is empty."""
    strict = run.params.profile == "strict"
    weights = pair_weights(annotations, pairs) if strict else None
    count, lines = len(pairs.first), 0
    with target.open("w", encoding="utf-8") as out, annotations.file.open("rb") as stream:
        for index in range(count):
            rows = [int(pairs.first[index]), int(pairs.second[index])]
            names = [annotations.names[annotations.categories[row]] for row in rows]
            relations = scop_relations(*annotations.boxes[rows].tolist())
            record: dict[str, Any] = {
                "seq": int(pairs.sequence[index]),
                "file_name": picture_name(annotations, int(pairs.images[index])),
                "oros": triples(names[0], names[1], relations),
                "annots": annotations.read(rows, stream),
            }
            if weights is not None:
                record["weight"] = round(float(weights[index]), 6)
            out.write(json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n")
            lines += 1
            if run.output.mirror:
                record["oros"] = [(a, mirrored(relation), b) for a, relation, b in record["oros"]]
                out.write(
                    json.dumps(record | {"mirrored": True}, separators=(",", ":"), allow_nan=False) + "\n"
                )
                lines += 1
            if index % 1024 == 0:
                run.tell("write", 0.5 * index / count, boxes=len(annotations.boxes), accepted=index)
    return lines


def _write_pictures(
    run: _Run, annotations: Annotations, source: PictureSource, used: list[int], part: Path, out: Path
) -> int:
    """Link, copy or unpack each picture of a pair once."""
    (part / "images").mkdir()
    shared = run.output.shared_images
    if shared is not None:
        shared.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(used):
        found = source.find(annotations.file_names[image], int(annotations.image_ids[image]))
        name = picture_name(annotations, image)
        if shared is not None:
            kept = shared / Path(name).name
            if not kept.exists():
                _place(found, source, kept)
            _link(kept, part / name, out / name)
        elif isinstance(found, Path) and run.output.images == "link":
            _link(found, part / name, out / name)
        else:
            _place(found, source, part / name)
        if number % 64 == 0:
            run.tell("write", 0.5 + 0.5 * number / len(used), accepted=len(used))
    return len(used)


def _place(found: Path | zipfile.ZipInfo, source: PictureSource, target: Path) -> None:
    if isinstance(found, Path):
        shadow = target.with_name(target.name + ".part")
        shutil.copyfile(found, shadow)
        os.replace(shadow, target)
    else:
        assert source.archive is not None
        unpack(source.archive, found, target, MAX_PICTURE_BYTES)


def _link(found: Path, target: Path, final: Path) -> None:
    """A relative link that is right once the folder has its final name."""
    target.symlink_to(os.path.relpath(found.resolve(), final.parent.resolve()))


def _write_samples(run: _Run, annotations: Annotations, pairs: MinedPairs, part: Path) -> None:
    """Pictures with the two boxes drawn: the first in cyan, the second in magenta."""
    from PIL import Image, ImageDraw

    count = min(run.output.samples, len(pairs.first))
    if not count:
        return
    (part / "samples").mkdir()
    for number, index in enumerate(np.linspace(0, len(pairs.first) - 1, count).round().astype(int).tolist()):
        image = int(pairs.images[index])
        name = picture_name(annotations, image)
        with Image.open(part / name) as picture:
            drawn = picture.convert("RGB")
        pen = ImageDraw.Draw(drawn)
        rows = [int(pairs.first[index]), int(pairs.second[index])]
        for row, colour in zip(rows, (_CYAN, _MAGENTA), strict=True):
            x, y, w, h = annotations.boxes[row].tolist()
            pen.rectangle((x, y, x + w, y + h), outline=colour, width=3)
            pen.text((x + 4, y + 4), annotations.names[annotations.categories[row]], fill=colour)
        stem = Path(name).stem
        drawn.save(part / "samples" / f"{number:03d}_{stem}_{int(pairs.sequence[index])}.jpg", quality=90)


__all__ = [
    "AnnotationError",
    "ScopOutput",
    "ScopParams",
    "ScopProgress",
    "ScopReport",
    "ScopStopped",
    "run_scop",
]

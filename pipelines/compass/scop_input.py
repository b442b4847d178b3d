"""Annotations and pictures for SCOP: COCO files, folders and archives, checked and held in little memory."""

import os
import shutil
import zipfile
from array import array
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from pipelines.compass.json_stream import Element, JsonStreamError, decode_element, stream_lists
from pipelines.compass.scop_rules import box_problem

MAX_ANNOTATION_BYTES = 8 << 30
MAX_PICTURE_BYTES = 256 << 20
MAX_RATIO = 200  # uncompressed to compressed; JSON of boxes reaches about 10
RATIO_FROM = 1 << 20  # small members may compress as they like
_INT_LIMIT = 1 << 62
_SECTIONS = ("images", "annotations", "categories")


class AnnotationError(ValueError):
    """Annotations that can't be used; the message names the annotation, image or category."""


@dataclass(frozen=True)
class Annotations:
    """Boxes of a COCO file in columns, annotations grouped by image in the order of their first appearance.

    Attributes:
        boxes: `[N, 4]` float64 (left, top, width, height). categories: `[N]` indices into `names`.
        crowd: `[N]` bool. offsets, lengths: `[N]`, where each annotation's text lies in `file`.
        starts: `[M + 1]`, rows of image m are `starts[m] ... starts[m + 1] - 1`.
        image_ids: `[M]`; sizes: `[M, 2]` width and height; file_names: `[M]`.
        names: of the categories. file: a plain JSON file.
        skipped: ids of annotations that were left out because they can't be used.
    """

    boxes: NDArray[np.float64]
    categories: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    offsets: NDArray[np.int64]
    lengths: NDArray[np.int64]
    starts: NDArray[np.int64]
    image_ids: NDArray[np.int64]
    sizes: NDArray[np.float64]
    file_names: list[str]
    names: list[str]
    file: Path
    skipped: tuple[int, ...]

    def read(self, rows: list[int], stream: BinaryIO) -> list[dict[str, Any]]:
        """Whole annotations of some rows from the open file."""
        found = []
        for row in rows:
            stream.seek(int(self.offsets[row]))
            found.append(decode_element(stream.read(int(self.lengths[row]))))
        return found


class _Columns:
    """Collects what is needed of each annotation: 73 bytes."""

    def __init__(self) -> None:
        self.ids, self.images, self.categories = array("q"), array("q"), array("q")
        self.boxes, self.crowd = array("d"), array("b")
        self.offsets, self.lengths = array("q"), array("q")

    def add(self, value: dict[str, Any], element: Element) -> None:
        self.ids.append(value["id"])
        self.images.append(value["image_id"])
        self.categories.append(value["category_id"])
        self.boxes.extend(map(float, value["bbox"]))
        self.crowd.append(bool(value.get("iscrowd", 0)))
        self.offsets.append(element.offset)
        self.lengths.append(element.length)


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < _INT_LIMIT


def _is_side(value: Any) -> bool:
    return _is_id(value) and 0 < value < 1 << 20


def annotation_problem(value: Any) -> str | None:
    """Why an annotation can't be used, as the end of a sentence; None when it can."""
    if not isinstance(value, dict):
        return f"it is {value!r:.60}, not an object"
    for key in ("id", "image_id", "category_id"):
        if key not in value:
            return f"{key} is missing"
        if not _is_id(value[key]):
            return f"{key} is {value[key]!r:.60}; it must be a whole number"
    if "bbox" not in value:
        return "bbox is missing"
    return box_problem(value["bbox"])


def _named(element: Element) -> str:
    """ "annotation 17", or its place in the file where it has no usable id."""
    kind = {"annotations": "annotation", "images": "image", "categories": "category"}[element.section]
    value = element.value
    if isinstance(value, dict) and _is_id(value.get("id")):
        return f"{kind} {value['id']}"
    return f"{kind} number {element.index} (it has no usable id)"


class _Reader:
    """One pass over a COCO file."""

    def __init__(self, skip_invalid: bool) -> None:
        self.skip_invalid = skip_invalid
        self.columns = _Columns()
        self.images: dict[int, tuple[int, int, str]] = {}
        self.names: dict[int, str] = {}
        self.sections: set[str] = set()
        self.skipped: list[int] = []

    def take(self, element: Element, raw: Callable[[Element], Any]) -> None:
        if element.section == "annotations":
            self.annotation(element)
        elif element.section == "images":
            self.image(element, raw)
        elif element.section == "categories":
            self.category(element, raw)

    def annotation(self, element: Element) -> None:
        problem = annotation_problem(element.value)
        if problem is None and element.odd_number:
            problem = f"it holds {element.odd_number}, which is no number of JSON"
        if problem is None:
            self.columns.add(element.value, element)
        elif self.skip_invalid:
            value = element.value.get("id") if isinstance(element.value, dict) else None
            self.skipped.append(value if isinstance(value, int) else -1)
        else:
            raise AnnotationError(f"{_named(element)}: {problem}")

    def image(self, element: Element, raw: Callable[[Element], Any]) -> None:
        value = element.value
        if not isinstance(value, dict) or not _is_id(value.get("id")):
            raise AnnotationError(f"{_named(element)}: id is missing or no whole number")
        width, height = (value.get(key) for key in ("width", "height"))
        if not (_is_side(width) and _is_side(height)):
            raise AnnotationError(
                f"{_named(element)}: its size is {width!r} x {height!r}; both sides must be above 0"
            )
        name = raw(element).get("file_name", f"{value['id']:012d}.jpg")
        if not isinstance(name, str) or not name or "\0" in name:
            raise AnnotationError(f"{_named(element)}: file_name is {name!r:.60}; it must be a path")
        if value["id"] in self.images:
            raise AnnotationError(f"{_named(element)}: its id comes twice")
        self.images[value["id"]] = (value["width"], value["height"], name)

    def category(self, element: Element, raw: Callable[[Element], Any]) -> None:
        value = element.value
        if not isinstance(value, dict) or not _is_id(value.get("id")):
            raise AnnotationError(f"{_named(element)}: id is missing or no whole number")
        name = raw(element).get("name")
        if not isinstance(name, str) or not name.strip():
            raise AnnotationError(f"{_named(element)}: its name is missing")
        if value["id"] in self.names:
            raise AnnotationError(f"{_named(element)}: its id comes twice")
        self.names[value["id"]] = name

    def finish(self, file: Path) -> Annotations:
        """Resolve ids, refuse what doesn't fit together, group by image."""
        missing = [key for key in _SECTIONS if key not in self.sections]
        if missing:
            raise AnnotationError(f"{file.name} has no list of {missing[0]}")
        ids = np.array(self.columns.ids, np.int64)
        order = np.argsort(ids, kind="stable")
        twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
        if len(twice):
            raise AnnotationError(f"annotation {ids[order][twice[0]]}: its id comes twice")
        image_ids = np.array(self.columns.images, np.int64)
        images = self._known(image_ids, ids, self.images, "image")
        categories = self._known(np.array(self.columns.categories, np.int64), ids, self.names, "category")
        return self._grouped(file, images, categories)

    def _known(
        self, wanted: NDArray[np.int64], ids: NDArray[np.int64], table: dict[int, Any], what: str
    ) -> NDArray[np.int64]:
        """Rows of `table` for the ids that annotations refer to."""
        keys = np.array(list(table), np.int64)
        order = np.argsort(keys)
        if not len(keys):
            if len(ids):
                raise AnnotationError(f"annotation {ids[0]}: {what} {wanted[0]} is missing")
            return wanted
        at = np.minimum(np.searchsorted(keys[order], wanted), len(keys) - 1)
        rows = order[at]
        wrong = np.flatnonzero(keys[rows] != wanted)
        if len(wrong):
            raise AnnotationError(f"annotation {ids[wrong[0]]}: {what} {wanted[wrong[0]]} is missing")
        return rows

    def _grouped(self, file: Path, images: NDArray[np.int64], categories: NDArray[np.int64]) -> Annotations:
        used, first, inverse = np.unique(images, return_index=True, return_inverse=True)
        rank = np.empty(len(used), np.int64)
        rank[np.argsort(first)] = np.arange(len(used))
        group = rank[inverse]
        order = np.argsort(group, kind="stable")
        table = list(self.images.items())
        chosen = [table[row] for row in used[np.argsort(first)]]
        columns = self.columns
        return Annotations(
            boxes=np.array(columns.boxes, np.float64).reshape(-1, 4)[order],
            categories=categories[order],
            crowd=np.array(columns.crowd, bool)[order],
            offsets=np.array(columns.offsets, np.int64)[order],
            lengths=np.array(columns.lengths, np.int64)[order],
            starts=np.searchsorted(group[order], np.arange(len(used) + 1)),
            image_ids=np.array([key for key, _ in chosen], np.int64),
            sizes=np.array([value[:2] for _, value in chosen], np.float64).reshape(-1, 2),
            file_names=[value[2] for _, value in chosen],
            names=list(self.names.values()),
            file=file,
            skipped=tuple(self.skipped),
        )


def read_annotations(
    file: Path,
    skip_invalid: bool = False,
    on_bytes: Callable[[int], None] | None = None,
) -> Annotations:
    """Read a COCO instances file in one pass.

    Args:
        file: plain JSON with `images`, `annotations` and `categories`, in any order.
        skip_invalid: leave out annotations that can't be used instead of refusing the file (COCO's own
            training file holds two boxes without height).
        on_bytes: told now and then how far the reading is.
    Raises:
        AnnotationError: anything malformed, with the id it concerns.
        OSError: the file can't be read.
    """
    reader = _Reader(skip_invalid)
    with file.open("rb") as stream, file.open("rb") as again:

        def raw(element: Element) -> Any:
            again.seek(element.offset)
            return decode_element(again.read(element.length))

        try:
            for number, element in enumerate(stream_lists(stream, reader.sections)):
                reader.take(element, raw)
                if on_bytes is not None and number % 4096 == 0:
                    on_bytes(element.offset)
        except JsonStreamError as error:
            after = f", after {_named(error.last)}" if error.last and error.last.section in _SECTIONS else ""
            raise AnnotationError(f"{file.name}: {error}{after}") from None
    return reader.finish(file)


def check_member(info: zipfile.ZipInfo, limit: int) -> None:
    """Refuse an archive member that unpacks to too much.

    Raises:
        AnnotationError: encrypted, over `limit` bytes, or compressed over 200 to 1.
    """
    if info.flag_bits & 1:
        raise AnnotationError(f"{info.filename} is encrypted")
    if info.file_size > limit:
        raise AnnotationError(f"{info.filename} unpacks to {info.file_size} bytes; at most {limit} are read")
    if info.file_size > RATIO_FROM and info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise AnnotationError(
            f"{info.filename} unpacks to {info.file_size // max(info.compress_size, 1)} times its size; "
            f"at most {MAX_RATIO} times is read"
        )


@contextmanager
def plain_annotations(path: Path, scratch: Path, split: str = "train2017") -> Iterator[Path]:
    """The plain JSON file behind `path`.

    Args:
        path: a JSON file, a folder in COCO's layout (`annotations/instances_<split>.json`), or an archive
            with that file (or with one JSON file only), which is unpacked into `scratch` for the time being.
    Raises:
        AnnotationError: no such file, or an archive that unpacks to too much.
    """
    inner = f"annotations/instances_{split}.json"
    if path.is_dir():
        if not (path / inner).is_file():
            raise AnnotationError(f"{path} holds no {inner}")
        yield path / inner
    elif not path.is_file():
        raise AnnotationError(f"there is no annotation file {path}")
    elif zipfile.is_zipfile(path):
        target = scratch / "annotations.json"
        with zipfile.ZipFile(path) as archive:
            members = [info for info in archive.infolist() if info.filename.endswith(".json")]
            chosen = [info for info in members if info.filename == inner] or members
            if len(chosen) != 1:
                raise AnnotationError(f"{path.name} holds {len(members)} JSON files and no {inner}")
            unpack(archive, chosen[0], target, MAX_ANNOTATION_BYTES)
        try:
            yield target
        finally:
            target.unlink(missing_ok=True)
    else:
        yield path


def unpack(archive: zipfile.ZipFile, info: zipfile.ZipInfo, target: Path, limit: int) -> None:
    """Write one member to `target`, never more bytes than its header says.

    Raises:
        AnnotationError: too large, encrypted or damaged.
    """
    check_member(info, limit)
    part = target.with_name(target.name + ".part")
    try:
        with archive.open(info) as source, part.open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        part.unlink(missing_ok=True)
        raise AnnotationError(f"{info.filename} can't be unpacked: {error}") from None
    os.replace(part, target)


class PictureSource:
    """Pictures in a folder or an archive, found by the file names of the annotations.

    Args:
        path: folder or archive; names are looked up as they are and below `split`.
    Raises:
        AnnotationError: neither a folder nor an archive.
    """

    def __init__(self, path: Path, split: str = "train2017") -> None:
        self.path, self.split = path, split
        self.archive: zipfile.ZipFile | None = None
        if path.is_file() and zipfile.is_zipfile(path):
            self.archive = zipfile.ZipFile(path)
            self.members = {info.filename: info for info in self.archive.infolist()}
        elif not path.is_dir():
            raise AnnotationError(f"{path} is neither a folder of pictures nor a zip archive")

    def candidates(self, name: str, image_id: int) -> list[str]:
        plain = f"{image_id:012d}.jpg"
        return [name, f"{self.split}/{name}", plain, f"{self.split}/{plain}"]

    def find(self, name: str, image_id: int) -> Path | zipfile.ZipInfo:
        """Where a picture lies.

        Raises:
            AnnotationError: it is missing, or its name leads out of the folder.
        """
        if self.archive is not None:
            for candidate in self.candidates(name, image_id):
                if candidate in self.members:
                    check_member(self.members[candidate], MAX_PICTURE_BYTES)
                    return self.members[candidate]
        else:
            root = self.path.resolve()
            for candidate in self.candidates(name, image_id):
                found = self.path / candidate
                # the folder itself may hold links to elsewhere; a name must not climb out of it
                if not Path(os.path.normpath(root / candidate)).is_relative_to(root):
                    raise AnnotationError(
                        f"image {image_id}: its file name {name!r} leads out of {self.path}"
                    )
                if found.is_file():
                    return found
        raise AnnotationError(f"image {image_id}: {self.path} holds no {name}")

    def close(self) -> None:
        if self.archive is not None:
            self.archive.close()

"""Mining of pairs: all boxes of an image against each other, many images at a time."""

# Shape letters: N boxes, M images, P pairs.

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.compass.scop_crops import SCALES, crop_box
from pipelines.compass.scop_input import Annotations
from pipelines.compass.scop_rules import ScopParams, judge_pairs

_CHUNK_PAIRS = 1 << 18


@dataclass(frozen=True)
class MinedPairs:
    """Accepted pairs in the order of images and, within an image, of annotations.

    Attributes:
        images: `[P]` index of the image. first, second: `[P]` rows of the annotations.
        sequence: `[P]` number of the pair within its image, from 0.
        candidates: pairs that were judged. boxes_kept: boxes that were large enough.
        refused: how many candidates each constraint refused (a pair may fail several).
    """

    images: NDArray[np.int64]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    sequence: NDArray[np.int64]
    candidates: int
    boxes_kept: int
    refused: dict[str, int] = field(default_factory=dict)


def mine(
    annotations: Annotations, params: ScopParams, on_pairs: Callable[[int, int], None] | None = None
) -> MinedPairs:
    """Judge every unordered pair of boxes within each image.

    Args:
        on_pairs: told now and then how many pairs have been judged, and how many there are.
    """
    areas = annotations.boxes[:, 2] * annotations.boxes[:, 3]
    kept = areas >= params.min_bbox_area
    if params.profile == "strict":
        kept &= ~annotations.crowd
    rows = np.flatnonzero(kept)
    image_of = np.repeat(np.arange(len(annotations.image_ids)), np.diff(annotations.starts))[rows]
    begins = np.searchsorted(image_of, np.arange(len(annotations.image_ids) + 1))
    found: list[NDArray[np.int64]] = []
    refused: dict[str, int] = {}
    counts = np.diff(begins)
    candidates, total = 0, int((counts * (counts - 1) // 2).sum())
    for image, left, right in _candidate_pairs(rows, begins):
        first, second = annotations.boxes[left], annotations.boxes[right]
        different = annotations.categories[left] != annotations.categories[right]
        verdicts = judge_pairs(first, second, different, tuple(annotations.sizes[image].T), params)
        for name, passed in vars(verdicts).items():
            refused[name] = refused.get(name, 0) + int((~passed).sum())
        yes = verdicts.accepted
        found.append(np.stack([image[yes], left[yes], right[yes]]))
        candidates += len(yes)
        if on_pairs is not None:
            on_pairs(candidates, total)
    pairs = np.concatenate(found, 1) if found else np.empty((3, 0), np.int64)
    if params.profile == "strict":
        lonely = np.array([_stands_alone(annotations, params, *pair) for pair in pairs.T.tolist()], bool)
        refused["alone in the crop"] = int((~lonely).sum())
        pairs = pairs[:, lonely]
    pairs = pairs[:, np.lexsort((pairs[2], pairs[1], pairs[0]))]
    begin = np.searchsorted(pairs[0], pairs[0])
    sequence = np.arange(pairs.shape[1]) - begin
    return MinedPairs(pairs[0], pairs[1], pairs[2], sequence, candidates, len(rows), refused)


def _candidate_pairs(
    rows: NDArray[np.int64], begins: NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """(image, row of the first, row of the second) `[P]` each, in chunks.

    Images with the same number of boxes share one table of pairs, which makes the work one of arrays.
    """
    counts = np.diff(begins)
    for count in np.unique(counts[counts > 1]).tolist():
        chosen = np.flatnonzero(counts == count)
        for i, j in _index_pairs(count):
            images_at_once = max(1, _CHUNK_PAIRS // len(i))
            for start in range(0, len(chosen), images_at_once):
                images = chosen[start : start + images_at_once]
                left = rows[(begins[images][:, None] + i).ravel()]
                right = rows[(begins[images][:, None] + j).ravel()]
                yield np.repeat(images, len(i)), left, right


def _index_pairs(count: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All i < j below `count`, in chunks: one image may hold tens of thousands of boxes."""
    rows_at_once = max(1, _CHUNK_PAIRS // count)
    for start in range(0, count - 1, rows_at_once):
        first = np.arange(start, min(start + rows_at_once, count - 1))
        i, j = np.nonzero(np.arange(count) > first[:, None])
        yield first[i], j


def _stands_alone(annotations: Annotations, params: ScopParams, image: int, first: int, second: int) -> bool:
    """Whether both boxes lie in the square crop and no third one of their classes competes there."""
    size = tuple(annotations.sizes[image].tolist())
    pair = annotations.boxes[[first, second]]
    tight = crop_box(pair.tolist(), size, SCALES[0], "square")
    areas = pair[:, 2] * pair[:, 3]
    if (_inside(pair, tight) < params.containment * areas).any():
        return False
    wide = crop_box(pair.tolist(), size, SCALES[1], "square")
    others = np.arange(annotations.starts[image], annotations.starts[image + 1])
    same = np.isin(annotations.categories[others], annotations.categories[[first, second]])
    others = others[same & (others != first) & (others != second)]
    shown = _inside(annotations.boxes[others], wide)
    return bool((shown <= params.uniqueness * areas.min()).all())


def _inside(boxes: NDArray[np.float64], crop: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Area of each box within a crop (left, top, right, bottom)."""
    x, y, w, h = boxes.T
    across = np.minimum(x + w, crop[2]) - np.maximum(x, crop[0])
    down = np.minimum(y + h, crop[3]) - np.maximum(y, crop[1])
    return np.maximum(across, 0) * np.maximum(down, 0)


def pair_weights(annotations: Annotations, pairs: MinedPairs) -> NDArray[np.float64]:
    """Sampling weights `[P]` of mean 1 that even out the classes.

    COCO is full of people: a pair counts by the inverse square root of how often its two classes occur.
    """
    if not len(pairs.first):
        return np.empty(0)
    classes = annotations.categories[np.stack([pairs.first, pairs.second])]  # [2, P]
    often = np.bincount(classes.ravel(), minlength=len(annotations.names))
    weights = 1.0 / np.sqrt(often[classes[0]] * often[classes[1]])
    return weights / weights.mean()

"""Training samples from mined pairs: the crop around both objects and the caption of their relation.

The crop and the caption of the "official" kind are those of the authors' data sets, number by number. The
"square" crop never stretches: it moves the square into the picture before it makes it smaller.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from PIL import Image

CROPS = ("official", "square")
SCALES = (1.0, 1.1)  # the side is that of both boxes together, times a number drawn from here
CAPTION_DROPOUT = 0.1
SIDE_PX = 512
CAPTION_FORMS = ("compass", "visor", "geneval", "t2i")
_T2I = {
    "to the left of": "on the left of",
    "to the right of": "on the right of",
    "above": "on the top of",
    "below": "on the bottom of",
}


def crop_box(
    boxes: Sequence[Sequence[float]], size: tuple[int, int], scale: float = 1.0, crop: str = "official"
) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) in pixels around all boxes.

    Args:
        boxes: (left, top, width, height) each.
        size: (width, height) of the picture.
        scale: of the longer side of what the boxes cover.
        crop: "official" grows the shorter axis about its middle and clamps, so that crops at a border may not
            be square; "square" shifts a square of the same side into the picture.
    Raises:
        ValueError: an unknown kind of crop, or no box.
    """
    if crop not in CROPS:
        raise ValueError(f"crop is {crop!r}; it must be one of {CROPS}")
    if not boxes:
        raise ValueError("a crop needs at least one box")
    width, height = size
    left, top = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, bottom = max(box[0] + box[2] for box in boxes), max(box[1] + box[3] for box in boxes)
    across, down = (left + right) / 2, (top + bottom) / 2
    side = min(max(right - left, bottom - top) * scale, min(width, height))
    if crop == "square":
        left, top = min(max(across - side / 2, 0), width - side), min(max(down - side / 2, 0), height - side)
        return (left, top, left + side, top + side)
    left, right = max(0, across - side / 2), min(width, across + side / 2)
    top, bottom = max(0, down - side / 2), min(height, down + side / 2)
    grow = abs((right - left) - (bottom - top)) / 2
    if right - left < bottom - top:
        left, right = left - grow, right + grow
    elif bottom - top < right - left:
        top, bottom = top - grow, bottom + grow
    return (max(0, left), max(0, top), min(width, right), min(height, bottom))


def rounded(box: Sequence[float]) -> tuple[int, int, int, int]:
    """A crop in whole pixels, halves to even, as PIL rounds it."""
    left, top, right, bottom = (round(value) for value in box)
    return (left, top, right, bottom)


def cut(picture: Image.Image, box: Sequence[float], side: int = SIDE_PX) -> Image.Image:
    """The crop as a square of `side` pixels; a crop that isn't square is stretched."""
    return picture.crop(rounded(box)).resize((side, side), Image.Resampling.LANCZOS)


def with_article(noun: str) -> str:
    """ "a cat", "an elephant": the rule by the first letter is right for all of COCO's names."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def caption(triple: Sequence[str], form: str = "compass") -> str:
    """One sentence for (subject, relation, object).

    Args:
        form: "compass" and "geneval": "a photo of a cat left of a dog"; "visor": "a cat to the left of a
            dog"; "t2i": "a cat on the left of a dog".
    Raises:
        ValueError: an unknown form.
    """
    if form not in CAPTION_FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {CAPTION_FORMS}")
    subject, relation, other = triple
    if form == "visor":
        return f"{with_article(subject)} {relation} {with_article(other)}"
    if form == "t2i":
        relation = " and ".join(_T2I.get(part, part) for part in relation.split(" and "))
        return f"{with_article(subject)} {relation} {with_article(other)}"
    text = f"{with_article(subject)} {relation} {with_article(other)}"
    return "a photo of " + text.replace(" to the", "")


@dataclass(frozen=True)
class Sample:
    """What one training sample shows: crop in pixels of the picture, caption, triple it came from.

    `caption` is empty when it was dropped out; `is_mirrored`: flip the crop left to right.
    """

    box: tuple[float, float, float, float]
    caption: str
    triple: tuple[str, str, str]
    is_mirrored: bool


def draw_sample(record: dict, size: tuple[int, int], rng: Random, crop: str = "official") -> Sample:
    """Draw crop, triple and caption for one line of `metadata.jsonl`.

    Args:
        record: the line, read as JSON.
        size: (width, height) of its picture.
    """
    boxes = [annotation["bbox"] for annotation in record["annots"]]
    box = crop_box(boxes, size, rng.uniform(*SCALES), crop)
    subject, relation, other = rng.choice(record["oros"])
    triple = (subject, relation, other)
    text = "" if rng.random() < CAPTION_DROPOUT else caption(triple)
    return Sample(box, text, triple, bool(record.get("mirrored", False)))

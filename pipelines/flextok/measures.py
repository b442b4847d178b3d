"""What tokens cost and what they keep: error curves, the same bytes as JPEG and WebP, budgets."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

STOPS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
TOKEN_BYTES = 2
CODECS = ("JPEG", "WEBP")
_QUALITIES = (95, 85, 70, 50, 30, 15, 5, 1)


def stops_up_to(count: int) -> tuple[int, ...]:
    """1, 2, 4, ... below `count`, and `count` itself."""
    return (*(stop for stop in STOPS if stop < count), count)


def psnr(first: Image.Image, second: Image.Image) -> float:
    """Peak signal-to-noise ratio of two pictures of one size in dB; infinite for equal ones."""
    error = float(np.mean(np.square(_difference(first, second))))
    return 10 * math.log10(255.0**2 / error) if error else math.inf


def mean_error(first: Image.Image, second: Image.Image) -> float:
    """Mean absolute difference, as a share of the full range (0 to 1)."""
    return float(np.mean(np.abs(_difference(first, second)))) / 255.0


def _difference(first: Image.Image, second: Image.Image) -> np.ndarray:
    if first.size != second.size:
        raise ValueError(f"pictures of {first.size} and {second.size} pixels can't be compared")
    return np.asarray(first.convert("RGB"), np.float64) - np.asarray(second.convert("RGB"), np.float64)


@dataclass(frozen=True)
class RatePoint:
    """One point of a rate-distortion curve.

    Attributes:
        count: tokens. size_bytes: of the ids alone. bits_per_pixel: of the compared picture.
        psnr: dB. error: mean absolute error, 0 to 1.
    """

    count: int
    size_bytes: int
    bits_per_pixel: float
    psnr: float
    error: float


def rate_point(count: int, decoded: Image.Image, reference: Image.Image) -> RatePoint:
    """Compare what `count` tokens gave with the picture they stand for."""
    size = TOKEN_BYTES * count
    bits = 8 * size / (reference.width * reference.height)
    return RatePoint(count, size, bits, psnr(decoded, reference), mean_error(decoded, reference))


def encode_within(picture: Image.Image, limit: int, form: str) -> tuple[Image.Image, int] | None:
    """The best "JPEG" or "WEBP" of at most `limit` bytes, decoded, and its bytes; None: none is that small.

    Qualities and sizes (full, then halved again and again) are tried; smaller ones are enlarged back.
    """
    best: tuple[float, Image.Image, int] | None = None
    for shrink in (1, 2, 4, 8, 16):
        size = (max(1, picture.width // shrink), max(1, picture.height // shrink))
        small = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        for quality in _QUALITIES:
            buffer = io.BytesIO()
            small.save(buffer, form, quality=quality, optimize=True)
            if buffer.tell() > limit:
                continue
            seen = Image.open(buffer).convert("RGB").resize(picture.size, Image.Resampling.BICUBIC)
            score = psnr(seen, picture)
            if best is None or score > best[0]:
                best = (score, seen, buffer.tell())
            break  # lower qualities of this size are worse
    return None if best is None else best[1:]


def smallest_count(
    decode: Callable[[int], Image.Image], reference: Image.Image, target_db: float, stops: Sequence[int]
) -> RatePoint | None:
    """The fewest tokens among `stops` that reach `target_db`, by bisection; None: not even all of them do.

    Args:
        decode: gives the picture of so many tokens; it is asked about log2(len(stops)) times.
    """
    ordered = sorted(stops)
    low, high, found = 0, len(ordered) - 1, None
    while low <= high:
        middle = (low + high) // 2
        point = rate_point(ordered[middle], decode(ordered[middle]), reference)
        if point.psnr >= target_db:
            found, high = point, middle - 1
        else:
            low = middle + 1
    return found


def plan_for_time(
    seconds: float,
    step_seconds: Callable[[int], float],
    stops: Sequence[int],
    steps: tuple[int, int] = (4, 25),
) -> tuple[int, int]:
    """(tokens, steps) that decode within a time: most tokens for which the least steps fit, then more steps.

    Args:
        seconds: the time. step_seconds: measured time of one step with so many tokens.
        steps: fewest and most steps.
    Raises:
        ValueError: not even the smallest of `stops` fits; says how long that takes.
    """
    least, most = steps
    for count in sorted(stops, reverse=True):
        cost = step_seconds(count)
        if cost * least <= seconds:
            return count, min(most, int(seconds / cost))
    needed = step_seconds(min(stops)) * least
    raise ValueError(f"{seconds:g} s are too short: {min(stops)} tokens in {least} steps take {needed:.2g} s")

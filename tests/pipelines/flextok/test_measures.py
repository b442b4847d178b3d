"""Errors, codecs within a budget of bytes, budgets of tokens and of time."""

import numpy as np
import pytest
from PIL import Image

from pipelines.flextok.measures import (
    encode_within,
    mean_error,
    plan_for_time,
    psnr,
    rate_point,
    smallest_count,
    stops_up_to,
)

GREY = Image.new("RGB", (32, 32), (100, 100, 100))
LIGHTER = Image.new("RGB", (32, 32), (110, 110, 110))


def test_errors_by_hand():
    assert psnr(GREY, LIGHTER) == pytest.approx(20 * np.log10(25.5))
    assert mean_error(GREY, LIGHTER) == pytest.approx(10 / 255)
    assert psnr(GREY, GREY) == float("inf")
    with pytest.raises(ValueError, match="can't be compared"):
        psnr(GREY, GREY.resize((16, 16)))


def test_a_rate_point():
    point = rate_point(16, LIGHTER, GREY)
    assert (point.count, point.size_bytes, point.bits_per_pixel) == (16, 32, 256 / 1024)


def test_stops():
    assert stops_up_to(256) == (1, 2, 4, 8, 16, 32, 64, 128, 256)
    assert stops_up_to(100) == (1, 2, 4, 8, 16, 32, 64, 100)
    assert stops_up_to(1) == (1,)


def test_codecs_keep_to_their_bytes():
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8)).resize((128, 128))
    assert encode_within(picture, 10, "JPEG") is None
    scores = []
    for limit in (400, 1500, 6000):
        seen, size = encode_within(picture, limit, "WEBP")
        assert size <= limit and seen.size == picture.size
        scores.append(psnr(seen, picture))
    assert scores[0] < scores[1] < scores[2]


def test_the_smallest_count_is_found_in_few_looks():
    asked = []

    def decode(count):
        asked.append(count)
        level = min(100 + 2 * count, 255)
        return Image.new("RGB", (32, 32), (level,) * 3)

    reference = Image.new("RGB", (32, 32), (255,) * 3)
    stops = stops_up_to(64)
    target = psnr(decode(16), reference)
    asked.clear()
    assert smallest_count(decode, reference, target, stops).count == 16
    assert len(asked) <= 3
    assert smallest_count(decode, reference, target + 1e-6, stops).count == 32
    assert smallest_count(decode, reference, 1e9, stops) is None


def test_time_is_spent_on_tokens_first():
    def cost(count):
        return 0.1 + 0.01 * count

    stops = (1, 10, 100)
    assert plan_for_time(100, cost, stops) == (100, 25)
    assert plan_for_time(5, cost, stops) == (100, 4)
    assert plan_for_time(2, cost, stops) == (10, 10)
    assert plan_for_time(0.45, cost, stops) == (1, 4)
    with pytest.raises(ValueError, match="too short"):
        plan_for_time(0.1, cost, stops)

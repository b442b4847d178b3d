"""The small pictures of earlier stages that are kept beside a finished one."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from studio.crafts.guides import GuideKeeper
from studio.crafts.reports import Report
from studio.errors import StudioError


def preview(level: int) -> Image.Image:
    return Image.new("RGB", (64, 64), (level, level, level))


def paint(keeper: GuideKeeper) -> None:
    """Three stages: the first with two previews, the second without, the third with one."""
    keeper(Report("encode", preview=None))
    keeper(Report("paint", 1, 3, 1, 2, preview=preview(10)))
    keeper(Report("paint", 1, 3, 2, 2, preview=preview(90)))
    keeper(Report("paint", 2, 3, 1, 1))
    keeper(Report("paint", 3, 3, 1, 1, preview=preview(200)))
    keeper(Report("decode", 3, 3, 1, 1))


def test_the_last_preview_of_each_earlier_stage_is_kept():
    kept: dict[str, bytes] = {}
    told: list[str] = []
    paint(GuideKeeper(lambda news: told.append(news.phase), kept.__setitem__))
    assert told == ["encode", "paint", "paint", "paint", "paint", "decode"]
    assert list(kept) == ["stage-1.webp"]
    with Image.open(io.BytesIO(kept["stage-1.webp"])) as picture:
        assert abs(picture.convert("L").getpixel((32, 32)) - 90) <= 3


def test_a_disk_that_is_full_does_not_stop_painting():
    def refuse(name: str, data: bytes) -> None:
        raise StudioError("disk_full", "The disk is full.")

    told: list[str] = []
    paint(GuideKeeper(lambda news: told.append(news.phase), refuse))
    assert len(told) == 6


def test_a_fault_of_ours_is_not_hidden():
    def fail(name: str, data: bytes) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        paint(GuideKeeper(lambda news: None, fail))

"""Progress never runs backwards, and the time left moves from forecast to measured."""

import time

import pytest
from PIL import Image

from studio.jobs.progress import Progress, time_left
from tests.studio.painters import Report


def report(fraction: float, preview: Image.Image | None = None) -> Report:
    return Report("paint", 1, 2, 3, 8, fraction, 256, 256, preview)


def test_time_left_goes_from_forecast_to_measured() -> None:
    assert time_left(0.0, 5.0, 100.0) == 100.0
    assert time_left(0.5, 5.0, 100.0) == 5.0, "measured alone from a quarter on"
    assert time_left(0.125, 5.0, 100.0) == pytest.approx((35.0 + 87.5) / 2)
    assert time_left(1.0, 5.0, 100.0) == 0.0


def test_fraction_never_runs_backwards_and_stays_in_range() -> None:
    progress = Progress(10.0)
    seen = []
    for fraction in (0.2, 0.1, 0.5, 7.0):
        progress.report(report(fraction))
        seen.append(progress.read().fraction)
    assert seen == [0.2, 0.2, 0.5, 1.0]


def test_time_left_runs_down_between_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(10.0)
    progress.enter("load")
    now += 3
    assert progress.read().eta_s == 10.0, "loading is no part of the forecast"
    progress.report(report(0.0))
    now += 4
    assert progress.read().eta_s == pytest.approx(6.0)
    now += 60
    assert progress.read().eta_s == 0.0


def test_previews_are_small_and_at_most_every_third_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    progress = Progress(1.0)
    numbers = []
    for _ in range(10):
        progress.report(report(0.5, Image.new("RGB", (1024, 512), "red")))
        numbers.append(progress.read().preview_number)
        now += 0.1
    assert numbers[0] == 1 and 3 <= numbers[-1] <= 4
    preview = progress.read().preview
    assert preview is not None and len(preview) < 20_000
    progress.enter("save")
    assert progress.read().preview == preview and progress.read().phase == "save"


def test_a_preview_that_cannot_be_shown_is_left_out() -> None:
    progress = Progress(1.0)
    progress.report(report(0.5, Image.new("RGB", (0, 0))))
    assert progress.read().preview is None and progress.read().fraction == 0.5

"""Painting until a picture shows what its prompt says."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest
from PIL import Image

from studio.doors.doors import Doors
from studio.errors import StudioError
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.studio import Studio
from studio.visit import Visit
from tests.studio.conftest import finished, wait_for
from tests.studio.painters import DrawingPainter, FixedLooker, SeedJudge, WordScorer, make_weights

REQUEST = ImageRequest("a red ball to the left of a blue ball", 256, 128, seed=5, verify=4)


@pytest.fixture
def painter() -> DrawingPainter:
    return DrawingPainter(stages=2)


@pytest.fixture
def judge(painter: DrawingPainter) -> SeedJudge:
    return SeedJudge(painter)


@pytest.fixture
def studio(settings: Settings, painter: DrawingPainter, judge: SeedJudge) -> Iterator[Studio]:
    weights = make_weights(settings.data_dir / "w", ("storybook-flux", "storybook-eyes"))
    doors = Doors(looker=FixedLooker(), judge=judge, scorer=WordScorer())
    with Studio(replace(settings, weights_dir=weights), painter, doors) as opened:
        yield opened


def test_it_stops_at_the_first_that_is_right_and_paints_that_one_large(
    studio: Studio, painter: DrawingPainter, judge: SeedJudge
) -> None:
    judge.good = {7}
    job = finished(studio, studio.submit(REQUEST))
    assert job.state == "done"
    assert [seed for _, seed in painter.painted] == [5, 6, 7, 7], "three small ones, then the large one"
    found = job.result
    assert [attempt["seed"] for attempt in found["attempts"]] == [5, 6, 7]
    assert (found["best"], found["accepted"], found["judgement"]["passed"]) == (2, 1, True)
    picture = studio.gallery.get(job.id)
    assert (picture.recipe.request.seed, picture.recipe.request.verify, picture.width) == (7, 0, 256)
    assert "verify" in picture.recipe.seconds and picture.recipe.warnings == ()
    for number in (1, 2, 3):
        with Image.open(studio.results.path(job.id, f"attempt-{number}.webp")) as attempt:
            assert attempt.size == (128, 64)


def test_when_none_is_right_the_best_is_shown_and_said_to_be_wrong(studio: Studio) -> None:
    job = finished(studio, studio.submit(replace(REQUEST, verify=2)))
    assert len(job.result["attempts"]) == 2 and job.result["accepted"] == 0
    sentence = "None of 2 pictures shows everything that the prompt says; this is the best one."
    assert job.warnings == studio.gallery.get(job.id).recipe.warnings == (sentence,)


def test_a_picture_of_one_stage_is_not_painted_twice(
    studio: Studio, painter: DrawingPainter, judge: SeedJudge
) -> None:
    painter.stages, judge.good = 1, {6}
    job = finished(studio, studio.submit(REQUEST))
    assert [seed for _, seed in painter.painted] == [5, 6]
    with Image.open(studio.gallery.get(job.id).path) as picture:
        assert picture.size == (256, 128)


def test_the_forecast_counts_the_tries(studio: Studio) -> None:
    plain = studio.pictures.check(replace(REQUEST, verify=0)).forecast.seconds
    assert studio.pictures.check(REQUEST).forecast.seconds == pytest.approx(plain * 5)


def test_progress_goes_on_through_all_tries_and_shows_them(studio: Studio, painter: DrawingPainter) -> None:
    painter.gates["decode"] = threading.Event()
    name = studio.submit(REQUEST)
    seen = wait_for(studio, name, lambda job: job.phase == "verify" and job.step == 1 and job.fraction > 0.1)
    assert (seen.steps, seen.request.verify) == (4, 4) and seen.fraction < 0.3
    painter.gates["decode"].set()
    assert len(finished(studio, name).result["attempts"]) == 4


def test_cancelling_keeps_the_tries_that_were_judged(studio: Studio, painter: DrawingPainter) -> None:
    paint, calls = painter.paint, []

    def paint_and_wait(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            painter.gates["paint"] = threading.Event()
        return paint(*arguments, **keywords)

    painter.paint = paint_and_wait  # type: ignore[method-assign]
    name = studio.submit(REQUEST)
    wait_for(studio, name, lambda job: len(job.result.get("attempts", ())) == 1)
    studio.cancel(name)
    ended = finished(studio, name)
    assert ended.state == "cancelled" and len(ended.result["attempts"]) == 1
    assert studio.gallery.count() == 0


def test_what_can_not_be_verified_is_refused(studio: Studio, judge: SeedJudge) -> None:
    judge.refusal = "no picture can show this."
    with pytest.raises(StudioError, match="verify: no picture can show this"):
        studio.submit(REQUEST)
    for budget in (-1, 17, True, 1.0):
        with pytest.raises(StudioError, match="verify: given"):
            replace(REQUEST, verify=budget)  # type: ignore[arg-type]


def test_without_eyes_there_is_nothing_to_verify(settings: Settings, painter: DrawingPainter) -> None:
    with Studio(settings, painter) as blind:
        with pytest.raises(StudioError, match="verify: no eyes are installed"):
            blind.submit(REQUEST)
        name = blind.submit(replace(REQUEST, verify=0))
        finished(blind, name)
        assert Visit(blind).judgement(name) == {}
        nothing = {"sentences": [], "shown": 0, "missing": 0, "open": 0}
        assert Visit(blind).sentences(name) == nothing


def test_each_sentence_has_its_verdict(studio: Studio) -> None:
    name = studio.submit(replace(REQUEST, prompt="a cat. a house. a star.", verify=0))
    finished(studio, name)
    found = Visit(studio).sentences(name)
    assert (found["shown"], found["missing"], found["open"]) == (1, 1, 1)
    assert found["sentences"][1] == {
        "text": "a house", "start": 7, "end": 14, "shown": False, "reason": "not found: house",
    }  # fmt: skip
    with pytest.raises(StudioError, match="no such picture"):
        Visit(studio).sentences("nothing")


def test_files_of_a_job_are_the_visitors_own_and_go_with_it(studio: Studio, settings: Settings) -> None:
    visit = Visit(studio)
    name = visit.submit(replace(REQUEST, verify=1))
    finished(studio, name)
    data = visit.job_file(name, "attempt-1.webp").read_bytes()
    assert Image.open(io.BytesIO(data)).format == "WEBP"
    for wrong in ("attempt-2.webp", "../../jobs.sqlite3", "..", "x.html", "attempt-1.webp/..", "\u0000.webp"):
        with pytest.raises(StudioError, match="no such file"):
            visit.job_file(name, wrong)
    visit.forget(name)
    assert not (settings.data_dir / "results" / name).exists()

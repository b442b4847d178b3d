"""The facade as page, API and shell use it."""

import threading

import pytest
from PIL import Image

from studio.errors import StudioError
from studio.recipes import pixel_hash, read_recipe
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.studio import Studio
from tests.studio.conftest import finished, wait_for
from tests.studio.painters import DrawingPainter


def test_request_becomes_a_picture_with_its_recipe(studio: Studio) -> None:
    request = ImageRequest("a red ball in a meadow", 128, 64, seed=7, steps=3)
    job_id = studio.submit(request)
    done = finished(studio, job_id)
    assert (done.state, done.fraction, done.image_id, done.error) == ("done", 1.0, job_id, "")
    picture = studio.gallery.get(job_id)
    with Image.open(picture.path) as image:
        assert image.size == (128, 64)
        assert picture.recipe.pixels_sha256 == pixel_hash(image)
    recipe = read_recipe(picture.path)
    assert recipe == picture.recipe
    assert recipe.request == ImageRequest("a red ball in a meadow", 128, 64, 7, 3, "storybook-flux")
    assert recipe.steps == 3 and recipe.backend == "drawing" and "load" in recipe.seconds


def test_style_words_are_painted_and_the_written_prompt_is_kept(
    settings: Settings, painter: DrawingPainter
) -> None:
    with Studio(settings, painter) as studio:
        job_id = studio.submit(ImageRequest("a red ball", 64, 64, style="night"))
        assert finished(studio, job_id).prompt == "a red ball under a night sky"
        assert painter.painted == [("a red ball under a night sky", 0)]
        assert studio.gallery.get(job_id).prompt == "a red ball"
        with pytest.raises(StudioError, match=r"style: given 'Baroque', allowed Meadow, Beach"):
            studio.submit(ImageRequest("a red ball", 64, 64, style="Baroque"))


def test_unknown_words_are_named(studio: Studio) -> None:
    job_id = studio.submit(ImageRequest("a red astronaut in a meadow", 64, 64))
    done = finished(studio, job_id)
    assert done.unknown_words == ("astronaut",)
    assert done.warnings == ("Not in Storybook's world: astronaut; it knows: ball, cat; red, blue; a meadow",)
    assert studio.gallery.get(job_id).recipe.unknown_words == ("astronaut",)


def test_progress_preview_and_time_left_while_painting(settings: Settings) -> None:
    painter = DrawingPainter(gates={"decode": threading.Event()}, forecast_s=10)
    with Studio(settings, painter) as studio:
        job_id = studio.submit(ImageRequest("a red ball", 256, 64, steps=5))
        seen = wait_for(studio, job_id, lambda job: job.phase == "paint" and job.step == 5)
        assert (seen.state, seen.stage, seen.stages, seen.steps) == ("running", 1, 1, 5)
        assert (seen.width, seen.height, seen.position) == (256, 64, 0)
        assert seen.fraction == pytest.approx(0.9) and seen.eta_s is not None and seen.eta_s < 1.0
        assert seen.preview is not None and seen.preview.startswith(b"\xff\xd8") and seen.preview_number == 1
        painter.gates["decode"].set()
        assert finished(studio, job_id).state == "done"


def test_refused_requests_leave_no_job(settings: Settings) -> None:
    painter = DrawingPainter(fits=False, memory_bytes=99 * 10**9)
    with Studio(settings, painter) as studio:
        for request, message in (
            (ImageRequest("a cat", 64, 64), "size: 64x64 needs about 99.0 GB"),
            (ImageRequest("a cat", 1024, 64), "size: sides differ by more than a factor of 8."),
            (
                ImageRequest("a cat", 16384, 2048),
                "width: given 16384, allowed multiples of 16 from 64 to 8192.",
            ),
            (
                ImageRequest("a cat", 64, 64, model="dall-e"),
                "model: given 'dall-e', allowed storybook, storybook-flux.",
            ),
        ):
            with pytest.raises(StudioError) as refused:
                studio.submit(request)
            assert refused.value.message.startswith(message) and refused.value.exit_code == 2
        assert studio.jobs() == []


def test_forecast_learns_the_pace_of_this_machine(settings: Settings) -> None:
    painter = DrawingPainter(forecast_s=0.001, step_s=0.02)
    with Studio(settings, painter) as studio:
        before = studio.forecast(64, 64)
        assert before.sentence == "about 1 s, 1.1 GB, fits" and before.stages == ((64, 64),)
        finished(studio, studio.submit(ImageRequest("a cat", 64, 64)))
        # about 0.12 s were painted for a forecast of 0.001 s; the correction stops at 20
        assert studio.forecast(64, 64).seconds == pytest.approx(0.02)
        assert studio.forecast(1024, 1024).seconds == pytest.approx(0.001), "other sizes keep their forecast"


def test_unknown_identifiers_are_not_found(studio: Studio) -> None:
    for job_id in ("01ARZ3NDEKTSV4RRFFQ69G5FAV", "../../etc/passwd", "", "' OR 1=1 --"):
        for ask in (studio.watch, studio.cancel, studio.retry, studio.gallery.get, studio.gallery.delete):
            with pytest.raises(StudioError) as refused:
                ask(job_id)
            assert refused.value.kind == "not_found"


def test_painter_failure_is_one_sentence_and_the_next_job_works(settings: Settings) -> None:
    painter = DrawingPainter(fail=RuntimeError("secret path /srv/weights is broken"))
    with Studio(settings, painter) as studio:
        failed = finished(studio, studio.submit(ImageRequest("a cat", 64, 64)))
        assert failed.state == "failed" and failed.error_kind == "internal" and failed.can_retry
        assert "incident" in failed.error and "secret" not in failed.error
        painter.fail = None
        assert finished(studio, studio.retry(failed.id)).state == "done"


def test_out_of_memory_names_the_size(settings: Settings) -> None:
    class OutOfMemoryError(RuntimeError):
        """Named like the one of torch."""

    for failure in (MemoryError(), OutOfMemoryError("tried to allocate")):
        with Studio(settings, DrawingPainter(fail=failure)) as studio:
            failed = finished(studio, studio.submit(ImageRequest("a cat", 128, 64)))
            assert failed.error == "The memory ran out while painting 128x64."
            assert failed.hint == "Choose a smaller size."


def test_what_it_took_is_in_snapshot_recipe_and_file(studio: Studio) -> None:
    job_id = studio.submit(ImageRequest("a red ball", 64, 64))
    done = finished(studio, job_id)
    picture = studio.gallery.get(job_id)
    assert done.peak_bytes == picture.recipe.peak_bytes == read_recipe(picture.path).peak_bytes == 1 << 20
    assert (done.kind, done.request.model) == ("picture", "storybook-flux"), "the name that the alias means"


@pytest.mark.parametrize("size", [(10**30, 10**30), (16_384, 16_384), (True, 64), (64, 2.0)])
def test_a_forecast_checks_before_it_counts(studio: Studio, size: tuple[int, int]) -> None:
    with pytest.raises(StudioError) as refused:
        studio.forecast(*size)
    assert refused.value.kind == "bad_input"

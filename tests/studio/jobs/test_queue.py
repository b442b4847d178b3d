"""The queue: order, limits, one at a time, cancelling in every phase, retrying."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from studio.errors import StudioError
from studio.gallery import gallery as gallery_module
from studio.gallery.encoding import write_picture
from studio.jobs.snapshot import JobSnapshot
from studio.recipes import pixel_hash
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.studio import Studio
from tests.studio.conftest import finished, wait_for
from tests.studio.painters import DrawingPainter, draw


def request(seed: int = 0) -> ImageRequest:
    return ImageRequest("a red ball", 64, 64, seed)


def gated(phase: str = "paint") -> DrawingPainter:
    return DrawingPainter(gates={phase: threading.Event()}, forecast_s=10)


def files_in(settings: Settings) -> list[str]:
    return sorted(path.name for path in settings.gallery_dir.rglob("*") if path.is_file())


def test_fifty_at_once_are_painted_one_after_the_other_without_mixing(settings: Settings) -> None:
    painter = DrawingPainter(step_s=0.001)
    with Studio(settings, painter) as studio:
        with ThreadPoolExecutor(16) as pool:
            jobs = list(pool.map(lambda seed: studio.submit(request(seed)), range(50)))
        ends = [finished(studio, job_id, timeout_s=30) for job_id in jobs]
        assert [job.state for job in ends] == ["done"] * 50
        assert painter.most_on_device == 1 and len(painter.painted) == 50
        assert painter.loads == ["storybook-flux"], "loaded once"
        model = (settings.weights_dir / "storybook-flux" / "unet.safetensors").read_bytes()
        for seed, job_id in enumerate(jobs):
            picture = studio.gallery.get(job_id)
            with Image.open(picture.path) as image:
                assert pixel_hash(image) == pixel_hash(draw("a red ball", 64, 64, seed, 4, model))
        assert studio.gallery.count() == 50 and len(studio.jobs(500)) == 50


def test_positions_and_waiting_times(settings: Settings) -> None:
    painter = gated()
    with Studio(settings, painter) as studio:
        jobs = [studio.submit(request(seed)) for seed in range(4)]
        wait_for(studio, jobs[0], lambda job: job.state == "running" and job.phase == "encode")
        assert [studio.watch(job_id).position for job_id in jobs] == [0, 1, 2, 3]
        waits = [studio.watch(job_id).eta_s or 0.0 for job_id in jobs]
        assert waits[3] - waits[2] == pytest.approx(10, abs=1) and waits[1] == pytest.approx(17.6, abs=0.5)
        assert [job.id for job in studio.jobs()] == jobs[::-1]
        assert studio.cancel(jobs[1])
        assert [studio.watch(job_id).position for job_id in jobs[2:]] == [1, 2]
        painter.gates["paint"].set()
        assert [finished(studio, job_id).state for job_id in jobs] == ["done", "cancelled", "done", "done"]


def test_a_full_queue_says_when_to_come_back(settings: Settings) -> None:
    painter = gated()
    with Studio(replace(settings, max_queue=2), painter) as studio:
        running = studio.submit(request())
        wait_for(studio, running, lambda job: job.state == "running")
        waiting = [studio.submit(request(seed)) for seed in (1, 2)]
        with pytest.raises(StudioError) as refused:
            studio.submit(request(3))
        assert str(refused.value) == "The queue is full (2 jobs wait). Try again in about 10 s."
        assert refused.value.http_status == 429 and len(studio.jobs()) == 3
        studio.cancel(waiting[0])
        studio.submit(request(3))
        painter.gates["paint"].set()


@pytest.mark.parametrize("phase", ["encode", "paint", "decode"])
def test_cancel_while_painting(phase: str, settings: Settings) -> None:
    painter = gated(phase)
    with Studio(settings, painter) as studio:
        job_id, next_id = studio.submit(request()), studio.submit(request(1))
        assert painter.reached[phase].wait(5)
        assert studio.cancel(job_id) is True
        ended = finished(studio, job_id)
        assert (ended.state, ended.image_id, ended.can_retry, ended.error) == ("cancelled", None, True, "")
        assert studio.cancel(job_id) is False, "a second cancel changes nothing"
        painter.gates[phase].set()
        assert finished(studio, next_id).state == "done"
        assert files_in(settings) == [f"{next_id}-a-red-ball.png", f"{next_id}.webp"]
        assert finished(studio, studio.retry(job_id)).state == "done"


def test_cancel_while_queued(settings: Settings) -> None:
    painter = gated()
    with Studio(settings, painter) as studio:
        studio.submit(request())
        job_id = studio.submit(request(1))
        assert studio.cancel(job_id) is True
        assert studio.watch(job_id).state == "cancelled"
        painter.gates["paint"].set()
    assert ("a red ball", 1) not in painter.painted


def test_cancel_while_loading(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    painter, loading, go_on = DrawingPainter(), threading.Event(), threading.Event()

    def load_slowly(folder: Path) -> bytes:
        loading.set()
        assert go_on.wait(5)
        return b""

    monkeypatch.setattr(painter, "load_model", load_slowly)
    with Studio(settings, painter) as studio:
        job_id = studio.submit(request())
        assert loading.wait(5) and studio.watch(job_id).phase == "load"
        studio.cancel(job_id)
        go_on.set()
        assert finished(studio, job_id).state == "cancelled"
    assert painter.painted == []


def test_cancel_while_saving(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    saving, go_on = threading.Event(), threading.Event()

    def write_slowly(*arguments: object) -> str:
        saving.set()
        assert go_on.wait(5)
        return write_picture(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(gallery_module, "write_picture", write_slowly)
    with Studio(settings, DrawingPainter()) as studio:
        job_id = studio.submit(request())
        assert saving.wait(5)
        assert studio.watch(job_id).phase == "save"
        assert studio.cancel(job_id) is True
        go_on.set()
        assert finished(studio, job_id).state == "cancelled"
        assert files_in(settings) == [] and studio.gallery.count() == 0


def test_only_ended_jobs_are_retried(settings: Settings) -> None:
    painter = gated()
    with Studio(settings, painter) as studio:
        job_id = studio.submit(request())
        wait_for(studio, job_id, lambda job: job.state == "running")
        with pytest.raises(StudioError, match="This job is running") as refused:
            studio.retry(job_id)
        assert refused.value.http_status == 409
        painter.gates["paint"].set()
        assert finished(studio, job_id).state == "done"
        with pytest.raises(StudioError, match="This job is done"):
            studio.retry(job_id)


def test_closing_interrupts_and_reopening_goes_on(settings: Settings) -> None:
    painter = gated()
    with Studio(settings, painter) as studio:
        running, waiting = studio.submit(request()), studio.submit(request(1))
        wait_for(studio, running, lambda job: job.state == "running")
    for ask in (lambda: studio.submit(request()), lambda: studio.watch(running), studio.gallery.count):
        with pytest.raises(StudioError, match="The studio is closed"):
            ask()
    studio.close()
    painter.gates["paint"].set()
    with Studio(settings, painter) as studio:
        assert finished(studio, waiting).state == "done", "queued jobs go on by themselves"
        ended = studio.watch(running)
        assert (ended.state, ended.error_kind, ended.can_retry) == ("interrupted", "interrupted", True)
        assert finished(studio, studio.retry(running)).state == "done"


def test_a_data_folder_belongs_to_one_studio(settings: Settings, studio: Studio) -> None:
    with pytest.raises(StudioError) as refused:
        Studio(settings, DrawingPainter())
    assert (refused.value.kind, refused.value.exit_code) == ("in_use", 1)
    assert finished(studio, studio.submit(request())).state == "done"


def test_watchers_see_a_bar_that_only_grows(settings: Settings) -> None:
    with Studio(settings, DrawingPainter(step_s=0.004)) as studio:
        job_id = studio.submit(request())
        with ThreadPoolExecutor(4) as pool:
            views = list(pool.map(lambda _: watched_to_the_end(studio, job_id), range(4)))
    for seen in views:
        fractions = [job.fraction for job in seen]
        assert fractions == sorted(fractions) and fractions[-1] == 1.0
        assert all((job.image_id == job_id) is (job.state == "done") for job in seen)
        order = [job.state for job in seen]
        assert order == sorted(order, key=["queued", "running", "done"].index)


def watched_to_the_end(studio: Studio, job_id: str) -> list[JobSnapshot]:
    seen = [studio.watch(job_id)]
    while not seen[-1].is_final:
        seen.append(studio.watch(job_id))
    return seen

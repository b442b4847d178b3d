"""Video jobs: clips that can be played early, going on after a kill, one clip anew."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from studio.doors.doors import Doors
from studio.errors import StudioError
from studio.films import Film
from studio.jobs.records import JobRecords, NewJob
from studio.requests import ImageRequest, VideoRequest
from studio.settings import REPOSITORY, Settings
from studio.studio import Studio
from tests.studio.conftest import finished, wait_for
from tests.studio.makers import DrawingFilmer
from tests.studio.painters import DrawingPainter, make_weights

REQUEST = VideoRequest("a red ball", clips=4, frames=3, fps=6.0, seed=2)


@pytest.fixture
def filmer() -> DrawingFilmer:
    return DrawingFilmer()


@pytest.fixture
def video_settings(settings: Settings) -> Settings:
    return replace(
        settings, weights_dir=make_weights(settings.data_dir / "w", ("storybook-flux", "storybook-video"))
    )


@pytest.fixture
def studio(video_settings: Settings, filmer: DrawingFilmer) -> Iterator[Studio]:
    with Studio(video_settings, DrawingPainter(), Doors(filmer=filmer)) as opened:
        yield opened


def colours(studio: Studio, job: str, name: str = "video.mp4") -> list[list[int]]:
    return json.loads(studio.results.path(job, name).read_text())["colours"]


def test_a_video_is_one_file_and_one_per_clip(studio: Studio) -> None:
    job = finished(studio, studio.submit(REQUEST))
    assert (job.state, job.kind, job.image_id, job.error) == ("done", "video", None, "")
    found = job.result
    assert (found["frames"], found["fps"], found["width"], found["height"]) == (12, 6.0, 64, 48)
    assert [clip["file"] for clip in found["clips"]] == [f"clip-{n:03d}.mp4" for n in (1, 2, 3, 4)]
    whole = colours(studio, job.id)
    assert whole == [colour for n in (1, 2, 3, 4) for colour in colours(studio, job.id, f"clip-{n:03d}.mp4")]
    assert studio.results.path(job.id, "poster.webp").is_file()
    recipe = json.loads(studio.results.path(job.id, "video.mp4").read_text())["recipe"]
    assert VideoRequest.from_json(recipe["request"]) == job.request and recipe["kind"] == "video"


def test_finished_clips_can_be_played_while_later_ones_are_filmed(
    studio: Studio, filmer: DrawingFilmer
) -> None:
    filmer.gate = threading.Event()
    name = studio.submit(REQUEST)
    seen = wait_for(studio, name, lambda job: job.stage == 3)
    assert [clip["clip"] for clip in seen.result["clips"]] == [1, 2] and 0.5 < seen.fraction < 1
    assert colours(studio, name, "clip-002.mp4") and seen.preview is not None
    studio.cancel(name)
    ended = finished(studio, name)
    assert ended.state == "cancelled" and len(ended.result["clips"]) == 2, "what was filmed stays"
    filmer.gate.set()
    assert finished(studio, studio.retry(name)).state == "done"
    assert filmer.filmed == [1, 2, 3, 4], "clips that were there are not filmed again"


VICTIM = """
import sys, threading, time
from pathlib import Path
from studio.doors.doors import Doors
from studio.requests import VideoRequest
from studio.settings import Settings
from studio.studio import Studio
from tests.studio.makers import DrawingFilmer
from tests.studio.painters import DrawingPainter

filmer = DrawingFilmer(gate=threading.Event())
settings = Settings(data_dir=Path(sys.argv[1]), weights_dir=Path(sys.argv[2]))
studio = Studio(settings, DrawingPainter(), Doors(filmer=filmer))
print(studio.submit(VideoRequest("a red ball", clips=4, frames=3, fps=6.0, seed=2)), flush=True)
filmer.reached.wait(60)
print("reached", flush=True)
time.sleep(60)
"""


def test_killed_in_the_middle_of_clip_three_it_goes_on_by_itself(
    video_settings: Settings, tmp_path: Path
) -> None:
    command = [sys.executable, "-c", VICTIM, str(video_settings.data_dir), str(video_settings.weights_dir)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        name = victim.stdout.readline().strip()
        assert victim.stdout.readline().strip() == "reached"
        victim.send_signal(signal.SIGKILL)
    filmer = DrawingFilmer()
    with Studio(video_settings, DrawingPainter(), Doors(filmer=filmer)) as studio:
        assert finished(studio, name).state == "done"
        assert filmer.filmed == [3, 4]
        assert colours(studio, name) == undisturbed(video_settings, tmp_path)


def undisturbed(video_settings: Settings, tmp_path: Path) -> list[list[int]]:
    settings = replace(video_settings, data_dir=tmp_path / "undisturbed")
    with Studio(settings, DrawingPainter(), Doors(filmer=DrawingFilmer())) as studio:
        return colours(studio, finished(studio, studio.submit(REQUEST)).id)


def test_closing_puts_it_back_in_line(video_settings: Settings, filmer: DrawingFilmer) -> None:
    filmer.gate = threading.Event()
    with Studio(video_settings, DrawingPainter(), Doors(filmer=filmer)) as studio:
        name = studio.submit(REQUEST)
        assert filmer.reached.wait(5)
    filmer.gate.set()
    with Studio(video_settings, DrawingPainter(), Doors(filmer=filmer)) as studio:
        assert finished(studio, name).state == "done" and filmer.filmed == [1, 2, 3, 4]


@pytest.mark.parametrize(("starts", "state"), [(2, "done"), (3, "interrupted")])
def test_a_job_that_kills_the_studio_again_and_again_is_given_up(
    starts: int, state: str, video_settings: Settings
) -> None:
    records = JobRecords(video_settings.data_dir / "jobs.sqlite3")
    name = records.add(NewJob(replace(REQUEST, model="storybook-video"), "a red ball", 1.0, (), ()), 8)
    for start in range(starts):
        assert records.begin(name)
        if start + 1 < starts:
            records.put_back(name)
    records.close()
    with Studio(video_settings, DrawingPainter(), Doors(filmer=DrawingFilmer())) as studio:
        assert finished(studio, name).state == state


def test_one_clip_is_filmed_anew_and_the_old_video_stays(studio: Studio, filmer: DrawingFilmer) -> None:
    first = finished(studio, studio.submit(REQUEST))
    filmer.filmed.clear()
    again = finished(studio, studio.submit(replace(REQUEST, clip_seeds=((2, 77),), redo=(first.id, 2))))
    assert again.state == "done" and filmer.filmed == [2]
    old, new = colours(studio, first.id), colours(studio, again.id)
    assert old[:3] == new[:3] and old[3:6] != new[3:6] and old[6:] == new[6:]
    with pytest.raises(StudioError, match="not here any more"):
        studio.submit(replace(REQUEST, redo=("01ARZ3NDEKTSV4RRFFQ69G5FAV", 2)))


def test_a_video_may_begin_with_a_picture(studio: Studio) -> None:
    name = studio.submit(ImageRequest("a red ball", 64, 64))
    finished(studio, name)
    assert finished(studio, studio.submit(replace(REQUEST, start=f"picture:{name}", clips=1))).state == "done"
    with pytest.raises(StudioError, match="no such picture"):
        studio.submit(replace(REQUEST, start="picture:01ARZ3NDEKTSV4RRFFQ69G5FAV"))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"prompt": ""}, "prompt"), ({"clips": 0}, "clips"), ({"clips": 201}, "clips"),
        ({"frames": 1_000_000}, "frames"), ({"fps": 0}, "fps"), ({"fps": float("nan")}, "fps"),
        ({"width": 128}, "size"), ({"width": 129, "height": 128}, "width"),
        ({"width": 2048, "height": 128}, "width"), ({"steps": 0}, "steps"), ({"order": "backwards"}, "order"),
        ({"overlap": 3}, "overlap"), ({"smooth": 3}, "smooth"), ({"smooth": True}, "smooth"),
        ({"is_loop": 1}, "is_loop"), ({"start": "file:x"}, "start"),
        ({"prompts_at": ((1, "x"),)}, "prompts_at"), ({"prompts_at": ((5, "x"),)}, "prompts_at"),
        ({"prompts_at": ((2, "x"), (2, "y"))}, "prompts_at"), ({"prompts_at": "2x"}, "prompts_at"),
        ({"prompts_at": ((2, ""),)}, "prompt"), ({"clip_seeds": ((1, -1),)}, "clip_seeds"),
        ({"redo": ("x", 1)}, "redo"), ({"redo": 7}, "redo"),
    ],
)  # fmt: skip
def test_fields_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(StudioError) as refused:
        replace(REQUEST, **changes)
    message = refused.value.message
    expected = "source" if field == "start" else field
    assert message.startswith(f"{expected}: ") and refused.value.exit_code == 2 and "\n" not in message


def test_what_the_other_side_refuses_is_one_sentence(studio: Studio) -> None:
    with pytest.raises(StudioError, match=r"video: frames is 13; unlucky\."):
        studio.submit(replace(REQUEST, frames=13))


def test_frames_in_between_do_not_count_as_saving_too() -> None:
    film = Film((), 8.0, 64, 48, {"clip 1": 4.0, "smooth": 2.0}, "float32", "cpu", (), 1)
    assert film.all_seconds(load=1.0, save=5.0) == {"clip 1": 4.0, "smooth": 2.0, "save": 3.0, "load": 1.0}


def test_requests_survive_json() -> None:
    request = replace(
        REQUEST, prompts_at=((3, "b"), (2, "a")), clip_seeds=((1, 5),), start="upload:" + "0" * 26
    )
    assert request.prompts_at == ((2, "a"), (3, "b"))
    assert VideoRequest.from_json(json.loads(json.dumps(request.to_json()))) == request

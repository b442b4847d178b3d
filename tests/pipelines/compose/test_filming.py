"""The studio's door to filming: requests checked early, progress, stops, resuming after a kill, memory."""

import json
import os
import signal
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.compose import filming
from pipelines.compose.filming import Cancelled, FilmRequest
from pipelines.vidrd.interpolation import interpolate_flow
from pipelines.vidrd.video_files import export_video, read_recipe, read_video
from studio.doors.filming import PipelineFilmer
from studio.films import Shoot
from studio.painter import PaintingStopped
from studio.requests import VideoRequest
from tests.pipelines.vidrd.conftest import tiny_pipeline

REQUEST = FilmRequest("a red ball", clips=3, frames=4, seed=4, steps=2, width=64, height=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "storybook-tiny-video"
    tiny_pipeline().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return filming.load_film_model(folder)


@pytest.fixture(scope="module")
def made(model):
    return filming.film(model, REQUEST)


def same(first, second):
    return [[a.tobytes() == b.tobytes() for a, b in zip(x, y, strict=True)]
            for x, y in zip(first.clips, second.clips, strict=True)]  # fmt: skip


def test_a_film_says_how_it_was_made(made):
    assert [len(clip) for clip in made.clips] == [4, 2, 2] and len(made.frames) == 8
    assert (made.width, made.height, made.fps) == (64, 64, 8.0)
    assert {"clip 1", "clip 2", "clip 3"} <= set(made.seconds) and made.warnings == ()
    assert made.peak_bytes > 0 and made.device in ("cpu", "cuda")


def test_watchers_see_steps_previews_and_finished_clips(model, made, monkeypatch):
    monkeypatch.setattr(filming, "PREVIEW_EVERY_S", 0.0)
    monkeypatch.setattr(filming, "PREVIEW_SHARE", 1e9)
    seen = []
    again = filming.film(model, REQUEST, on_progress=seen.append)
    assert all(all(row) for row in same(again, made))  # watching changes nothing
    phases = [progress.phase for progress in seen]
    assert phases == ["encode", *["film", "film", "clip"] * 3]
    fractions = [progress.fraction for progress in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    clips = [progress.frames for progress in seen if progress.phase == "clip"]
    assert [len(frames) for frames in clips] == [4, 2, 2]
    previews = [progress.preview for progress in seen if progress.preview is not None]
    assert previews and previews[0].size == (64, 64)
    assert [progress.clip for progress in seen if progress.phase == "clip"] == [1, 2, 3]


def test_a_stop_keeps_finished_clips_and_the_film_goes_on(model, made, tmp_path):
    answers = iter([False] * 6)  # before, and after five steps
    with pytest.raises(Cancelled):
        filming.film(model, REQUEST, store=tmp_path, should_stop=lambda: next(answers, True))
    assert sorted(path.name for path in tmp_path.glob("clip_*")) == [
        "clip_0000.safetensors", "clip_0001.safetensors"]  # fmt: skip
    seen = []
    rest = filming.film(model, REQUEST, store=tmp_path, on_progress=seen.append)
    assert all(all(row) for row in same(rest, made))
    assert {progress.clip for progress in seen if progress.phase == "film"} == {3}
    with pytest.raises(Cancelled):
        filming.film(model, REQUEST, should_stop=lambda: True)


def test_one_clip_is_filmed_again(model, made, tmp_path):
    filming.film(model, REQUEST, store=tmp_path)
    changed = replace(REQUEST, clip_seeds={2: 99})
    again = filming.film_again(model, changed, 2, store=tmp_path)
    assert [all(row) for row in same(again, made)] == [True, False, True]
    assert all(all(row) for row in same(filming.film(model, changed, store=tmp_path), again))
    with pytest.raises(ValueError, match="holds another film: its seeds"):
        filming.film(model, replace(REQUEST, seed=5), store=tmp_path)


def test_prompts_change_by_clip_and_unknown_words_are_named(model, made):
    other = filming.film(model, replace(REQUEST, prompts_at={2: "a kitten and an astronaut"}))
    assert [all(row) for row in same(other, made)][0] and not all(same(other, made)[1])
    assert len(other.warnings) == 1 and other.warnings[0].startswith("Not in Storybook's world: astronaut;")
    long = filming.film(model, replace(REQUEST, prompt="a red ball " * 60, clips=1))
    assert any("Only the first 77 of a prompt's" in warning for warning in long.warnings)


def test_films_start_from_pictures_and_videos(model, made, tmp_path):
    picture = Image.new("RGB", (200, 100), "red")
    start = filming.read_start(picture)
    wide = filming.film(model, replace(REQUEST, width=None, height=None, start=start, clips=1))
    assert (wide.width, wide.height) == (64, 64)  # the tiny model's own 32 px are below the least side
    path = export_video(made.frames, tmp_path / "a.mp4").path
    frames = filming.read_start(path, REQUEST.frames)
    assert len(frames) == 4
    longer = filming.film(model, replace(REQUEST, start=frames, clips=1))
    assert [len(clip) for clip in longer.clips] == [2]  # what the start showed is not shown again
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ValueError, match="^a.mp4 can't be read as a video"):
        filming.read_start(path)


def test_smooth_films_have_frames_in_between(model, made):
    smooth = filming.film(model, replace(REQUEST, smooth=2))
    assert [len(clip) for clip in smooth.clips] == [8, 4, 3] and smooth.fps == 16
    assert smooth.frames[::2] == made.frames or [f.tobytes() for f in smooth.frames[::2]] == [
        f.tobytes() for f in made.frames]  # fmt: skip
    assert "smooth" in smooth.seconds


def test_a_stored_film_is_read_and_smoothed_clip_by_clip(model, tmp_path, monkeypatch):
    made_of, alive, most = filming._pictures, [], []

    def counted(frames):
        pictures = made_of(frames)
        alive.extend(weakref.ref(picture) for picture in pictures)
        most.append(sum(picture() is not None for picture in alive))
        return pictures

    monkeypatch.setattr(filming, "_pictures", counted)
    request = replace(REQUEST, clips=6, smooth=2)
    film = filming.film(model, request, store=tmp_path / "store")
    assert not any(picture() is not None for picture in alive)
    file = filming.export_film(film, tmp_path / "a.mp4")
    assert file.num_frames == 27 and len(alive) == 2 * 14
    assert max(most) <= 8  # of 14: the clip that comes, and the one that goes
    plain = filming.film(model, replace(request, smooth=1))
    whole = interpolate_flow(plain.frames, 2)
    assert [frame.tobytes() for frame in film.frames] == [frame.tobytes() for frame in whole]
    assert [len(clip) for clip in film.clips] == [8, 4, 4, 4, 4, 3] and len(film.clips) == 6
    (tmp_path / "store" / "clip_0004.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match="clip_0004.safetensors can't be read as a clip"):
        filming.export_film(film, tmp_path / "b.mp4")
    assert not (tmp_path / "b.mp4").exists()


def test_smoothing_can_be_stopped(model, tmp_path):
    stopping = [False]
    request = VideoRequest("a red ball", clips=2, frames=4, width=64, height=64, steps=1, smooth=4)
    shoot = Shoot(request, store=tmp_path)
    film = PipelineFilmer().film(model, shoot, None, lambda *_: None, lambda: stopping[-1])
    frames = film.frames()
    next(frames)
    stopping.append(True)
    with pytest.raises(PaintingStopped):
        list(frames)
    stopping.append(False)
    assert len(list(film.frames())) == 21 and film.seconds["smooth"] > 0


def test_films_are_exported_with_their_recipe(made, tmp_path):
    file = filming.export_film(made, tmp_path / "a.webp", {"prompt": "a red ball"})
    assert (file.num_frames, file.fps) == (8, 8.0) and file.poster.size == (64, 64)
    assert read_recipe(file.path) == {"prompt": "a red ball"} and len(read_video(file.path)[0]) == 8


def test_loops_leave_something_to_show(model):
    loop = filming.film(model, replace(REQUEST, is_loop=True))
    assert [len(clip) for clip in loop.clips] == [4, 3, 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fps": 0}, "fps is 0; it must be above 0 and at most 120"),
        ({"clips": 10**6}, "clips is 1000000; it must be a whole number from 1 to 200"),
        ({"frames": 10**6}, "num_frames is 1000000; it must be a whole number from 1 to 128"),
        ({"prompts_at": {9: "a cat"}}, "prompts_at names clip 9; 3 clips allow 2 to 3"),
        ({"prompts_at": {2: " "}}, "a prompt of the schedule is empty"),
        ({"clip_seeds": {0: 1}}, "clip_seeds names clip 0; 3 clips allow 1 to 3"),
        ({"width": 333}, "width is 333; it must be a multiple of 16 from 64 to 1024"),
        ({"height": 4096}, "height is 4096"),
        ({"prompt": " "}, "the prompt is empty"),
        ({"order": "x"}, "order is 'x'"),
        ({"overlap": 4}, "overlap_frames is 4"),
        ({"smooth": 3}, "smooth is 3; allowed: "),
        ({"steps": 0}, "steps is 0; it must lie in 1 to 1000"),
        (
            {"start": (Image.new("RGB", (8, 8)),) * 3},
            "the video to continue has 3 frames; at least 4 are needed",
        ),
        ({"clips": 1, "is_loop": True}, "a loop needs at least 2 clips"),
    ],
)
def test_wrong_requests_get_one_clear_line_before_anything_is_loaded(options, message):
    sentence = filming.check_film(replace(REQUEST, **options))
    assert sentence is not None and sentence.startswith(message) and "\n" not in sentence


def test_right_requests_pass_and_are_forecast(folder):
    assert filming.check_film(REQUEST) is None
    short, long = (filming.forecast_film(folder, replace(REQUEST, clips=clips)) for clips in (2, 20))
    assert (short.frames, long.frames) == (6, 42)
    assert long.seconds > short.seconds > 0
    assert long.memory_bytes == short.memory_bytes  # that of one clip
    with pytest.raises(ValueError, match="is not a video model folder"):
        filming.forecast_film(folder / "unet", replace(REQUEST, width=None, height=None))
    with pytest.raises(ValueError, match="give both width and height, or neither"):
        filming.forecast_film(folder, replace(REQUEST, width=None))


_PROGRAM = """
import os, signal, sys
from pathlib import Path
from pipelines.compose import filming
from tests.pipelines.compose.test_filming import REQUEST

def watch(progress):
    if progress.phase == "film" and progress.clip == 3:
        os.kill(os.getpid(), signal.SIGKILL)

filming.film(filming.load_film_model(Path(sys.argv[1])), REQUEST, store=Path(sys.argv[2]), on_progress=watch)
"""


def run(program, *arguments):
    root = Path(__file__).resolve().parents[3]
    # earlier tests may have changed the number of threads, and with it the last bits of every sum
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=170)


@pytest.mark.slow
def test_a_killed_film_goes_on_to_the_same_frames(folder, model, made, tmp_path):
    killed = run(_PROGRAM, folder, tmp_path)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert len(list(tmp_path.glob("clip_*.safetensors"))) == 2
    seen = []
    rest = filming.film(model, REQUEST, store=tmp_path, on_progress=seen.append)
    assert all(all(row) for row in same(rest, made))
    assert {progress.clip for progress in seen if progress.phase == "film"} == {3}


_MEMORY = """
import json, sys, time
from dataclasses import replace
from pathlib import Path
from pipelines.compose import filming
from pipelines.runtime import peak_bytes
from tests.pipelines.compose.test_filming import REQUEST

model = filming.load_film_model(Path(sys.argv[1]))
peaks, times = [], []
for clips in (2, 8, 32):
    began = time.process_time()
    film = filming.film(model, replace(REQUEST, clips=clips, steps=1), store=Path(sys.argv[2]) / str(clips))
    filming.export_film(film, Path(sys.argv[2]) / "film.mp4")
    times.append((time.process_time() - began) / clips)
    peaks.append(peak_bytes())
print(json.dumps([peaks, times]))
"""


@pytest.mark.slow
def test_memory_and_time_per_clip_do_not_grow_with_the_film(folder, tmp_path):
    done = run(_MEMORY, folder, tmp_path)
    assert done.returncode == 0, done.stderr
    peaks, times = json.loads(done.stdout.splitlines()[-1])
    assert peaks[2] <= 1.1 * peaks[0], peaks  # a peak never falls, so this bounds the longest film
    assert times[2] <= 1.5 * times[1], times


def test_frames_are_plain_pictures(made):
    assert all(
        isinstance(frame, Image.Image) and np.asarray(frame).dtype == np.uint8 for frame in made.frames
    )

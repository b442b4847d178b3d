"""Finished clips on disk: going on, extending, filming one clip again, and stores that don't fit."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipelines.vidrd.clip_loop import Stopped
from pipelines.vidrd.clip_store import ClipStore
from pipelines.vidrd.film_plan import ClipSettings, FilmPlan
from pipelines.vidrd.handover import Handover
from tests.pipelines.vidrd.conftest import tiny_pipeline, tiny_unet

PLAN = FilmPlan(
    ("a red ball",), ("",), (3,), 32, 32, num_clips=4, num_frames=4, num_inference_steps=3,
    guidance_scale=2.0, handover=Handover(2, 1.0, 0.7),
)  # fmt: skip


def frames(pipeline, plan, store=None, **options):
    return [clip.frames for clip in pipeline.film(plan, store=store, **options)]


@pytest.fixture(scope="module")
def undisturbed(video_pipeline):
    return frames(video_pipeline, PLAN)


def same(first, second):
    return [a.equal(b) for a, b in zip(first, second, strict=True)]


def stop_in_clip(number):
    def report(step):
        if (step.clip, step.call) == (number, 1):
            raise Stopped

    return report


def test_an_interrupted_film_goes_on_behind_its_last_whole_clip(video_pipeline, undisturbed, tmp_path):
    given = []
    with pytest.raises(Stopped):
        for clip in video_pipeline.film(PLAN, store=ClipStore(tmp_path, PLAN, {}), report=stop_in_clip(2)):
            given.append(clip.index)
    assert given == [0, 1] and ClipStore(tmp_path, PLAN, {}).count() == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "clip_0000.safetensors", "clip_0001.safetensors", "film.json"]  # fmt: skip
    seen = []
    rest = frames(
        video_pipeline, PLAN, ClipStore(tmp_path, PLAN, {}), report=lambda step: seen.append(step.clip)
    )
    assert same(rest, undisturbed) == [True] * 4
    assert set(seen) == {2, 3}  # nothing is filmed twice


def test_a_finished_film_can_be_made_longer(video_pipeline, undisturbed, tmp_path):
    short = replace(PLAN, num_clips=2)
    frames(video_pipeline, short, ClipStore(tmp_path, short, {}))
    longer = frames(video_pipeline, PLAN, ClipStore(tmp_path, PLAN, {}))
    assert same(longer, undisturbed) == [True] * 4
    later = replace(PLAN, settings={3: ClipSettings("a blue cat")})  # the end is still open
    changed = frames(video_pipeline, later, ClipStore(tmp_path / "other", later, {}))
    assert same(changed, undisturbed) == [True, True, True, False]


def test_a_store_of_another_film_is_refused_with_the_difference(video_pipeline, tmp_path):
    one = replace(PLAN, num_clips=1)
    frames(video_pipeline, one, ClipStore(tmp_path, one, {"model": "a"}))
    with pytest.raises(ValueError, match=r"holds another film: its seeds is \[3\], asked is \[4\]"):
        ClipStore(tmp_path, replace(one, seeds=(4,)), {"model": "a"})
    with pytest.raises(ValueError, match="its model is 'a', asked is 'b'"):
        ClipStore(tmp_path, one, {"model": "b"})
    other = replace(one, settings={0: ClipSettings("a dog")})
    with pytest.raises(ValueError, match="was filmed with other settings than asked now"):
        frames(video_pipeline, other, ClipStore(tmp_path, other, {"model": "a"}))
    (tmp_path / "film.json").write_text("{")
    with pytest.raises(ValueError, match="can't be read as a film's record"):
        ClipStore(tmp_path, one, {})


def test_a_damaged_clip_is_named(video_pipeline, tmp_path):
    one = replace(PLAN, num_clips=1)
    store = ClipStore(tmp_path, one, {})
    frames(video_pipeline, one, store)
    data = store.path(0).read_bytes()
    store.path(0).write_bytes(data[:100])
    with pytest.raises(ValueError, match=r"clip_0000.safetensors can't be read as a clip .*; remove it"):
        frames(video_pipeline, one, store)
    store.path(0).unlink()
    assert len(frames(video_pipeline, one, store)) == 1


def test_one_clip_is_filmed_again_and_its_neighbours_stay(video_pipeline, undisturbed, tmp_path):
    store = ClipStore(tmp_path, PLAN, {})
    frames(video_pipeline, PLAN, store)
    old = store.load(1).clip
    again = replace(PLAN, settings={1: ClipSettings(seed=77)})
    new = video_pipeline.film_again(again, 1, ClipStore(tmp_path, again, {}))
    whole = frames(video_pipeline, again, ClipStore(tmp_path, again, {}))
    assert same(whole, undisturbed) == [True, False, True, True]
    assert whole[1].equal(new.frames)
    # its last frame is pulled to where the old version ended, which the next clip goes on from
    free = replace(PLAN, num_clips=2, settings={1: ClipSettings(seed=77)})
    alone = list(video_pipeline.film(free))[1].clip.latents
    distance = [
        (latents[:, :, -1] - old.latents[:, :, -1]).abs().mean() for latents in (new.clip.latents, alone)
    ]
    assert distance[0] < 0.6 * distance[1]


def test_clean_films_go_on_and_are_filmed_again(tmp_path):
    pipeline = tiny_pipeline(unet=tiny_unet(knows_context=True))
    plan = replace(PLAN, handover=Handover(2))
    undisturbed = frames(pipeline, plan)
    with pytest.raises(Stopped):
        frames(pipeline, plan, ClipStore(tmp_path, plan, {}), report=stop_in_clip(2))
    store = ClipStore(tmp_path, plan, {})
    assert store.count() == 2 and same(frames(pipeline, plan, store), undisturbed) == [True] * 4
    before, old = (store.load(number).clip.latents for number in (0, 1))
    again = replace(plan, settings={1: ClipSettings(seed=77)})
    new = pipeline.film_again(again, 1, ClipStore(tmp_path, again, {})).clip.latents
    assert new[:, :, :2].equal(before[:, :, 2:]) and new[:, :, -1].equal(old[:, :, -1])
    assert not new[:, :, 2].equal(old[:, :, 2])  # both ends are held, the rest is new
    whole = frames(pipeline, again, ClipStore(tmp_path, again, {}))
    assert same(whole, undisturbed) == [True, False, True, True]
    # a clip that was entered in stages can be filmed again from clean frames
    staged = replace(plan, num_clips=2, settings={1: ClipSettings(denoise_guidance=0.7)})
    frames(pipeline, staged, ClipStore(tmp_path / "staged", staged, {}))
    clean = replace(plan, num_clips=2)
    new = pipeline.film_again(clean, 1, ClipStore(tmp_path / "staged", clean, {})).clip.latents
    assert new[:, :, :2].equal(before[:, :, 2:])


def test_another_prompt_for_one_clip_leaves_the_others_their_own(video_pipeline, tmp_path):
    store = ClipStore(tmp_path, PLAN, {})
    before = frames(video_pipeline, PLAN, store)
    again = replace(PLAN, settings={2: ClipSettings("a blue cat"), 3: ClipSettings("a red ball")})
    video_pipeline.film_again(again, 2, ClipStore(tmp_path, again, {}))
    after = frames(video_pipeline, again, ClipStore(tmp_path, again, {}))
    assert same(after, before) == [True, True, False, True]


def test_clips_that_cannot_be_filmed_again(video_pipeline, tmp_path):
    store = ClipStore(tmp_path, PLAN, {})
    with pytest.raises(ValueError, match="clip 1 is not among the 0 clips"):
        video_pipeline.film_again(PLAN, 1, store)
    loop = replace(PLAN, num_clips=2, is_loop=True, handover=Handover(1, 1.0, 0.7))
    store = ClipStore(tmp_path / "loop", loop, {})
    first = frames(video_pipeline, loop, store)
    with pytest.raises(ValueError, match="the first clip of a loop can't be filmed again alone"):
        video_pipeline.film_again(loop, 0, store)
    other = replace(loop, settings={1: ClipSettings(seed=8)})
    last = video_pipeline.film_again(other, 1, ClipStore(tmp_path / "loop", other, {}))
    assert last.clip.closes and last.frames.shape == first[1].shape and not last.frames.equal(first[1])


def test_a_start_and_a_loop_survive_an_interruption(video_pipeline, tmp_path):
    start = [Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, 32, 3), dtype=np.uint8))]
    plan = replace(PLAN, num_clips=3, is_loop=True, handover=Handover(1, 1.0, 0.7))
    whole = frames(video_pipeline, plan, start=start)
    with pytest.raises(Stopped):
        frames(video_pipeline, plan, ClipStore(tmp_path, plan, {}), start=start, report=stop_in_clip(2))
    assert same(frames(video_pipeline, plan, ClipStore(tmp_path, plan, {}), start=start), whole) == [True] * 3
    again = replace(plan, settings={1: ClipSettings(seed=9)})
    redone = video_pipeline.film_again(again, 1, ClipStore(tmp_path, again, {}), start=start)
    assert not redone.frames.equal(whole[1])

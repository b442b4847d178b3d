"""Plans: prompts over time, hand-overs at their changes, frames that are shown, and what is refused."""

import pytest

from pipelines.vidrd.film_plan import CHANGE_GUIDANCE, CHANGE_RECYCLE, ClipSettings, FilmPlan, read_settings
from pipelines.vidrd.handover import Handover


def film_plan(**options):
    base = {"prompts": ("a cat",), "negative_prompts": ("",), "seeds": (1,), "height": 64, "width": 64}
    return FilmPlan(**{**base, **options})


def test_prompts_hold_until_they_change_and_changes_let_go_of_the_old_clip():
    plan = film_plan(num_clips=4, settings={2: ClipSettings(prompt="a dog"), 3: ClipSettings(seed=9)})
    clips = plan.clips()
    assert [clip.prompts for clip in clips] == [("a cat",), ("a cat",), ("a dog",), ("a dog",)]
    assert [clip.is_change for clip in clips] == [False, False, True, False]
    assert clips[1].handover == clips[3].handover == plan.handover
    assert (clips[2].handover.recycle, clips[2].handover.guidance) == (CHANGE_RECYCLE, CHANGE_GUIDANCE)
    assert [clip.seed for clip in clips] == [None, None, None, 9]
    mild = film_plan(
        num_clips=2, handover=Handover(recycle=0.5, guidance=0.1), settings={1: ClipSettings("x")}
    )
    assert mild.clips()[1].handover.recycle == 0.5 and mild.clips()[1].handover.guidance == 0.1


def test_a_clips_own_settings_win():
    own = ClipSettings("a dog", overlap_frames=1, noise_recycle=7.0, denoise_guidance=0.9, guidance_scale=2.0)
    clip = film_plan(num_clips=2, settings={1: own}).clips()[1]
    assert (clip.handover, clip.guidance_scale) == (Handover(1, 7.0, 0.9, clean=False), 2.0)


def test_frames_are_counted_as_they_are_shown():
    assert film_plan(num_clips=4).total_frames == 8 + 3 * 4
    assert film_plan(num_clips=4, handover=Handover(order="mirror")).total_frames == 32
    assert film_plan(num_clips=3, handover=Handover(2), is_loop=True).total_frames == 8 + 6 + 4
    settings = {1: ClipSettings(overlap_frames=1)}
    assert film_plan(num_clips=3, settings=settings).total_frames == 8 + 7 + 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_frames": 1_000_000}, "num_frames is 1000000; it must be a whole number from 1 to 128"),
        ({"num_clips": 0}, "num_clips is 0; it must be a whole number from 1 to 10,000"),
        ({"num_clips": 2.0}, "num_clips is 2.0"),
        ({"num_inference_steps": 0}, "num_inference_steps is 0"),
        ({"guidance_scale": float("inf")}, "guidance_scale is inf; it must be finite"),
        ({"prompt_fade": 2}, "prompt_fade is 2"),
        ({"seeds": ()}, "1 prompts, 1 negative prompts and 0 seeds were given"),
        ({"settings": {4: ClipSettings("x")}, "num_clips": 4}, "names clip 4; a film of 4 clips has 0 to 3"),
        ({"settings": {-1: ClipSettings("x")}}, "the schedule names clip -1"),
        ({"settings": {0: ClipSettings(overlap_frames=8)}}, "overlap_frames is 8"),
        ({"handover": Handover(8)}, "overlap_frames is 8"),
        ({"is_loop": True}, "a loop needs at least 2 clips"),
        ({"is_loop": True, "num_clips": 2}, "its overlaps have 8 frames together, at most 7 are allowed"),
    ],
)  # fmt: skip
def test_plans_that_cannot_be_filmed_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        film_plan(**options)


def test_a_mirrored_loop_may_meet_all_over():
    assert film_plan(is_loop=True, num_clips=2, handover=Handover(order="mirror")).total_frames == 16


def test_schedules_may_be_plain_texts():
    own = ClipSettings(seed=3)
    assert read_settings({1: "a dog", 2: own}) == {1: ClipSettings(prompt="a dog"), 2: own}
    assert read_settings(None) == {}
    with pytest.raises(ValueError, match="the schedule names clip '1'; clips are numbered from 0"):
        read_settings({"1": "a dog"})
    with pytest.raises(ValueError, match="clip 1 is given 5; it must be a text or ClipSettings"):
        read_settings({1: 5})

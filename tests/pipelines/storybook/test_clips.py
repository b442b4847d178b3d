"""Clips: what moves where, drawn so and said so."""

from collections import Counter
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.storybook.clip_latents import PSEUDO_SHARE, ClipStream, moving_boxes
from pipelines.storybook.clips import (
    CAMERAS,
    MOTIONS,
    OPPOSITES,
    SLOW_WAYS,
    Camera,
    Clip,
    ClipMix,
    Motion,
    backwards,
    camera_phrase,
    clip_caption,
    clip_fits,
    motion_phrase,
    sample_clip,
)
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.draw_clips import draw_clip, draw_clip_frame, pseudo_clip
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, has_held_out
from pipelines.storybook.vocabulary import unknown_words

BALL = SceneObject("ball", "red", "plain", "medium", 0.5, 0.6, 0.15, seed=3)
ROOM = Scene("room", (BALL,), seed=4)


@pytest.fixture(scope="module")
def clips():
    rng = Random(11)
    return [sample_clip(rng) for _ in range(250)]


def centre(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


@pytest.mark.parametrize(
    ("motion", "way"),
    [
        (Motion("drift", "left", 0.3), (-0.3, 0)),
        (Motion("drift", "right", 0.3), (0.3, 0)),
        (Motion("drift", "up", 0.2), (0, -0.2)),
        (Motion("fall", "down", 0.2), (0, 0.2)),
        (Motion("bounce", "", 0.2), (0, 0)),
        (Motion("turn", "left", 1.0), (0, 0)),
        (Motion(), (0, 0)),
    ],
)
def test_motions_go_where_they_say(motion, way):
    clip = Clip(ROOM, (motion,))
    first, last = (centre(clip.boxes(t)[0]) for t in (0.0, 1.0))
    assert (last[0] - first[0], last[1] - first[1]) == pytest.approx(way, abs=1e-6)


def test_falls_get_faster_hops_come_back_and_growth_keeps_its_foot():
    fall = [centre(Clip(ROOM, (Motion("fall", "down", 0.4),)).boxes(t)[0])[1] for t in (0, 0.5, 1)]
    assert fall[2] - fall[1] > 2 * (fall[1] - fall[0]) > 0
    hops = [centre(Clip(ROOM, (Motion("bounce", "", 0.2),)).boxes(t)[0])[1] for t in (0, 0.25, 0.5, 0.75, 1)]
    assert hops[0] == hops[2] == pytest.approx(hops[4]) and hops[0] - hops[1] == pytest.approx(0.2)
    small, large = (Clip(ROOM, (Motion("grow", "", 1.5),)).boxes(t)[0] for t in (0, 1))
    assert large[3] == pytest.approx(small[3])
    assert (large[2] - large[0]) == pytest.approx(1.5 * (small[2] - small[0]))
    assert Clip(ROOM, (Motion("turn", "right", 0.8),)).at(0.5)[1] == (-0.4,)


def test_cameras_move_over_the_scene():
    pan = Clip(ROOM, (Motion(),), Camera("pan", "right", (0.0, 0.1, 0.7), (0.3, 0.1, 0.7)))
    first, last = (centre(pan.boxes(t)[0])[0] for t in (0, 1))
    assert first - last == pytest.approx(0.3 / 0.7)  # what is seen goes the other way
    zoom = Clip(ROOM, (Motion(),), Camera("zoom", "in", (0, 0, 1), (0.2, 0.3, 0.6)))
    widths = [box[2] - box[0] for box in (zoom.boxes(t)[0] for t in (0, 0.5, 1))]
    assert widths[0] < widths[1] < widths[2] == pytest.approx(widths[0] / 0.6)


def test_sampled_clips_stay_in_the_picture_and_apart(clips):
    assert all(clip_fits(clip) for clip in clips)
    for clip in clips:
        for t in (0.0, 0.37, 1.0):
            assert all(min(box) >= -0.01 and max(box) <= 1.01 for box in clip.boxes(t))
    kinds = Counter(motion.kind for clip in clips for motion in clip.motions)
    cameras = Counter(clip.camera.kind for clip in clips)
    assert set(kinds) == set(MOTIONS) and set(cameras) == set(CAMERAS)
    assert all(motion.kind == "still" for c in clips if c.camera.kind != "still" for motion in c.motions)
    sides = Counter(motion.direction for clip in clips for motion in clip.motions if motion.kind == "drift")
    assert min(sides["left"], sides["right"]) > 0.6 * max(sides["left"], sides["right"])


def test_half_of_the_drifts_leave_room_for_a_film_of_four_clips(clips):
    ways = [motion.amount for clip in clips for motion in clip.motions if motion.kind == "drift"]
    slow = [way for way in ways if way <= SLOW_WAYS[1]]
    assert min(ways) >= SLOW_WAYS[0] and max(ways) > 0.5
    assert 0.4 < len(slow) / len(ways) < 0.65
    # 20 frames are shown, 8 of them in the first clip: most slow ones still have that room before them
    going = [(clip, index) for clip in clips for index, motion in enumerate(clip.motions)
             if motion.kind == "drift" and motion.amount <= SLOW_WAYS[1]]  # fmt: skip
    inside = []
    for clip, index in going:
        box = replace(clip, camera=Camera()).boxes(19 / 7)[index]
        inside.append(min(box) >= 0 and max(box) <= 1)
    assert sum(inside) > 0.6 * len(inside)
    hurried = [sample_clip(Random(seed), ClipMix(slow_drifts=0.0)) for seed in range(40)]
    drifts = [motion for clip in hurried for motion in clip.motions if motion.kind == "drift"]
    assert sum(drift.amount <= SLOW_WAYS[1] for drift in drifts) < 0.3 * len(drifts)


def test_clips_keep_the_held_out_split(clips):
    assert not any(has_held_out(clip.at(t)[0]) for clip in clips for t in (0.0, 0.5, 1.0))
    rng = Random(5)
    mix = ClipMix(replace(SceneMix(groups=0.0), held_out=True))
    assert all(has_held_out(sample_clip(rng, mix).scene) for _ in range(10))


def test_captions_say_what_moves_in_words_the_world_knows(clips):
    rng, said = Random(2), Counter()
    for clip in clips:
        caption = clip_caption(clip, rng)
        assert unknown_words(caption.text) == []
        for mention in caption.mentions:
            word = caption.text[mention.start : mention.end]
            assert word.startswith(clip.scene.objects[mention.index].kind)
        for motion in clip.motions:
            if motion.kind in ("fall", "bounce", "turn", "grow"):
                assert motion.kind in caption.text, caption.text
            if motion.kind == "drift":
                assert motion.direction in caption.text and (
                    "moves" in caption.text or "drifts" in caption.text
                )
        assert camera_phrase(clip.camera) in caption.text.replace("The camera", "the camera")
        said[caption.text[0]] += 1
    assert len(said) > 1


def test_phrases():
    rng = Random(0)
    assert camera_phrase(Camera("pan", "left")) == "the camera pans to the left"
    assert camera_phrase(Camera("zoom", "away")) == "the camera zooms away" and camera_phrase(Camera()) == ""
    phrases = {motion_phrase(Motion("drift", "left", 0.2), rng) for _ in range(40)}
    assert phrases == {"moves slowly to the left", "drifts slowly to the left"}
    phrases = {motion_phrase(Motion("drift", "left", 0.3), rng) for _ in range(40)}
    assert phrases == {"moves to the left", "drifts to the left"}
    assert motion_phrase(Motion("drift", "up", 0.5), rng) in ("moves up", "drifts up")
    assert {motion_phrase(Motion("turn", "right", 1.0), rng) for _ in range(40)} == {
        "turns",
        "turns to the right",
    }


def test_a_still_clip_is_the_scenes_drawing():
    frames = draw_clip(Clip(ROOM, (Motion(),)), 3, 64, 64)
    expected = draw_scene(ROOM, 64, 64)
    assert all(np.array_equal(frame, expected) for frame in frames)
    with pytest.raises(ValueError, match="a clip has at least 2 frames, got 1"):
        draw_clip(Clip(ROOM, (Motion(),)), 1, 64, 64)


def red_centre(frame):
    red = (frame[..., 0] > 150) & (frame[..., 1] < 110) & (frame[..., 2] < 110)
    rows, columns = np.nonzero(red)
    return columns.mean() / frame.shape[1], rows.mean() / frame.shape[0]


def test_drawings_move_as_the_boxes_do():
    pan = Camera("pan", "right", (0.0, 0.2, 0.75), (0.25, 0.2, 0.75))
    meadow = replace(ROOM, place="meadow")
    for clip in (
        Clip(meadow, (Motion("drift", "right", 0.25),)),
        Clip(meadow, (Motion("bounce", "", 0.25),)),
        Clip(meadow, (Motion(),), pan),
    ):
        for t in (0.0, 0.3, 1.0):
            seen, known = red_centre(draw_clip_frame(clip, t, 96, 96)), centre(clip.boxes(t)[0])
            assert seen == pytest.approx(known, abs=0.035), (clip, t)


def test_a_clip_drawn_with_more_frames_passes_through_the_same_moments():
    clip = Clip(ROOM, (Motion("drift", "left", 0.25),))
    few, many = draw_clip(clip, 3, 48, 48), draw_clip(clip, 5, 48, 48)
    assert all(np.array_equal(a, b) for a, b in zip(few, many[::2], strict=True))


def test_turning_turns_the_object_against_the_clock_and_leaves_its_shadow():
    car = replace(BALL, kind="car", x=0.5, y=0.5)
    scene = replace(ROOM, place="meadow", objects=(car,))
    upright, left, right = (
        draw_clip_frame(Clip(scene, (Motion("turn", side, 0.7),)), t, 96, 96)
        for side, t in (("left", 0.0), ("left", 1.0), ("right", 1.0))
    )
    assert not np.array_equal(left, right)
    red = [(f[..., 0] > 150) & (f[..., 1] < 110) & (f[..., 2] < 110) for f in (upright, left, right)]
    rows, columns = np.mgrid[:96, :96]

    def slant(mask):  # positive where the lower part lies further right
        x, y = columns[mask] - columns[mask].mean(), rows[mask] - rows[mask].mean()
        return (x * y).mean()

    assert slant(red[1]) < slant(red[0]) - 5 < slant(red[0]) + 5 < slant(red[2])
    below = slice(74, 96)  # the ground
    assert np.abs(left[below].astype(int) - upright[below]).mean() < 3


def test_pseudo_videos_pan_and_zoom_over_a_still_picture():
    rows, columns = np.mgrid[:96, :128]
    picture = Image.fromarray(np.stack([rows * 2, columns * 1.9, rows + columns], 2).astype(np.uint8))
    frames = pseudo_clip(picture, Random(3), 6, 32, 32)
    assert len(frames) == 6 and all(frame.size == (32, 32) for frame in frames)
    first, last = (np.asarray(frame, float) for frame in (frames[0], frames[-1]))
    assert np.abs(first - last).mean() > 3
    steps = [
        np.abs(np.asarray(a, float) - np.asarray(b, float)).mean()
        for a, b in zip(frames, frames[1:], strict=False)
    ]
    assert max(steps) < 0.6 * np.abs(first - last).mean() + 1  # no jumps
    again = pseudo_clip(picture, Random(3), 6, 32, 32)
    assert [a.tobytes() for a in frames] == [b.tobytes() for b in again]


class TinyVAE(torch.nn.Module):
    """Colour means of 8 px squares, as sixteen channels."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def encode(self, x):
        self.calls += len(x)
        mean = torch.nn.functional.avg_pool2d(x, 8).repeat(1, 6, 1, 1)[:, :16]
        return type("Out", (), {"latent_dist": type("Dist", (), {"mean": mean * self.scale})})


def test_the_stream_is_seeded_and_encodes_each_clip_once(tmp_path):
    vae = TinyVAE()
    stream = ClipStream(vae, tmp_path, size=3, num_frames=4)
    latents, entries = stream.batch(0, 2)
    assert latents.shape == (2, 4, 16, 16, 16) and vae.calls == 8
    again, _ = ClipStream(vae, tmp_path, size=3, num_frames=4).batch(3, 2)  # slots 0 and 1 once more
    assert again.equal(latents) and vae.calls == 8
    assert [entry.caption for entry in entries] == [stream.entry(slot).caption for slot in (0, 1)]
    pixels = np.stack(stream.draw(0))
    assert (
        np.abs(
            latents[0, :, 0].numpy() - (pixels[..., 0].reshape(4, 16, 8, 16, 8).mean((2, 4)) / 127.5 - 1)
        ).max()
        < 2e-3
    )


def test_latents_of_other_clips_are_not_taken_for_these(tmp_path):
    ClipStream(TinyVAE(), tmp_path, size=2, num_frames=2).batch(0, 1)
    other = TinyVAE()
    ClipStream(other, tmp_path, size=2, num_frames=2, mix=ClipMix(slow_drifts=0.9)).batch(0, 1)
    assert other.calls == 2 and len(list(tmp_path.glob("clips_61_2_2_*.npy"))) == 2


def test_some_of_the_stream_is_pseudo_video(tmp_path):
    stream = ClipStream(TinyVAE(), tmp_path, size=150, num_frames=2)
    entries = [stream.entry(slot) for slot in range(150)]
    still = [slot for slot, entry in enumerate(entries) if entry.clip is None]
    assert 0.02 < len(still) / 150 < 2.5 * PSEUDO_SHARE
    assert entries[still[0]].caption.endswith(". The camera moves")
    assert unknown_words(entries[still[0]].caption) == []
    frames = stream.draw(still[0])
    assert frames[0].shape == (128, 128, 3) and not np.array_equal(frames[0], frames[1])
    assert moving_boxes(None, 3) == [[], [], []]
    clip = next(entry.clip for entry in entries if entry.clip)
    assert moving_boxes(clip, 5)[4] == clip.boxes(1.0)


def test_clips_are_told_backwards_where_words_say_so():
    seen = set()
    for index in range(200):
        clip = sample_clip(sample_rng(9, index))
        back = backwards(clip)
        kinds = {motion.kind for motion in clip.motions}
        assert (back is None) == bool(kinds & {"fall", "grow"})
        if back is None:
            continue
        seen |= kinds | {clip.camera.kind}
        if "turn" not in kinds:
            pairs = zip(back.boxes(0.25), clip.boxes(0.75), strict=True)
            assert all(np.allclose(a, b) for a, b in pairs)
        words = clip_caption(back, Random(3)).text
        for motion in clip.motions:
            if motion.kind == "drift" and len(clip.motions) == 1:
                assert OPPOSITES[motion.direction] in words
    assert seen >= {"still", "drift", "bounce", "turn", "pan", "zoom"}

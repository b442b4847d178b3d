"""Flow on known motion, and measures that tell good films from bad ones."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneObject
from pipelines.vidrd.interpolation import (
    ModelInterpolator,
    flow_stream,
    interpolate_flow,
    interpolate_linear,
    interpolation_unet,
    masked_context,
    psnr,
)
from pipelines.vidrd.motion import measure_motion, optical_flow, to_frames, warp
from tests.pipelines.vidrd.conftest import tiny_unet

SIDE = 64


def drifting(count, step=0.02, start=0.3):
    item = SceneObject("ball", "red", "dotted", "large", start, 0.5, 0.2, seed=3)
    scenes = (Scene("room", (replace(item, x=start + step * index),), seed=4) for index in range(count))
    return [Image.fromarray(draw_scene(scene, SIDE, SIDE)) for scene in scenes]


@pytest.mark.parametrize("way", [(3.0, 0.0), (-2.0, 1.0), (0.0, -2.5)])
def test_flow_follows_a_shift(way):
    smooth = torch.nn.functional.interpolate(torch.rand(1, 3, 16, 16), (64, 64), mode="bicubic").clamp(0, 1)
    flow = torch.tensor(way).view(1, 2, 1, 1).expand(-1, -1, 64, 64)
    found = optical_flow(warp(smooth, flow), smooth)[:, :, 8:-8, 8:-8]
    assert (found.mean((2, 3))[0] - torch.tensor(way)).abs().max() < 0.25
    assert (found - flow[:, :, 8:-8, 8:-8]).abs().mean() < 0.35


def test_warping_fetches_from_where_the_flow_points():
    picture = torch.zeros(1, 1, 5, 6)
    picture[0, 0, 2, 4] = 1
    flow = torch.zeros(1, 2, 5, 6)
    flow[:, 0], flow[:, 1] = 3, 1
    assert (warp(picture, flow)[0, 0] > 0.5).nonzero().tolist() == [[1, 1]]


def test_a_smooth_film_has_no_seams():
    frames = drifting(12)
    report = measure_motion([frames[:4], frames[4:8], frames[8:]])
    assert report.border_ratio == pytest.approx(1.0, abs=0.25)
    assert report.turn_cosine > 0.9 and report.scene_cuts == 0 and not report.is_frozen
    assert report.drift < 0.1 and 0.1 < report.flow_px < 2 and report.mawe < 0.1


def test_running_back_cuts_and_frozen_films_are_told_apart():
    frames = drifting(8)
    smooth = measure_motion([frames[:4], frames[4:]])
    back = measure_motion([frames[:4], frames[:4][::-1]])
    assert back.turn_cosine < -0.9 < 0.9 < smooth.turn_cosine
    elsewhere = Image.fromarray(draw_scene(Scene("night sky", ()), SIDE, SIDE))
    cut = measure_motion([frames[:4], [elsewhere] * 4])
    assert cut.border_ratio > 10 and cut.scene_cuts == 1 and cut.drift > 0.5
    frozen = measure_motion([frames[:1] * 4, frames[:1] * 4])
    assert frozen.is_frozen and frozen.mawe == float("inf") and frozen.warp_error == 0
    noise = np.random.default_rng(0)
    shaken = (np.asarray(f) * 0.8 + noise.integers(0, 50, (SIDE, SIDE, 3)) for f in frames)
    flicker = [Image.fromarray(frame.astype(np.uint8)) for frame in shaken]
    assert measure_motion([flicker]).warp_error > 3 * measure_motion([frames]).warp_error
    with pytest.raises(ValueError, match="motion needs at least 2 frames, got 1"):
        measure_motion([frames[:1]])


@pytest.mark.parametrize("factor", [2, 4])
def test_interpolation_keeps_given_frames_and_moves_what_moves(factor):
    truth = drifting(factor * 2 + 1, step=0.05 / factor)
    given = truth[::factor]
    faded, moved = interpolate_linear(given, factor), interpolate_flow(given, factor)
    assert len(faded) == len(moved) == len(truth)
    for index, frame in enumerate(given):
        assert faded[index * factor].tobytes() == moved[index * factor].tobytes() == frame.tobytes()
    new = [index for index in range(len(truth)) if index % factor]
    score = {name: psnr([made[i] for i in new], [truth[i] for i in new])
             for name, made in (("faded", faded), ("moved", moved))}  # fmt: skip
    assert score["moved"] > score["faded"] + 1.0, score


def test_what_cannot_be_interpolated():
    frames = drifting(2)
    with pytest.raises(ValueError, match=r"the factor of interpolation is 3; allowed: \(2, 4\)"):
        interpolate_linear(frames, 3)
    with pytest.raises(ValueError, match="interpolation needs at least 2 frames, got 1"):
        interpolate_flow(frames[:1], 2)


def test_frames_are_filled_in_as_they_come(video_pipeline):
    model = ModelInterpolator(
        interpolation_unet(video_pipeline.unet).eval(),
        video_pipeline.encode_pictures,
        video_pipeline.decode_latents,
        video_pipeline.scheduler,
        video_pipeline.encode_prompt(""),
        steps=1,
    )
    frames = [frame.resize((32, 32)) for frame in drifting(6)]
    for fill, stream, held in ((model, model.stream, 3), (interpolate_flow, flow_stream, 2)):
        taken = []
        coming = (taken.append(index) or frame for index, frame in enumerate(frames))
        filled = stream(coming, 4)
        first = next(filled)
        assert len(taken) <= held and first.tobytes() == frames[0].tobytes()
        rest = [first, *filled]
        assert [a.tobytes() for a in rest] == [b.tobytes() for b in fill(frames, 4)]
        assert len(rest) == 21 and [len(list(stream(frames[:n], 4))) for n in (0, 1, 2)] == [0, 1, 5]


def test_the_flow_of_a_pair_does_not_depend_on_other_pairs():
    frames = to_frames(drifting(5))
    together = optical_flow(frames[:-1], frames[1:])
    for index in range(4):
        alone = optical_flow(frames[index : index + 1], frames[index + 1 : index + 2])
        torch.testing.assert_close(alone[0], together[index], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_masked_context_model_starts_as_the_video_model():
    video = tiny_unet()
    model = interpolation_unet(video).eval()
    x, text = torch.randn(1, 4, 9, 4, 4), torch.randn(1, 5, 16)
    context = masked_context(torch.randn(1, 4, 9, 4, 4), [0, 4, 8])
    assert context.shape == (1, 5, 9, 4, 4) and context[:, 4].sum() == 3 * 16
    assert context[:, :4, 1:4].eq(0).all() and context[:, :4, 4].ne(0).all()
    told = model(torch.cat([x, context], 1), 10, text).sample
    torch.testing.assert_close(told, video(x, 10, text).sample, rtol=1e-5, atol=1e-5)


def test_a_model_fills_windows_of_any_number_of_frames(video_pipeline):
    fill = ModelInterpolator(
        interpolation_unet(video_pipeline.unet).eval(),
        video_pipeline.encode_pictures,
        video_pipeline.decode_latents,
        video_pipeline.scheduler,
        video_pipeline.encode_prompt(""),
        steps=1,
    )
    frames = [frame.resize((32, 32)) for frame in drifting(4)]
    for factor in (2, 4):
        out = fill(frames, factor)
        assert len(out) == 3 * factor + 1
        assert all(out[i * factor].tobytes() == frame.tobytes() for i, frame in enumerate(frames))
        assert out[1].tobytes() != frames[0].tobytes()
        assert [a.tobytes() for a in fill(frames, factor)] == [a.tobytes() for a in out]
    assert to_frames(out).shape == (13, 3, 32, 32)

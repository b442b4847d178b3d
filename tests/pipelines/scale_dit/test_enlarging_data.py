"""Samples of enlarging steps: where crops and guides lie, what guides lose, latents as painting has them."""

from dataclasses import replace

import numpy as np
import torch
from PIL import Image

from pipelines.scale_dit import enlarging_data
from pipelines.scale_dit.decode import encode_tiled
from pipelines.scale_dit.enlarging_data import CROP, CROPS, GUIDE, EnlargingStream, Step, enlarge, sample_step
from pipelines.scale_dit.positions import anchors
from pipelines.storybook.canvas import Marks
from pipelines.storybook.dataset import sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import SceneMix

EASY = SceneMix(counts=(1.0, 0.0, 0.0))


def test_the_guide_is_enlarged_to_exactly_what_the_crop_shows():
    """A drawing that is linear in both directions keeps its values under any enlargement."""
    ramp = np.arange(16 * 20, dtype=np.float32)
    low = np.stack([np.add.outer(ramp, ramp) * 0.3] * 3, -1)  # 20 x 20 tokens
    part = low[4 * 16 : 16 * 16, 6 * 16 : 18 * 16].round().astype(np.uint8)
    seen = enlarge(part, Step(20, 50), at=(17, 22), part_at=(4, 6)).astype(float)
    position = (np.arange(16 * CROP) + 0.5) * 20 / 50 - 0.5  # of the crop's pixels in the small drawing
    expected = 0.3 * np.add.outer(17 * 16 * 0.4 + position, 22 * 16 * 0.4 + position)
    assert np.abs(seen[..., 0] - expected).max() < 1.5


def test_crops_lie_inside_and_guides_show_what_crops_show(counting_vae, tmp_path):
    stream = EnlargingStream(counting_vae, tmp_path, 150, SceneMix(), 3)
    for drawing in range(150):
        samples = stream.crops_of(drawing)
        assert len(samples) == CROPS and len({id(sample.scene) for sample in samples}) == 1
        for sample in samples:
            step = sample.step
            assert 8 <= step.low_side < step.side <= 256 and 1.9 < step.side / step.low_side < 4.1
            low_at = step.low_at(sample.at, GUIDE)
            assert all(0 <= value <= step.side - CROP for value in sample.at)
            for high, low in zip(sample.at, low_at, strict=True):
                assert 0 <= low <= step.low_side - GUIDE
                centre = (high + CROP / 2) * step.low_side / step.side
                assert low <= centre <= low + GUIDE
            ids, guide_ids = sample.ids()
            grid = anchors((step.side, step.side)).view(step.side, step.side, -1)
            assert ids[-1].equal(grid[sample.at[0] + CROP - 1, sample.at[1] + CROP - 1])
            assert ids.shape == (CROP**2, 3) and guide_ids.shape == (GUIDE**2, 3)


def test_most_guides_lose_detail_in_steps_of_all_sizes():
    steps = [sample_step(sample_rng(3, index)) for index in range(600)]
    changed = [step for step in steps if step.marks != Marks()]
    assert 0.63 < len(changed) / len(steps) < 0.77
    assert all(step.marks.shift and 0.3 <= step.marks.strength <= 1.0 for step in changed)
    widths = [step.blur_px for step in steps if step.blur_px]
    assert 0.62 < len(widths) / len(changed) < 0.78
    assert 0.4 <= min(widths) < 0.6 and 5.0 < max(widths) <= 6.4
    assert {step.low_side for step in steps} >= {8, 32, 128} and max(step.side for step in steps) == 256


def test_latents_are_those_that_painting_would_make(counting_vae, tmp_path):
    """A crop's latents equal its part of the whole drawing's, apart from what lies beyond the crop's edge."""
    stream = EnlargingStream(counting_vae, tmp_path, 40, EASY, 5)
    drawing = next(i for i in range(40) if stream.crops_of(i)[0].step.side in (24, 28, 32))
    batch = stream.batch(drawing, 1)
    sample = batch.samples[0]
    side = sample.step.side * 16
    whole = encode_tiled(counting_vae, to_tensor([draw_scene(sample.scene, side, side)]))
    top, left = (2 * value for value in sample.at)
    expected = whole[0, :, top : top + 2 * CROP, left : left + 2 * CROP]
    inner = (slice(None), slice(6, -6), slice(6, -6))
    torch.testing.assert_close(batch.drawing[0][inner], expected[inner], rtol=2e-2, atol=2e-2)
    alone = counting_vae.encode(_drawn(sample)).latent_dist.mean[0].detach()
    assert (alone[inner] - expected[inner]).abs().max() > 0.05  # what it would be without


def _drawn(sample):
    side, (row, column) = sample.step.side * 16, sample.at
    return to_tensor([draw_scene(sample.scene, side, side, (column * 16, row * 16, CROP * 16, CROP * 16))])


def test_latents_are_computed_once_per_drawing(counting_vae, tmp_path):
    stream = EnlargingStream(counting_vae, tmp_path, 3, EASY, 2)
    first = stream.batch(0, 3)
    passes = counting_vae.passes
    assert first.drawing.shape == first.enlarged.shape == (3, 16, 32, 32)
    assert first.guide.shape == (3, 16, 16, 16)
    second = stream.batch(3, 3)  # other crops of the same drawings
    assert counting_vae.passes == passes and not second.drawing.equal(first.drawing)
    assert stream.batch(3 * CROPS, 3).drawing.equal(first.drawing)
    again = EnlargingStream(counting_vae, tmp_path, 3, EASY, 2).batch(0, 3)
    assert counting_vae.passes == passes and again.guide.equal(first.guide)


def test_a_softened_guide_has_lost_detail_and_the_crop_has_not(counting_vae, tmp_path):
    stream = EnlargingStream(counting_vae, tmp_path, 40, EASY, 2)
    soft = next(s for i in range(40) if (s := stream.crops_of(i)[0]).step.blur_px > 2)
    sharp = replace(soft, step=Step(soft.step.low_side, soft.step.side))
    at = soft.step.low_at(soft.at, GUIDE)
    blurred, clear = (enlarging_data._draw_part(s, True, at, GUIDE).astype(float) for s in (soft, sharp))
    assert np.abs(np.diff(blurred, axis=1)).max() < 0.8 * np.abs(np.diff(clear, axis=1)).max()
    crops = [enlarging_data._draw_part(sample, False, soft.at, CROP) for sample in (soft, sharp)]
    assert np.array_equal(*crops) and Image.fromarray(crops[0]).size == (256, 256)

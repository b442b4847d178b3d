"""Drawings: one scene at every size, crops that agree, boxes that hold their objects."""

from dataclasses import replace
from random import Random

import numpy as np
import pytest
from PIL import Image

from pipelines.storybook.canvas import Canvas, clip_band, ellipse, hashed, inside, ramp, smooth
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, sample_scene
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES


def scenes(count, seed=23, **mix):
    return [sample_scene(sample_rng(seed, index), SceneMix(**mix)) for index in range(count)]


def shrink(picture, factor):
    size = picture.shape[1] // factor, picture.shape[0] // factor
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX)).astype(int)


def test_a_large_drawing_is_the_small_one_with_more_detail():
    for scene in scenes(6):
        small = draw_scene(scene, 128, 128).astype(int)
        large = shrink(draw_scene(scene, 512, 512), 4)
        difference = np.abs(small - large)
        assert difference.mean() < 4.0
        assert np.quantile(difference.max(-1), 0.9) < 24


def test_detail_appears_with_size():
    """Neighbouring pixels of a 1,024 px crop vary more than those of the enlarged small drawing would."""
    for place in PLACES:
        scene = Scene(place, (), seed=4)
        fine = draw_scene(scene, 2048, 2048, (512, 1536, 256, 256)).astype(float)
        coarse = draw_scene(scene, 256, 256, (64, 192, 32, 32))
        enlarged = np.asarray(Image.fromarray(coarse).resize((256, 256), Image.Resampling.BICUBIC)).astype(
            float
        )
        assert np.abs(np.diff(fine, axis=1)).mean() > 1.5 * np.abs(np.diff(enlarged, axis=1)).mean(), place


@pytest.mark.parametrize("size", [(256, 256), (384, 256)])
def test_a_crop_is_that_part_of_the_whole(size):
    width, height = size
    for index, scene in enumerate(scenes(5, aspects=(width / height,))):
        whole = draw_scene(scene, width, height).astype(int)
        rng = Random(index)
        left, top = rng.randrange(0, width - 96), rng.randrange(0, height - 64)
        crop = draw_scene(scene, width, height, (left, top, 96, 64)).astype(int)
        difference = np.abs(whole[top : top + 64, left : left + 96] - crop)
        assert difference.max() <= 1


def test_large_crops_agree_where_they_overlap():
    (scene,) = scenes(1)
    first = draw_scene(scene, 2048, 2048, (640, 1024, 160, 128)).astype(int)
    second = draw_scene(scene, 2048, 2048, (704, 1056, 160, 128)).astype(int)
    assert np.abs(first[32:, 64:] - second[:96, :96]).max() <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_holds_what_its_object_adds(kind):
    for seed, size, scale in ((1, "large", 0.25), (2, "small", 0.1)):
        item = SceneObject(kind, "red", "striped", size, 0.5, 0.55, scale, seed == 2, seed)
        scene = Scene("beach", (item,), seed=9)
        with_it, without = (
            draw_scene(each, 256, 256).astype(int) for each in (scene, replace(scene, objects=()))
        )
        changed = np.abs(with_it - without).max(-1) > 24  # a soft shadow may reach further
        rows, columns = np.nonzero(changed)
        left, top, right, bottom = (value * 256 for value in item.box)
        margin, shadow = 4, 8  # the shadow lies a little below the foot
        assert left - margin <= columns.min() and columns.max() <= right + margin
        assert top - margin <= rows.min() and rows.max() <= bottom + shadow
        area = (right - left) * (bottom - top)
        assert changed.sum() > 0.2 * area  # and it isn't much too large
        assert (columns.max() - columns.min()) > 0.6 * (right - left)
        assert (rows.max() - rows.min()) > 0.6 * (bottom - top)


def test_every_kind_colour_pattern_and_place_looks_different():
    def drawn(kind="car", colour="red", pattern="plain", place="meadow"):
        item = SceneObject(kind, colour, pattern, "large", 0.5, 0.6, 0.27, False, 3)
        return draw_scene(Scene(place, (item,), seed=2), 64, 64).astype(int)

    for variants in (
        [drawn(kind=kind) for kind in KINDS],
        [drawn(colour=colour) for colour in COLOURS],
        [drawn(pattern=pattern) for pattern in PATTERNS],
        [drawn(place=place) for place in PLACES],
    ):
        for index, first in enumerate(variants):
            for second in variants[index + 1 :]:
                assert (np.abs(first - second).max(-1) > 20).sum() > 20


def test_the_seed_of_an_object_changes_its_pose_not_its_place():
    item = SceneObject("cat", "blue", "plain", "large", 0.5, 0.6, 0.25, False, 1)
    pictures = [
        draw_scene(Scene("room", (replace(item, seed=seed),), seed=1), 128, 128).astype(int)
        for seed in (1, 2)
    ]
    difference = np.abs(pictures[0] - pictures[1]).max(-1)
    assert 0 < (difference > 10).mean() < 0.3


def test_pixels_are_rgb_bytes_of_the_asked_size():
    (scene,) = scenes(1, aspects=(1.5,))
    picture = draw_scene(scene, 96, 64)
    assert picture.shape == (64, 96, 3) and picture.dtype == np.uint8
    assert draw_scene(scene, 96, 64, (10, 20, 7, 5)).shape == (5, 7, 3)


def test_hashed_numbers_depend_on_cell_and_seed_alone():
    columns, rows = np.arange(-50, 50), np.arange(100)
    numbers = hashed(columns, rows, 7, 3)
    assert numbers.shape == (3, 100) and numbers.min() >= 0 and numbers.max() < 1
    assert np.array_equal(hashed(columns[40:45], rows[40:45], 7, 3), numbers[:, 40:45])
    assert not np.array_equal(hashed(columns, rows, 8, 3), numbers)
    assert len(np.unique(numbers)) > 290 and abs(numbers.mean() - 0.5) < 0.06


def test_shapes_of_the_canvas():
    assert [ramp(value, 2.0, 4.0) for value in (1.0, 3.0, 9.0)] == [0.0, 0.5, 1.0]
    circle = ellipse(1.0, 2.0, 3.0, 3.0)
    assert np.allclose(np.hypot(circle[:, 0] - 1, circle[:, 1] - 2), 3.0)
    square = np.array([(0.0, 0.0), (2.0, 0.0), (2.0, 2.0), (0.0, 2.0)])
    assert inside(np.array([(1.0, 1.0), (3.0, 1.0)]), square).tolist() == [True, False]
    band = clip_band(square, (1.0, 0.0), 0.5, 1.5)
    assert band[:, 0].min() == 0.5 and band[:, 0].max() == 1.5
    assert len(clip_band(square, (1.0, 0.0), 5.0, 6.0)) == 0
    through = smooth([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0)], 4, closed=False)
    assert np.allclose(through[[0, 4, 8]], [(0, 0), (1, 0), (1, 1)])


def test_thin_lines_fade_instead_of_getting_thinner():
    tops = []
    for width in (0.1, 0.01, 0.001):
        canvas = Canvas(np.zeros((32, 32, 3), np.uint8), 32.0)
        canvas.line(np.array([(0.0, 0.515), (1.0, 0.515)]), (255, 255, 255), width)
        tops.append(int(canvas.pixels().max()))
    assert tops[0] == 255 and tops[0] > tops[1] > tops[2] > 0

"""The seeded streams stay what models were trained on: sample i of a stream never changes.

Words and numbers are compared exactly, drawings with a recorded picture (a level or two apart at most:
processors round sines differently).
"""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.storybook.canvas import Marks
from pipelines.storybook.captions import caption
from pipelines.storybook.dataset import CropMix, crops, sample_crop, sample_rng, to_tensor
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.latents import sample_view
from pipelines.storybook.scene import SceneMix, sample_scene

RECORDED = Path(__file__).parent / "data" / "drawings.png"
MIXES = {
    "plain": SceneMix(),
    "easy": SceneMix(counts=(0.65, 0.25, 0.1), sized=0.6),
    "held_out": SceneMix(held_out=True),
    "wide": SceneMix(aspects=(1.0, 1.5, 0.667)),
}
# fingerprints of scenes, captions and views of each mix
EXPECTED = {
    "plain": ("6ef2c7457ed90dfb", "8aaae2c792824bdc", "e1dd42b7ad7a8bd3"),
    "easy": ("88f2a7cedbb007cf", "c38ba16bc2d580a7", "49f1ca228d326f0f"),
    "held_out": ("7cdd6925b1ec9d3d", "dc5fcbbf689d81ff", "45c998f44a7b663a"),
    "wide": ("9b99ad830d982356", "8f9e2e58e3c5350a", "a059793127b7b9be"),
}


def fingerprint(values):
    return hashlib.sha256("\n".join(map(repr, values)).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", MIXES)
def test_scenes_captions_and_views_are_the_recorded_ones(name):
    scenes = [sample_scene(sample_rng(41, index), MIXES[name]) for index in range(60)]
    captions = [caption(scene, sample_rng(7, index), 0.3) for index, scene in enumerate(scenes)]
    views = [sample_view(sample_rng(9, index), scene) for index, scene in enumerate(scenes)]
    assert (fingerprint(scenes), fingerprint(captions), fingerprint(views)) == EXPECTED[name]


def contact_sheet():
    """Six drawings above six crops of large ones, 128 px each."""
    drawings = [draw_scene(sample_scene(sample_rng(5, index)), 128, 128) for index in range(6)]
    mix = CropMix(((512, 1.0), (2048, 1.0), (4096, 1.0)), on_objects=0.9)
    return np.concatenate([np.concatenate(row, 1) for row in (drawings, crops(11, 0, 6, SceneMix(), mix))])


def test_drawings_are_the_recorded_ones():
    recorded = np.asarray(Image.open(RECORDED)).astype(int)
    difference = np.abs(contact_sheet().astype(int) - recorded)
    assert recorded.shape == (256, 768, 3)
    assert difference.max() <= 2 and difference.mean() < 0.01


def test_a_sample_does_not_depend_on_its_neighbours():
    mix = CropMix(((256, 1.0),))
    together = crops(3, 10, 4, SceneMix(), mix)
    assert np.array_equal(crops(3, 12, 1, SceneMix(), mix)[0], together[2])
    assert not np.array_equal(crops(4, 12, 1, SceneMix(), mix)[0], together[2])


def test_crops_lie_inside_on_the_token_grid_and_often_on_objects():
    mix = CropMix(((128, 1.0), (512, 1.0), (4096, 2.0)), on_objects=1.0)
    sides, touching = [], 0
    for index in range(200):
        rng = sample_rng(1, index)
        scene = sample_scene(rng)
        side, (left, top, width, height) = sample_crop(rng, scene, mix)
        assert (width, height) == (128, 128)
        assert left % 16 == top % 16 == 0
        assert 0 <= left <= side - 128 and 0 <= top <= side - 128
        boxes = [[value * side for value in item.box] for item in scene.objects]
        touching += any(b[0] < left + 128 and b[2] > left and b[1] < top + 128 and b[3] > top for b in boxes)
        sides.append(side)
    assert set(sides) == {128, 512, 4096} and 70 < sides.count(4096) < 130
    assert touching == 200


def test_pictures_become_tensors_in_minus_one_to_one():
    picture = np.zeros((2, 4, 3), np.uint8)
    picture[0, 1] = (255, 0, 128)
    tensor = to_tensor([picture, picture])
    assert tensor.shape == (2, 3, 2, 4) and tensor[1, 0, 0, 1] == 1.0 and tensor[0, 1, 0, 1] == -1.0
    assert abs(float(tensor[0, 2, 0, 1])) < 0.01


def test_views_lie_inside_and_the_guide_shows_what_the_crop_shows():
    for index in range(300):
        rng = sample_rng(2, index)
        view = sample_view(rng, sample_scene(rng))
        assert 8 <= view.low_side <= view.side <= 256 and view.side / view.low_side <= 4.07
        for at, side in ((view.at, view.side), (view.low_at, view.low_side)):
            assert all(0 <= value <= side - 8 for value in at)
        for high, low in zip(view.at, view.low_at, strict=True):
            centre = (high + 4) * view.low_side / view.side  # of the crop, in tokens of the small drawing
            assert low <= centre <= low + 8


def test_marks_stand_elsewhere_are_fewer_and_fainter_as_asked():
    scene = replace(sample_scene(sample_rng(0, 0)), place="meadow", objects=())
    drawn = draw_scene(scene, 512, 512).astype(int)
    bare = draw_scene(scene, 512, 512, marks=Marks(share=0.0)).astype(int)
    elsewhere, few, faint = (
        draw_scene(scene, 512, 512, marks=marks).astype(int)
        for marks in (Marks(shift=9), Marks(share=0.4), Marks(strength=0.3))
    )

    def covered(picture):
        return float((np.abs(picture - bare).max(-1) > 2).mean())

    whole = covered(drawn)
    assert whole > 0.05 and covered(bare) == 0.0
    assert covered(elsewhere) == pytest.approx(whole, rel=0.15) and (elsewhere != drawn).any()
    assert covered(few) == pytest.approx(0.4 * whole, rel=0.25)
    assert np.abs(faint - bare).max() < 0.5 * np.abs(drawn - bare).max()
    assert np.array_equal(bare[:200], draw_scene(scene, 512, 512, (0, 0, 512, 200)).astype(int))


def test_an_empty_scene_still_has_crops_and_views():
    scene = replace(sample_scene(sample_rng(0, 0)), objects=())
    assert sample_crop(sample_rng(0, 1), scene, CropMix(((512, 1.0),)))[0] == 512
    assert sample_view(sample_rng(0, 1), scene).side >= 8

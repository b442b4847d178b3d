"""What the probe asks for is what the scene shows, and features that tell it have no loss."""

import math

import pytest
import torch

from pipelines.storybook.probe import SIZES, SceneProbe, scene_targets
from pipelines.storybook.scene import Scene, SceneObject
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS

WHOLE = (0.0, 0.0, 1.0, 1.0)
BALL = SceneObject("ball", "red", "plain", "large", 0.5, 0.5, 0.25)
HOUSE = SceneObject("house", "blue", "striped", "large", 0.75, 0.75, 0.2)


def test_cells_in_a_box_name_the_object_and_their_place_in_it():
    words, places = scene_targets([(Scene("room", (BALL,)), WHOLE)], 8)
    words, places = words.view(8, 8, 3), places.view(8, 8, 4)
    left, top, right, bottom = BALL.box
    middles = (torch.arange(8) + 0.5) / 8
    inside = ((middles > top) & (middles < bottom))[:, None] & ((middles > left) & (middles < right))[None]
    red_ball = torch.tensor([KINDS.index("ball"), COLOURS.index("red"), PATTERNS.index("plain")])
    assert inside.any() and not inside.all()
    assert (words[inside] == red_ball).all() and (words[~inside] == torch.tensor(SIZES) - 1).all()
    assert places[~inside].eq(0).all()
    u, v, width, height = places[4, 5].tolist()
    assert u == pytest.approx((5.5 / 8 - left) / (right - left)) and width == pytest.approx(right - left)
    assert v == pytest.approx((4.5 / 8 - top) / (bottom - top)) and height == pytest.approx(bottom - top)


def test_the_nearer_object_covers_the_farther_one():
    farther = SceneObject("ball", "red", "plain", "large", 0.75, 0.75, 0.2)
    words, _ = scene_targets([(Scene("room", (farther, HOUSE)), WHOLE)], 8)
    assert words.view(8, 8, 3)[6, 6, 0] == KINDS.index("house")


def test_a_crop_is_asked_for_what_it_shows():
    scene = Scene("room", (BALL, HOUSE))
    fine, _ = scene_targets([(scene, WHOLE)], 32)
    crop, places = scene_targets([(scene, (0.25, 0.5, 0.5, 0.75))], 8)
    assert torch.equal(crop.view(8, 8, 3), fine.view(32, 32, 3)[16:24, 8:16])
    assert places.view(8, 8, 4)[0, 7, 2] == pytest.approx(4 * (BALL.box[2] - BALL.box[0]))


def test_right_answers_have_no_loss_and_wrong_ones_do():
    words, places = scene_targets([(Scene("room", (BALL,)), WHOLE)], 8)
    probe = SceneProbe(sum(SIZES) + 4)
    probe.norm = torch.nn.Identity()
    with torch.no_grad():
        probe.head.weight.copy_(torch.eye(sum(SIZES) + 4))
        probe.head.bias.zero_()
    hot = [50.0 * torch.nn.functional.one_hot(words[..., i], size) for i, size in enumerate(SIZES)]
    right = torch.cat([*hot, places], -1)
    assert probe(right, words, places).detach().tolist() == pytest.approx([0.0], abs=1e-6)
    nothing = probe(torch.zeros_like(right), words, places)
    assert float(nothing.detach()) > sum(math.log(size) for size in SIZES) - 1e-4

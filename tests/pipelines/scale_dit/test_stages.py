"""The one rule of sizes."""

import math
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.scale_dit.stages import Stage, plan_stages, size_problem

SIDES = st.integers(4, 1024).map(lambda n: n * 16)


def squares(sizes):
    return tuple(Stage(side, side) for side in sizes)


@pytest.mark.parametrize(
    ("side", "base", "sides"),
    [
        (256, 256, (256,)),
        (128, 256, (128,)),
        (512, 256, (256, 512)),
        (1024, 256, (256, 1024)),
        (4096, 256, (256, 1024, 4096)),
        (8192, 256, (256, 1024, 4096, 8192)),
        (256, 128, (128, 256)),
        (1024, 128, (128, 512, 1024)),
        (4096, 128, (128, 512, 2048, 4096)),
        (4096, 1024, (1024, 4096)),
        (64, 64, (64,)),
    ],
)
def test_squares_take_fours_first(side, base, sides):
    assert plan_stages(side, side, base) == squares(sides)


def test_a_rest_under_two_is_shared_with_the_step_before():
    heights = [stage.height for stage in plan_stages(1536, 1536, 256)]  # 4 and 1.5 would be lopsided
    assert len(heights) == 3
    assert all(2.3 < after / before < 2.6 for before, after in pairwise(heights))


def test_a_wide_picture_keeps_its_shape_in_every_stage():
    stages = plan_stages(1088, 1920, 256)
    assert stages == (Stage(192, 336), Stage(464, 800), Stage(1088, 1920))
    assert stages[0].grid == (12, 21) and stages[0].tokens == 252


@given(height=SIDES, width=SIDES, base=st.sampled_from((64, 128, 256, 512, 1024)))
@example(height=64, width=16384, base=64)
@example(height=16384, width=64, base=1024)
@example(height=288, width=240, base=256)  # rounds to itself: one stage
def test_every_size_is_reached_by_steps_of_at_most_four(height, width, base):
    stages = plan_stages(height, width, base)
    assert stages[-1] == Stage(height, width)
    for stage in stages:
        assert stage.height % 16 == stage.width % 16 == 0 and min(stage.height, stage.width) >= 64
    for before, after in pairwise(stages):
        assert before != after
        assert before.height <= after.height <= 4 * before.height
        assert before.width <= after.width <= 4 * before.width
    first = stages[0]
    ratio = max(height / first.height, width / first.width)
    assert len(stages) == 1 + math.ceil(math.log(ratio, 4) - 1e-9)  # never more steps than needed
    if min(first.height, first.width) > 64:  # no side was lifted to the least one
        assert 0.8 < first.height * first.width / min(base * base, height * width) < 1.25
        assert 0.8 < (first.height / first.width) / (height / width) < 1.25


@pytest.mark.parametrize(
    ("height", "width", "name"),
    [
        (0, 64, "height"),
        (64, 48, "width"),
        (100, 64, "height"),
        (64, -64, "width"),
        (1000000001, 64, "height"),
    ],
)
def test_an_impossible_size_is_refused_in_one_sentence(height, width, name):
    problem = size_problem(height, width)
    assert problem and problem.startswith(f"{name} is") and "multiple of 16 and at least 64" in problem
    with pytest.raises(ValueError, match=f"^{name} is"):
        plan_stages(height, width, 128)


def test_a_possible_size_has_no_problem():
    assert size_problem(64, 4096) is None

"""SCOP's rules where they can be worked out by hand, and what the strict profile adds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compass.scop_crops import crop_box, draw_sample, rounded
from pipelines.compass.scop_rules import (
    ScopParams,
    judge_pairs,
    mirrored,
    scop_relations,
    triples,
)

SIDES = st.floats(1, 150, allow_nan=False)
BOXES = st.tuples(st.floats(0, 400), st.floats(0, 300), SIDES, SIDES)


def verdict(first, second, params=None, size=(200.0, 200.0), different=True):
    arrays = [np.array([box], float) for box in (first, second)]
    area = tuple(np.array([side]) for side in size)
    found = judge_pairs(*arrays, np.array([different]), area, params or ScopParams())
    return {name: bool(value[0]) for name, value in vars(found).items()}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ((0, 0, 10, 10), (20, 0, 10, 10), ["to the left of", "to the right of"]),
        ((0, 0, 10, 10), (0, 20, 10, 10), ["above", "below"]),
        (
            (0, 0, 10, 10),
            (20, 20, 10, 10),
            ["to the left of and above", "above and to the left of", "to the right of and below",
             "below and to the right of"],
        ),
        ((0, 0, 10, 10), (0, 0, 10, 10), ["below", "above"]),  # ties: vertical, and "below"
        ((0, 0, 30, 10), (20, 0, 30, 10), ["to the left of", "to the right of"]),  # a third on x, all on y
    ],
)  # fmt: skip
def test_relations_by_hand(first, second, expected):
    assert scop_relations(first, second) == expected


@given(BOXES, BOXES)
def test_relations_turn_around_with_the_pair(first, second):
    centres = [(box[0] + box[2] / 2, box[1] + box[3] / 2) for box in (first, second)]
    forward, backward = scop_relations(first, second), scop_relations(second, first)
    if centres[0][0] != centres[1][0] and centres[0][1] != centres[1][1]:  # ties read the same both ways
        half = len(forward) // 2
        assert forward == backward[half:] + backward[:half]


@given(BOXES, BOXES)
def test_a_mirror_image_shows_the_mirrored_relation(first, second):
    flipped = [(1000 - box[0] - box[2], *box[1:]) for box in (first, second)]
    apart = abs(first[0] + first[2] / 2 - second[0] - second[2] / 2)
    overlaps = [abs(first[k] - second[k]) for k in (0, 1)]
    if apart > 1e-6 and min(overlaps) > 1e-6:  # neither ties nor last bits
        assert len(scop_relations(first, second)) == len(scop_relations(*flipped))
        ours = [mirrored(relation) for relation in scop_relations(first, second)]
        assert scop_relations(*flipped) == ours


def test_each_constraint_has_its_threshold():
    good = {"first": (10, 60, 80, 80), "second": (110, 60, 80, 80)}
    assert all(verdict(**good).values())
    assert not verdict(**good, different=False)["semantic_distinction"]
    assert not verdict(**good, size=(400.0, 200.0), params=ScopParams(visual_significance=0.17))[
        "visual_significance"
    ]
    assert verdict(**good, size=(400.0, 200.0), params=ScopParams(visual_significance=0.16))[
        "visual_significance"
    ]
    assert not verdict((0, 0, 10, 10), (60, 0, 10, 10))["spatial_clarity"]
    assert not verdict((0, 0, 40, 40), (28, 0, 40, 40))["minimal_overlap"]  # exactly 0.3: not below it
    assert verdict((0, 0, 40, 40), (28.1, 0, 40, 40))["minimal_overlap"]
    assert verdict((0, 0, 40, 40), (50, 0, 40, 20))["size_balance"]  # exactly one half
    assert not verdict((0, 0, 40, 40), (50, 0, 40, 19))["size_balance"]


def test_the_strict_profile_counts_shared_area_once():
    first, second = (0.0, 0.0, 100.0, 100.0), (75.0, 0.0, 100.0, 100.0)
    params = {"visual_significance": 0.48}
    assert verdict(first, second, ScopParams(**params))["visual_significance"]  # 20,000 of 40,000
    assert not verdict(first, second, ScopParams(**params, profile="strict"))["visual_significance"]  # 17,500


def test_triples_read_both_ways():
    assert triples("cat", "dog", ["above", "below"]) == [("cat", "above", "dog"), ("dog", "below", "cat")]


@pytest.mark.parametrize(
    "box", [(0, 0, 0, 5), (0, 0, 5, -1), (0, 0, float("nan"), 1), (0, 0, 1, float("inf"))]
)
def test_boxes_without_extent_are_refused(box):
    with pytest.raises(ValueError, match="bbox is"):
        scop_relations(box, (0, 0, 5, 5))


@pytest.mark.parametrize(
    "values", [{"size_balance": -1}, {"spatial_clarity": float("nan")}, {"profile": "best"}]
)
def test_impossible_thresholds_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        ScopParams(**values)


@given(st.tuples(BOXES, BOXES), st.floats(1.0, 1.1))
def test_square_crops_are_square_and_inside(boxes, scale):
    left, top, right, bottom = crop_box(boxes, (640, 480), scale, "square")
    assert right - left == pytest.approx(bottom - top)
    assert left >= 0 and top >= 0 and right <= 640 + 1e-9 and bottom <= 480 + 1e-9
    side = max(
        max(box[0] + box[2] for box in boxes) - min(box[0] for box in boxes),
        max(box[1] + box[3] for box in boxes) - min(box[1] for box in boxes),
    )
    assert right - left == pytest.approx(min(side * scale, 480))


def test_crops_round_halves_to_even_and_refuse_unknown_kinds():
    assert rounded((0.5, 1.5, 2.5, 3.5)) == (0, 2, 2, 4)
    with pytest.raises(ValueError, match="crop is 'round'"):
        crop_box([(0, 0, 1, 1)], (10, 10), 1.0, "round")
    with pytest.raises(ValueError, match="at least one box"):
        crop_box([], (10, 10))


def test_samples_depend_on_their_seed_and_drop_a_tenth_of_the_captions():
    from random import Random

    record = {
        "annots": [{"bbox": [10, 60, 80, 80]}, {"bbox": [110, 60, 80, 80]}],
        "oros": [["cat", "to the left of", "dog"], ["dog", "to the right of", "cat"]],
    }
    samples = [draw_sample(record, (200, 200), Random(seed)) for seed in range(400)]
    again = [draw_sample(record, (200, 200), Random(seed)) for seed in range(400)]
    assert samples == again
    texts = {sample.caption for sample in samples}
    assert texts == {"", "a photo of a cat left of a dog", "a photo of a dog right of a cat"}
    assert 20 < sum(not sample.caption for sample in samples) < 65
    assert not any(sample.is_mirrored for sample in samples)

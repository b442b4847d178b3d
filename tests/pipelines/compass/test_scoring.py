"""Scores by hand, their invariants, and the verdicts of the judge."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compass.judging import judge
from pipelines.compass.parser import parse_prompt
from pipelines.compass.scoring import (
    Detected,
    VisorImage,
    geneval_objects,
    geneval_offset,
    geneval_position,
    geneval_relations,
    t2i_depth,
    t2i_position,
    t2i_spatial,
    visor,
    visor_holds,
    visor_image,
)

CAT, DOG = (0.0, 40.0, 20.0, 60.0), (60.0, 40.0, 80.0, 60.0)


def found(*items):
    return [Detected(label, score, box) for label, score, box in items]


def test_visor_counts_detections_above_the_threshold_and_any_pair():
    seen = found(("cat", 0.5, DOG), ("cat", 0.11, CAT), ("dog", 0.1, DOG), ("dog", 0.2, DOG))
    image = visor_image("p", seen, "cat", "to the left of", "dog")
    assert image == VisorImage("p", True, True, True)
    only = visor_image("p", found(("cat", 0.5, CAT), ("dog", 0.1, DOG)), "cat", "left of", "dog")
    assert (only.has_first, only.has_second, only.is_right) == (True, False, False)
    assert not visor_holds(CAT, "above", DOG) and not visor_holds(CAT, "below", DOG)  # level: neither
    with pytest.raises(ValueError, match="relation is 'behind'"):
        visor_holds(CAT, "behind", DOG)


IMAGES = st.lists(st.tuples(st.booleans(), st.booleans(), st.booleans()), min_size=4, max_size=40)


@given(IMAGES)
def test_unconditional_visor_is_the_mean_of_its_parts(rows):
    rows = rows[: len(rows) // 4 * 4]
    images = [VisorImage(index // 4, a, b, a and b and right) for index, (a, b, right) in enumerate(rows)]
    scores = visor(images)
    assert scores.unconditional == pytest.approx(sum(scores.at_least) / 4)
    assert scores.unconditional == pytest.approx(scores.both * scores.conditional / 100)
    assert all(a >= b for a, b in zip(scores.at_least, scores.at_least[1:], strict=False))


def test_visor_without_any_pair_is_zero_and_needs_pictures():
    assert visor([VisorImage(0, True, False, False)]).conditional == 0.0
    with pytest.raises(ValueError, match="at least one picture"):
        visor([])


def test_geneval_offsets_by_hand():
    assert geneval_relations(CAT, DOG) == {"left of"} and geneval_relations(DOG, CAT) == {"right of"}
    assert geneval_offset(CAT, DOG) == pytest.approx((-56 / 60, 0.0))  # 60 apart, less a tenth of 20 + 20
    assert geneval_relations(CAT, (3.0, 40.0, 23.0, 60.0)) == set()  # within the margin
    assert geneval_relations(CAT, (60.0, 100.0, 80.0, 120.0)) == {"left of", "above"}


def test_geneval_takes_the_surest_of_each_class():
    seen = geneval_objects(found(("cat", 0.31, CAT), ("cat", 0.9, DOG), ("dog", 0.8, CAT), ("dog", 0.3, DOG)))
    assert seen == {"cat": [DOG, CAT], "dog": [CAT]}
    include = [{"class": "dog", "count": 1}, {"class": "cat", "count": 1, "position": ("left of", 0)}]
    assert geneval_position(seen, include) == (False, ["cat should be left of; it is right of"])
    assert geneval_position({"cat": [CAT]}, include)[1] == [
        "0 of 1 dog were found",
        "there is nothing for cat to be left of",
    ]


def test_t2i_scores_by_hand():
    assert (
        t2i_position("on the left of", CAT, DOG) == 1.0 and t2i_position("on the right of", CAT, DOG) == 0.0
    )
    overlapping = (10.0, 40.0, 30.0, 60.0)  # a third of the union
    assert t2i_position("on the left of", CAT, overlapping) == pytest.approx(0.3)
    assert t2i_position("near", CAT, (300.0, 240.0, 320.0, 260.0)) == pytest.approx(0.5)
    assert t2i_position("on top of", CAT, DOG) == 0.0  # in the vocabulary, but without a branch
    both = found(("cat", 0.8, CAT), ("dog", 0.6, DOG))
    assert t2i_spatial(both, "cat", "on the left of", "dog", (512, 512)) == pytest.approx(0.85)
    assert (
        t2i_spatial(both, "dog", "on the left of", "cat", (512, 512)) == 0.0
    )  # 0.35: values below a half are none
    assert t2i_spatial(both[:1], "cat", "on the left of", "dog", (512, 512)) == 0.0
    far = found(("cat", 1.0, CAT), ("dog", 1.0, (300.0, 240.0, 320.0, 260.0)))
    assert t2i_spatial(far, "cat", "near", "dog", (512, 512)) == pytest.approx(0.75)
    assert t2i_spatial(far, "cat", "near", "dog", (1024, 1024)) == 1.0  # near grows with the picture


def test_depth_scores_reach_one_at_the_threshold():
    shifted = (20.0 / 3, 40.0, 20.0 + 20.0 / 3, 60.0)  # half of the union
    assert t2i_depth("in front of", CAT, shifted, (0.9, 0.2)) == pytest.approx(1.0)
    assert t2i_depth("in front of", CAT, shifted, (0.2, 0.9)) == 0.0
    assert t2i_depth("behind", CAT, (10.0, 40.0, 30.0, 60.0), (0.1, 0.9)) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="'in front of' or 'behind'"):
        t2i_depth("above", CAT, DOG, (0, 1))


SIZE = (100, 100)


def test_verdicts_say_what_is_missing_or_wrong():
    parsed = parse_prompt("a cat to the left of a dog")
    good = judge(parsed, found(("cat", 0.9, CAT), ("dog", 0.8, DOG)), SIZE)
    assert good.passed and good.relations[0].margin == pytest.approx(56 / 60)
    assert good.boxes[1].box == DOG and 0.7 < good.score < 0.8  # times the lower confidence
    wrong = judge(parsed, found(("cat", 0.9, DOG), ("dog", 0.8, CAT)), SIZE)
    assert not wrong.passed and wrong.score < 0.1
    assert wrong.relations[0].reason == "cat left of dog is not what the boxes show"
    missing = judge(parsed, found(("cat", 0.9, CAT), ("dog", 0.25, DOG)), SIZE)
    assert missing.missing == (1,) and missing.relations[0].reason == "not found: dog" and missing.score == 0
    assert judge(parsed, found(("cat", 0.9, CAT), ("dog", 0.25, DOG)), SIZE, rule="visor").passed
    with pytest.raises(ValueError, match="rule is 'strict'"):
        judge(parsed, [], SIZE, rule="strict")


def test_two_things_of_one_name_get_two_boxes():
    parsed = parse_prompt("a cat to the right of a cat")
    verdict = judge(parsed, found(("cat", 0.9, CAT), ("cat", 0.6, DOG)), SIZE)
    assert verdict.passed and verdict.boxes[0].box == DOG and verdict.boxes[1].box == CAT
    alone = judge(parsed, found(("cat", 0.9, CAT)), SIZE)
    assert not alone.passed and len(alone.missing) == 1


def test_numbers_are_counted():
    parsed = parse_prompt("two cats left of a dog")
    one = found(("cats", 0.9, CAT), ("dog", 0.8, DOG))
    assert judge(parsed, one, SIZE).missing == (0,)
    assert judge(parsed, [*one, Detected("cats", 0.5, CAT)], SIZE).passed


@pytest.mark.parametrize(
    ("text", "boxes", "passed"),
    [
        ("a cat left of and above a dog", [(0, 0, 20, 20), (60, 60, 80, 80)], True),
        ("a cat left of and above a dog", [(0, 0, 20, 20), (60, 0, 80, 20)], False),
        ("a cat on top of a dog", [(30, 0, 50, 20), (20, 30, 60, 60)], True),
        ("a cat on top of a dog", [(0, 0, 10, 10), (20, 30, 60, 60)], False),
        ("a cat inside a dog", [(30, 30, 40, 40), (20, 20, 60, 60)], True),
        ("a cat inside a dog", [(10, 30, 30, 40), (20, 20, 60, 60)], False),
        ("a cat next to a dog", [(0, 40, 20, 60), (25, 40, 45, 60)], True),
        ("a cat next to a dog", [(0, 0, 5, 5), (90, 90, 95, 95)], False),
        ("a cat between a dog and a bird", [(40, 40, 50, 50), (0, 40, 10, 50), (80, 40, 90, 50)], True),
        ("a cat between a dog and a bird", [(90, 40, 99, 50), (0, 40, 10, 50), (60, 40, 70, 50)], False),
    ],
)
def test_other_relations(text, boxes, passed):
    parsed = parse_prompt(text)
    seen = [
        Detected(entity.noun, 0.9, tuple(box)) for entity, box in zip(parsed.entities, boxes, strict=True)
    ]
    verdict = judge(parsed, seen, SIZE)
    assert verdict.passed is passed
    assert (verdict.relations[0].margin > 0) is passed or not passed


def test_what_cannot_be_told_is_not_counted_against_a_picture():
    depth = judge(parse_prompt("a cat behind a dog"), found(("cat", 0.9, CAT), ("dog", 0.9, DOG)), SIZE)
    assert depth.passed and depth.relations[0].passed is None and "in front" in depth.relations[0].reason
    parsed = parse_prompt("a castle left of a dog")
    unknown = judge(parsed, found(("dog", 0.9, DOG)), SIZE, knows=[False, True])
    assert unknown.passed and unknown.unknown == (0,) and unknown.missing == ()
    assert unknown.relations[0].reason == "the detector doesn't know castle"

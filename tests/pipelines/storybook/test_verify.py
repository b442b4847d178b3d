"""Verdicts from hand-made detections, and shares with known confidence intervals."""

from random import Random

import pytest

from pipelines.storybook.detector import Detection, Detections
from pipelines.storybook.scene import Scene, SceneObject, relation_between
from pipelines.storybook.verify import (
    Share,
    Wanted,
    WantedObject,
    assign,
    box_relation,
    one_object_right,
    place_right,
    prompt_metrics,
    relation_right,
    two_objects_right,
    verify,
)
from pipelines.storybook.vocabulary import KINDS, RELATIONS

LEFT, RIGHT, TOP = (0.05, 0.4, 0.25, 0.6), (0.7, 0.42, 0.9, 0.62), (0.1, 0.02, 0.2, 0.2)


def seen(*objects: Detection, place: str = "meadow", aspect: float = 1.0) -> Detections:
    return Detections(place, 0.9, objects, aspect)


def thing(colour: str, kind: str, box=LEFT, score: float = 0.9, pattern: str = "plain") -> Detection:
    return Detection(kind, colour, pattern, box, score)


def test_one_object_needs_kind_and_colour_on_the_same_object():
    picture = seen(thing("red", "cat"), thing("blue", "ball", RIGHT))
    assert one_object_right(picture, "cat", "red")
    assert not one_object_right(picture, "cat", "blue")
    assert one_object_right(picture, None, "blue") and one_object_right(picture, "ball", None)
    assert not one_object_right(seen(), "cat", "red")


def test_one_object_cannot_answer_for_two():
    red_cat = ("cat", "red")
    assert not two_objects_right(seen(thing("red", "cat")), red_cat, red_cat)
    assert two_objects_right(seen(thing("red", "cat"), thing("red", "cat", RIGHT)), red_cat, red_cat)
    assert not two_objects_right(seen(thing("red", "cat"), thing("blue", "ball")), red_cat, ("ball", "red"))


def test_assignment_fills_as_many_wishes_as_possible_before_it_asks_for_scores():
    cat, ball = thing("red", "cat", score=0.9), thing("red", "ball", RIGHT, score=0.5)
    # the first wish fits both and would take the surest, the second fits only that one
    assert assign(seen(cat, ball), (WantedObject(colour="red"), WantedObject(kind="cat"))) == [ball, cat]
    surer = thing("red", "cat", RIGHT, score=0.95)
    assert assign(seen(surer, cat), (WantedObject("cat"),)) == [surer]
    assert assign(seen(ball), (WantedObject("cat"), WantedObject("ball"))) == [None, ball]


def test_place():
    assert place_right(seen(place="desert"), "desert") and not place_right(seen(place="desert"), "room")


@pytest.mark.parametrize(
    ("second", "relation"),
    [(RIGHT, "left of"), (TOP, "below"), ((0.15, 0.4, 0.35, 0.6), None), ((0.6, 0.7, 0.8, 0.9), "left of")],
)
def test_relation_of_boxes(second, relation):
    opposite = {"left of": "right of", "below": "above", None: None}[relation]
    assert box_relation(LEFT, second) == relation
    assert box_relation(second, LEFT) == opposite


def test_relation_of_boxes_counts_lengths_not_shares_of_the_picture():
    first, second = (0.1, 0.1, 0.2, 0.2), (0.4, 0.45, 0.5, 0.55)  # 0.3 across and 0.35 down
    assert box_relation(first, second) == "above"
    assert box_relation(first, second, aspect=1.5) == "left of"


def test_relation_of_boxes_agrees_with_the_scenes_own_rule():
    rng, answers = Random(7), set()
    for _ in range(300):
        scene = Scene("room", (), rng.choice((1.0, 1.5, 0.667)))
        first, second = (
            SceneObject(rng.choice(KINDS), "red", "plain", "medium", rng.random(), rng.random(), 0.17)
            for _ in range(2)
        )
        boxes = [
            (b[0] / scene.width, b[1] / scene.height, b[2] / scene.width, b[3] / scene.height)
            for b in (first.box, second.box)
        ]
        expected = relation_between(first, second)
        assert box_relation(*boxes, aspect=scene.aspect) == expected
        answers.add(expected)
    assert answers == {*RELATIONS, None}


def test_relation_needs_both_objects():
    cat, ball = thing("red", "cat", LEFT), thing("blue", "ball", RIGHT)
    wish = (("cat", "red"), "left of", ("ball", "blue"))
    assert relation_right(seen(cat, ball), *wish)
    assert not relation_right(seen(cat), *wish)
    assert not relation_right(seen(cat, ball), wish[0], "right of", wish[2])


def test_verdict_names_what_is_missing():
    wanted = Wanted((WantedObject("cat", "red"), WantedObject("ball", "blue")), "meadow", "left of")
    full = seen(thing("red", "cat", LEFT), thing("blue", "ball", RIGHT))
    assert verify(full, wanted).everything
    swapped = verify(seen(thing("red", "cat", RIGHT), thing("blue", "ball", LEFT)), wanted)
    assert swapped.all_present and swapped.relation is False and not swapped.everything
    missing = verify(seen(thing("red", "cat", LEFT), place="room"), wanted)
    assert (missing.objects, missing.place, missing.relation) == ((True, False), False, False)
    modest = verify(full, Wanted((WantedObject("cat"),)))
    assert (modest.place, modest.relation, modest.everything) == (None, None, True)


def test_a_relation_without_two_objects_is_refused():
    with pytest.raises(ValueError, match="two objects"):
        Wanted((WantedObject("cat"),), relation="left of")
    with pytest.raises(ValueError, match="behind"):
        Wanted((WantedObject("cat"), WantedObject("ball")), relation="behind")


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (81, 263, 0.2553, 0.3662), (10, 10, 0.7225, 1.0)],
)
def test_wilson_interval(right, n, low, high):
    # 81 of 263: the worked example of Newcombe, Statistics in Medicine 17 (1998); the others by hand
    assert Share(right, n).interval == pytest.approx((low, high), abs=1e-4)


def test_share_leaves_out_what_was_not_asked():
    share = Share.of([True, None, False, True])
    assert (share.right, share.n, share.value) == (2, 3, pytest.approx(2 / 3))
    assert Share.of([None]).interval == (0.0, 1.0) and Share.of([None]).value == 0.0


def test_prompt_metrics_tell_conditional_from_unconditional():
    wanted = Wanted((WantedObject("cat"), WantedObject("ball")), relation="left of")
    pictures = [
        seen(thing("red", "cat", LEFT), thing("blue", "ball", RIGHT)),
        seen(thing("red", "cat", RIGHT), thing("blue", "ball", LEFT)),
        seen(thing("red", "cat", LEFT)),
        seen(),
    ]
    metrics = prompt_metrics([verify(picture, wanted) for picture in pictures])
    counts = {name: (share.right, share.n) for name, share in metrics.items()}
    assert counts == {
        "present": (2, 4),
        "objects": (5, 8),
        "place": (0, 0),
        "everything": (1, 4),
        "relation": (1, 4),
        "relation_when_present": (1, 2),
    }

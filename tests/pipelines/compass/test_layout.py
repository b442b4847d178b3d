"""Relations, their inverses, and layouts in which they hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compass.judging import judge
from pipelines.compass.layout import suggest_layout
from pipelines.compass.parser import ParsedPrompt, parse_prompt
from pipelines.compass.prompt_text import predicate_of, prompt_from_boxes
from pipelines.compass.relations import (
    DIAGONAL,
    PLAIN,
    PREDICATES,
    Entity,
    Relation,
    axis_ranks,
    axis_signs,
    contradictions,
    inverse,
)
from pipelines.compass.scoring import Detected

ASPECTS = (0.5, 1.0, 1.78)


def test_inverses_undo_themselves():
    for predicate in PREDICATES:
        opposite = inverse(predicate)
        if opposite is None:
            assert predicate in ("inside", "between")
        elif predicate != "on top of":
            assert inverse(opposite) == predicate
            assert axis_signs(opposite) == {axis: -sign for axis, sign in axis_signs(predicate).items()}
    assert inverse("left of and above") == "right of and below"


def shown(parsed, layout, aspect):
    """Whether the judge accepts a picture with exactly these boxes."""
    size = (round(1000 * aspect), 1000)
    detected = [
        Detected(
            parsed.entities[index].noun,
            0.9,
            (box[0] * size[0], box[1] * 1000, box[2] * size[0], box[3] * 1000),
        )
        for index, box in layout.items()
    ]
    return judge(parsed, detected, size).passed


@pytest.mark.parametrize("aspect", ASPECTS)
@pytest.mark.parametrize("predicate", [*PLAIN, *DIAGONAL])
def test_a_single_relation_comes_back_from_its_boxes(predicate, aspect):
    parsed = parse_prompt(f"a cat {predicate} a dog")
    layout = suggest_layout(parsed, aspect)
    assert predicate_of(layout[0], layout[1], aspect) == predicate
    assert prompt_from_boxes(parsed, layout, aspect) == parsed.text
    assert shown(parsed, layout, aspect)


@pytest.mark.parametrize(
    "text",
    [
        "a cat left of a dog and above a ball",
        "a cat left of a dog. The dog is left of a bird. The bird is left of a ball.",
        "a cat between a dog and a ball",
        "a cat inside a box",
        "a cat on top of a box, a dog left of the box",
        "a cat next to a dog",
        "a cat left of a dog, a bird above the cat, a fish below the dog",
        "a cat, a dog, a bird and a ball",
    ],
)
def test_several_relations_hold_together(text):
    parsed = parse_prompt(text)
    layout = suggest_layout(parsed, 1.0)
    assert len(layout) == len(parsed.entities)
    assert all(0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1 for box in layout.values())
    assert shown(parsed, layout, 1.0)


CHAINS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from(PLAIN)), min_size=1, max_size=3
)


@given(CHAINS, st.sampled_from(ASPECTS))
def test_layouts_stay_on_the_page_whatever_is_asked(chain, aspect):
    names = ("cat", "dog", "bird", "ball")
    asked = [Relation(a, predicate, (b,)) for a, b, predicate in chain if a != b]
    parsed = ParsedPrompt("", tuple(Entity(name, name) for name in names), tuple(asked))
    layout = suggest_layout(parsed, aspect)
    assert sorted(layout) == [0, 1, 2, 3]
    assert all(-1e-9 <= box[0] < box[2] <= 1 + 1e-9 for box in layout.values())
    assert all(-1e-9 <= box[1] < box[3] <= 1 + 1e-9 for box in layout.values())
    pairs = {frozenset((relation.subject, *relation.objects)) for relation in asked}
    if len(pairs) == len(asked) and len(asked) < 3:  # at most two pairs, each related once: always possible
        assert contradictions(asked, names) == [] and shown(parsed, layout, aspect)


def test_positions_of_single_things_are_followed():
    layout = suggest_layout(parse_prompt("a cat on the left, a dog on the right"))
    assert layout[0][2] < layout[1][0]
    with pytest.raises(ValueError, match="aspect is 0"):
        suggest_layout(parse_prompt("a cat"), 0)
    assert suggest_layout(parse_prompt("blue, serene")) == {}


def test_ranks_leave_out_what_closes_a_cycle():
    circle = [Relation(0, "left of", (1,)), Relation(1, "left of", (2,)), Relation(2, "left of", (0,))]
    assert axis_ranks(circle, 4, "x") == [0, 1, 2, None]

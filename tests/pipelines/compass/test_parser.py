"""Relations read out of prompts, the traps among them, and prompts written from relations."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.compass.parser import parse_prompt
from pipelines.compass.prompt_text import (
    FORMS,
    describe_boxes,
    predicate_of,
    prompt_from_boxes,
    to_prompt,
    with_predicate,
)
from pipelines.compass.relations import DIAGONAL, PLAIN, Relation


def relations(text):
    parsed = parse_prompt(text)
    return [parsed.describe(relation) for relation in parsed.relations]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a red cat to the left of a blue house in a meadow", ["red cat left of blue house"]),
        ("a photo of an airplane right of and above a person", ["airplane right of and above person"]),
        ("A cat is on the left side of a dog", ["cat left of dog"]),
        ("a cat on the left-hand side of a dog", ["cat left of dog"]),
        ("a bird over a house", ["bird above house"]),
        ("a fish underneath a boat", ["fish below boat"]),
        ("a fish beneath a boat", ["fish below boat"]),
        ("a cup on top of a book on a table", ["cup on top of book"]),
        ("a cat in front of a car", ["cat in front of car"]),
        ("a tree behind a house", ["tree behind house"]),
        ("a cat beside a dog", ["cat next to dog"]),
        ("a cat right next to a dog", ["cat next to dog"]),
        ("a cat inside a box", ["cat inside box"]),
        ("a cat between a dog and a bird", ["cat between dog and bird"]),
        ("between a cat and a dog is a ball", ["ball between cat and dog"]),
        ("to the left of a dog is a cat", ["cat left of dog"]),
        ("Above the house flies a bird", ["bird above house"]),
        ("to the right of the house, a tree stands", ["tree right of house"]),
        ("a cat left of a dog and above a ball", ["cat left of dog", "cat above ball"]),
        ("a cat left of a dog above a ball", ["cat left of dog", "dog above ball"]),
        ("a cat left of a dog which is above a ball", ["cat left of dog", "dog above ball"]),
        ("a cat left of a house, above which flies a bird", ["cat left of house", "bird above house"]),
        ("a cat and a dog are left of a house", ["cat left of house", "dog left of house"]),
        ("a cat and a dog to the left of a house", ["dog left of house"]),
        ("a cat on the left and a dog on the right", ["cat left of dog"]),
        ("on the left of the picture there is a cat and on the right a dog", ["cat left of dog"]),
        ("a small, red cat to the left of a dog", ["small red cat left of dog"]),
        ("a cat with a hat left of a black and white dog", ["cat with a hat left of black and white dog"]),
        ("a (red cat:1.3) to the left of a dog", ["red cat left of dog"]),
        ("cat left of dog", ["cat left of dog"]),
        ("a cat left of a cat", ["cat left of cat"]),
        ("two cats behind a tree, three birds over the tree", ["cats behind tree", "birds above tree"]),
        ("There is a red cat. It is to the left of the blue house. The house is below a star.",
         ["red cat left of blue house", "blue house below star"]),
        ("a cat chases a dog to the left of a house", ["dog left of house"]),
        ("a sign saying “left of center” above a door", ["sign saying left of center above door"]),
    ],
)  # fmt: skip
def test_relations(text, expected):
    assert relations(text) == expected


@pytest.mark.parametrize(
    ("text", "remark"),
    [
        ("the right choice", None),
        ("the cat left the room", None),
        ("what is left of the castle", "not read as a relation"),
        ("nothing left of the cake", "not read as a relation"),
        ("a sign giving right of way", "not read as a relation"),
        ("a man with a dog on his left", "seen from the thing itself"),
        ("a bird to the cat's right", "seen from the thing itself"),
        ("a person in front of the camera", "the viewer"),
        ("a cat left or right of a dog", "two choices"),
        ("a cat that is not left of a dog", "is denied"),
        ("no cat left of the dog", "must not be there"),
        ("a cat left of", "has no object"),
        ("left of a house", "has no subject"),
        ("a cat between two trees", "needs two things"),
        ("above all, a cat", "not read as a relation"),
        ("a red cat under a night sky", None),
        ("a painting done over time", "not read as a relation"),
        ("a house under construction", "not read as a relation"),
        ("a red cat in the middle of a lake", None),
        ("", None),
    ],
)
def test_words_that_only_look_like_relations(text, remark):
    parsed = parse_prompt(text)
    assert parsed.relations == ()
    messages = [item.message for item in parsed.remarks]
    assert (messages == []) if remark is None else any(remark in message for message in messages), messages
    assert all(0 <= item.start < item.end <= len(text) for item in parsed.remarks)


def test_the_rest_of_a_prompt_is_place_and_style():
    parsed = parse_prompt(
        "an oil painting of a red cat left of a dog on a beach, watercolor, highly detailed"
    )
    assert parsed.place == "on a beach"
    assert parsed.style == ("oil painting", "watercolor", "highly detailed")
    assert [(entity.article, entity.noun) for entity in parsed.entities] == [("a", "red cat"), ("a", "dog")]
    assert parse_prompt("under a night sky, a cat left of a dog").place == "under a night sky"


def test_characters_of_predicates_and_entities_are_exact():
    text = "  A red cat, watercolor: to the LEFT of a blue house!"
    parsed = parse_prompt("A red cat To The Left Of a blue house")
    relation = parsed.relations[0]
    assert parsed.text[relation.start : relation.end] == "To The Left Of"
    assert [parsed.text[e.start : e.end] for e in parsed.entities] == ["A red cat", "a blue house"]
    assert parse_prompt(text).entities[0].noun == "red cat"


def test_contradictions_are_named():
    parsed = parse_prompt("a cat left of a dog, the dog left of a bird, the bird left of the cat")
    (found,) = parsed.contradictions
    assert found.message == "cat left of dog left of bird left of cat is impossible"
    assert found.relations == (0, 1, 2)
    assert parse_prompt("a cat left of a dog, the dog above the cat").contradictions == []


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("compass", "a photo of a red cat left of an apple in a meadow, watercolor"),
        ("geneval", "a photo of a red cat left of an apple in a meadow, watercolor"),
        ("plain", "a red cat left of an apple in a meadow, watercolor"),
        ("visor", "a red cat to the left of an apple in a meadow, watercolor"),
        ("t2i", "a red cat on the left of an apple in a meadow, watercolor"),
    ],
)
def test_canonical_forms(form, expected):
    parsed = parse_prompt("a picture of a red cat, to the left of an apple in a meadow, watercolor")
    assert to_prompt(parsed, form) == expected
    again = parse_prompt(expected)
    assert [again.describe(relation) for relation in again.relations] == ["red cat left of apple"]


def test_things_are_named_once_and_those_without_relation_are_kept():
    parsed = parse_prompt("a cat left of a dog. the dog is above a ball. there is a bird.")
    assert to_prompt(parsed, "plain") == "a cat left of a dog, the dog above a ball, a bird"
    assert to_prompt(parse_prompt("a lonely cat")) == "a lonely cat"
    with pytest.raises(ValueError, match="form is 'poem'"):
        to_prompt(parsed, "poem")


@pytest.mark.parametrize("predicate", [*PLAIN, *DIAGONAL])
@pytest.mark.parametrize(
    "text", ["a cat to the left of a dog, oil", "Above a dog flies a cat", "a cat below a dog"]
)
def test_a_changed_predicate_is_read_back(text, predicate):
    changed = with_predicate(parse_prompt(text), 0, predicate)
    again = parse_prompt(changed)
    assert [relation.predicate for relation in again.relations] == [predicate]
    assert again.describe(again.relations[0]) == f"cat {predicate} dog"
    assert again.style == parse_prompt(text).style


def test_moved_boxes_change_only_the_words_between():
    text = "A red cat to the left of a blue house in a meadow. The house is below a star."
    parsed = parse_prompt(text)
    left, right, high, low = (
        (0.1, 0.4, 0.4, 0.7),
        (0.6, 0.4, 0.9, 0.7),
        (0.6, 0.0, 0.9, 0.2),
        (0.6, 0.8, 0.9, 1.0),
    )
    assert prompt_from_boxes(parsed, {0: left, 1: right, 2: high}) == text
    assert prompt_from_boxes(parsed, {0: right, 1: left}) == text.replace("to the left of", "to the right of")
    assert prompt_from_boxes(parsed, {1: right, 2: low}) == text.replace("is below", "is above")
    assert prompt_from_boxes(parsed, {}) == text
    corner = prompt_from_boxes(parsed, {0: (0.0, 0.0, 0.2, 0.2), 1: right})
    assert corner.startswith("A red cat to the left of and above a blue house")


def test_words_about_two_pairs_change_when_both_agree():
    text = "a cat and a dog are left of a house"
    parsed = parse_prompt(text)
    left, house, right = (0.0, 0.4, 0.2, 0.6), (0.4, 0.4, 0.6, 0.6), (0.8, 0.4, 1.0, 0.6)
    assert prompt_from_boxes(parsed, {0: left, 1: left, 2: house}) == text
    assert prompt_from_boxes(parsed, {0: right, 1: right, 2: house}) == text.replace("left of", "right of")
    assert (
        prompt_from_boxes(parsed, {0: left, 1: right, 2: house}) == text
    )  # they disagree: left to the person


def test_boxes_alone_make_a_prompt():
    boxes = [(0.0, 0.4, 0.2, 0.6), (0.5, 0.4, 0.7, 0.6), (0.5, 0.7, 0.7, 0.9)]
    assert (
        describe_boxes(["cat", "apple", "ball"], boxes)
        == "a photo of a cat left of an apple, the apple above a ball"
    )
    assert describe_boxes(["cat"], boxes[:1]) == "a photo of a cat"
    assert predicate_of((0.0, 0.0, 0.1, 0.1), (0.5, 0.05, 0.6, 0.15), aspect=2.0) == "left of"
    with pytest.raises(ValueError, match="2 names were given for 3 boxes"):
        describe_boxes(["cat", "dog"], boxes)


@given(st.text(max_size=60))
def test_any_text_can_be_read(text):
    parsed = parse_prompt(text)
    for relation in parsed.relations:
        assert 0 <= relation.start <= relation.end <= len(text)
        assert relation.subject not in relation.objects
    for form in FORMS:
        assert isinstance(to_prompt(parsed, form), str)


WORDS = (
    """a the cat dog left right of to and above which is not between on in front , . his side it two 's " """
)
PIECES = st.lists(st.sampled_from(WORDS.split()), max_size=14)


@given(PIECES)
def test_any_order_of_known_words_can_be_read(words):
    parsed = parse_prompt(" ".join(words))
    assert all(
        0 <= index < len(parsed.entities) for r in parsed.relations for index in (r.subject, *r.objects)
    )


def test_limits_are_said():
    with pytest.raises(ValueError, match="at most 20000 characters"):
        parse_prompt("a" * 20_001)
    with pytest.raises(ValueError, match="predicate is 'over'"):
        Relation(0, "over", (1,))
    with pytest.raises(ValueError, match="'between' needs 2 other objects"):
        Relation(0, "between", (1,))
    with pytest.raises(ValueError, match="relation 3 of 1"):
        with_predicate(parse_prompt("a cat left of a dog"), 3, "above")

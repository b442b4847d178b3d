"""Prompts read for relations, and changed by chips and boxes."""

from __future__ import annotations

import json
import math
import time

import pytest

from studio.doors.reading import PipelineReader
from studio.errors import StudioError
from studio.reading import changed_prompt

PROMPT = "a red cat to the left of a blue house in a meadow"
LEFT, RIGHT = [0.05, 0.3, 0.25, 0.7], [0.7, 0.3, 0.95, 0.7]


def test_relations_have_words_places_and_a_layout() -> None:
    reading = PipelineReader().read(PROMPT, 1.0)
    (relation,) = reading.relations
    assert [thing.text for thing in reading.things] == ["red cat", "blue house"]
    assert PROMPT[relation.start : relation.end] == "to the left of"
    assert (relation.subject, relation.objects, relation.predicate) == (0, (1,), "left of")
    assert "above" in relation.options
    cat, house = reading.boxes[0], reading.boxes[1]
    assert cat[2] < house[0] and all(0 <= edge <= 1 for edge in cat + house)
    assert json.loads(json.dumps(reading.to_json()))["boxes"]["0"][0] == round(cat[0], 4)


def test_a_break_names_nothing_and_moves_nothing() -> None:
    prompt = "a tree BREAK a (red:1.3) cat to the left of a blue house"
    reading = PipelineReader().read(prompt, 1.0)
    assert reading.prompt == prompt and not any("BREAK" in thing.text for thing in reading.things)
    (relation,) = reading.relations
    assert (relation.text, prompt[relation.start : relation.end]) == (
        "red cat left of blue house", "to the left of",
    )  # fmt: skip


def test_what_is_impossible_or_no_relation_is_said() -> None:
    reading = PipelineReader().read("a cat left of a house, the house left of the cat", 1.0)
    assert reading.impossible[0][0] == (0, 1) and "impossible" in reading.impossible[0][1]
    assert PipelineReader().read("a red ball", 1.0).boxes == {}


def test_a_page_of_relations_is_read_in_bounded_time() -> None:
    began = time.thread_time()
    reading = PipelineReader().read("a red cat to the left of a blue house. " * 500, 1.0)
    assert time.thread_time() - began < 5
    assert len(reading.relations) == 40 and reading.boxes == {}
    assert reading.remarks[0] == "Only the first 40 of 500 relations are shown."


@pytest.mark.parametrize(
    ("change", "prompt"),
    [
        ({"relation": 0, "predicate": "above"}, "a red cat above a blue house in a meadow"),
        ({"boxes": {"0": RIGHT, "1": LEFT}}, "a red cat to the right of a blue house in a meadow"),
        ({"boxes": {"0": LEFT, "1": RIGHT}, "aspect": 2}, PROMPT),
        ({"boxes": {}}, PROMPT),
    ],
)
def test_a_change_is_written_into_the_text(change: dict[str, object], prompt: str) -> None:
    assert changed_prompt(PipelineReader(), PROMPT, change) == prompt


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({}, "relation"),
        ({"relation": "0", "predicate": "above"}, "relation"),
        ({"relation": 5, "predicate": "above"}, "predicate"),
        ({"relation": 0, "predicate": "<b>"}, "predicate"),
        ({"boxes": [1]}, "boxes"),
        ({"boxes": {"x": LEFT}}, "boxes"),
        ({"boxes": {"0": [0, 0, 0, 1]}}, "boxes"),
        ({"boxes": {"0": [0, 0, math.nan, 1]}}, "boxes"),
        ({"boxes": {"0": [0, 0, 2, 1]}}, "boxes"),
        ({"boxes": {str(n): LEFT for n in range(65)}}, "boxes"),
        ({"boxes": {"0": LEFT}, "aspect": math.inf}, "aspect"),
    ],
)
def test_changes_from_outside_are_checked(change: dict[str, object], field: str) -> None:
    with pytest.raises(StudioError) as refused:
        changed_prompt(PipelineReader(), PROMPT, change)
    assert refused.value.message.startswith(f"{field}: ") and refused.value.exit_code == 2

"""Words: what is known, what stands for what, and what is told about the rest."""

import pytest

from pipelines.storybook.vocabulary import (
    COLOUR_RGB,
    COLOURS,
    KINDS,
    KNOWN_WORDS,
    PLACE_PHRASES,
    PLACES,
    SYNONYMS,
    canonical_prompt,
    resolve,
    unknown_words,
    world_summary,
)


def test_synonyms_stand_for_words_of_the_world():
    for synonym, meaning in SYNONYMS.items():
        assert unknown_words(meaning) == [] and unknown_words(synonym) == []
        assert synonym == synonym.lower()
        if synonym not in KNOWN_WORDS:
            assert resolve(synonym.upper()) == meaning
            assert canonical_prompt(f"a {synonym}.") == f"a {meaning}."


def test_the_worlds_own_words_stand_for_themselves():
    for word in (*KINDS, *COLOURS, "striped", "small", "two"):
        assert word in KNOWN_WORDS and resolve(word) == word == canonical_prompt(word)
    assert canonical_prompt("a snowy field under a night sky") == "a snowy field under a night sky"


@pytest.mark.parametrize(
    ("prompt", "unknown"),
    [
        ("a red cat to the left of a blue house in a meadow", []),
        ("an astronaut riding a horse", ["astronaut", "riding", "horse"]),
        ("A Zebra, a zebra; and another ZEBRA!", ["zebra"]),
        ("a crimson kitten on the shore", []),
        ("l'été à 7 h", ["l'été", "à", "7", "h"]),
        ("", []),
        ("red-blue cat", []),
        ("猫", ["猫"]),
        ("2 cats, 2.5 m and 1,000 km away", ["2.5", "m", "1,000", "km"]),
    ],
)
def test_unknown_words_are_listed_once_in_order(prompt, unknown):
    assert unknown_words(prompt) == unknown


def test_only_synonyms_are_replaced():
    assert canonical_prompt("A Crimson Kitten, near  an astronaut!") == "A red cat, near  an astronaut!"


def test_decimals_are_no_counts():
    assert canonical_prompt("2 cats, 2.5 m and 1,3 km. 3. A cat") == "two cat, 2.5 m and 1,3 km. three. A cat"


def test_an_unknown_word_resolves_to_itself():
    assert resolve("Astronaut") == "astronaut"


def test_the_summary_names_kinds_colours_and_places_on_one_line():
    summary = world_summary()
    assert "\n" not in summary
    assert all(word in summary for word in (*KINDS, *COLOURS, *PLACES))


def test_tables_agree():
    assert set(COLOUR_RGB) == set(COLOURS) and set(PLACE_PHRASES) == set(PLACES)
    assert len(set(KINDS)) == 16 and len(set(COLOURS)) == 8 and len(set(PLACES)) == 6
    assert all(phrase.endswith(place) for place, phrase in PLACE_PHRASES.items())

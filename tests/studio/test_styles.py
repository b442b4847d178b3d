"""Styles add visible words of the embedded world, and give way to the prompt."""

import json
from pathlib import Path

import pytest

from pipelines.storybook import vocabulary
from studio.errors import StudioError
from studio.settings import REPOSITORY
from studio.styles import Style, find_style, load_styles

STYLES = load_styles(REPOSITORY / "assets" / "presets")


def styled(name: str, prompt: str) -> str:
    return find_style(STYLES, name).apply(prompt)[0]


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_every_style_adds_only_words_of_the_world(style: Style) -> None:
    prompt, remark = style.apply("a red ball")
    assert prompt != "a red ball" and remark == ""
    assert vocabulary.unknown_words(prompt) == []
    assert {"red", "ball", *style.words.split()} <= set(prompt.split())


def test_there_is_a_style_for_each_place_pattern_and_size() -> None:
    words = " ".join(style.words for style in STYLES)
    assert all(place in words for place in vocabulary.PLACES) and {"striped", "dotted", "small"} <= set(
        words.split()
    )
    listed = {word for style in STYLES for word in (*style.before, *style.past, *style.unless)}
    assert vocabulary.unknown_words(" ".join(sorted(listed))) == []
    assert set(vocabulary.KINDS) <= listed and set(vocabulary.COLOURS) <= listed


@pytest.mark.parametrize(
    ("name", "prompt", "result"),
    [
        ("Night", "a red cat.", "a red cat under a night sky."),
        ("snow", "a red cat", "a red cat in a snowy field"),
        (
            "Dotted",
            "An orange cat, a cat and an apple",
            "A dotted orange cat, a dotted cat and a dotted apple",
        ),
        (
            "Large",
            "an oak tree near a striped crimson mug",
            "a large oak tree near a large striped crimson mug",
        ),
    ],
)
def test_words_go_where_a_caption_has_them(name: str, prompt: str, result: str) -> None:
    assert styled(name, prompt) == result


@pytest.mark.parametrize(
    ("name", "prompt", "word"),
    [
        ("Night", "A cat on a BEACH", "BEACH"),
        ("Dotted", "a striped cat", "striped"),
        ("Small", "a huge cat", "huge"),
    ],
)
def test_the_prompt_wins_and_the_remark_says_so(name: str, prompt: str, word: str) -> None:
    style = find_style(STYLES, name)
    assert style.apply(prompt) == (
        prompt,
        f'Style {style.name} adds nothing: the prompt already says "{word}".',
    )


def test_nothing_to_describe_is_said() -> None:
    assert find_style(STYLES, "Dotted").apply("a meadow")[1].endswith("names no object it could describe.")


def test_unreadable_presets_are_one_sentence(tmp_path: Path) -> None:
    assert load_styles(tmp_path) == ()
    for content in ("{", "[]", json.dumps({"styles": [{"name": "x"}], "word_lists": {}})):
        (tmp_path / "styles.json").write_text(content)
        with pytest.raises(StudioError, match="style presets can't be read"):
            load_styles(tmp_path)

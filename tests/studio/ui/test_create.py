"""The Create screen without a browser: values in, requests and sentences out."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from studio.checks import MAX_SEED
from studio.errors import StudioError
from studio.metering import Gauge, SentenceLength
from studio.ui import create
from studio.ui.create import CUSTOM, NO_STYLE, SCALES, SHAPES, Fields
from tests.studio.painters import WordMeters


@pytest.mark.parametrize(
    ("shape", "scale", "size"),
    [
        ("Square", 256, (256, 256)),
        ("Square", 4096, (4096, 4096)),
        ("Landscape", 4096, (4096, 2304)),
        ("Landscape", 256, (256, 144)),
        ("Portrait", 1024, (576, 1024)),
    ],
)
def test_presets_have_the_longer_side_they_name(shape, scale, size):
    assert create.sides(shape, scale) == size
    assert create.preset_of(*size) == (shape, scale)


def test_every_preset_can_be_asked_for():
    for shape in SHAPES[:-1]:
        for scale in SCALES:
            request = Fields("a red ball", *create.sides(shape, scale), 0).request()
            assert (request.width, request.height) == create.sides(shape, scale)


def test_other_sizes_are_custom():
    assert create.preset_of(1024, 640) == (CUSTOM, 1024)
    assert create.preset_of(3000, 64) == (CUSTOM, 2048)


def test_fields_make_the_request_they_show():
    request = Fields("a red ball", 512.0, 256, 7.0, "Night", 6.0, "storybook").request()
    assert (request.width, request.height, request.seed, request.steps) == (512, 256, 7, 6)
    assert type(request.width) is int and request.style == "Night"
    assert Fields("a red ball", 512, 256, 7, NO_STYLE).request().style is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", math.nan), ("width", math.inf), ("width", None), ("width", ""), ("width", True),
        ("width", "512"), ("width", 512.5), ("width", 0), ("width", 100), ("height", 1e9),
        ("height", -64), ("height", [512]),
        ("seed", -1), ("seed", math.nan), ("seed", MAX_SEED + 1), ("seed", 1e400), ("steps", 0),
        ("steps", math.nan), ("steps", 10**9), ("model", ["storybook"]), ("model", "../storybook"),
        ("style", {"a": 1}),
        ("style", "<b>"), ("prompt", ""), ("prompt", "  \n"), ("prompt", None), ("prompt", "x" * 20_001),
    ],
)  # fmt: skip
def test_every_field_is_refused_by_name(field, value):
    good = {"prompt": "a red ball", "width": 512, "height": 512, "seed": 0, "style": "Night", "steps": 4}
    with pytest.raises(StudioError) as refusal:
        Fields(**{**good, field: value}).request()
    assert str(refusal.value).startswith(f"{field}: ")
    assert refusal.value.exit_code == 2


def test_a_new_seed_is_a_seed():
    seeds = {create.new_seed() for _ in range(50)}
    assert len(seeds) > 45 and all(0 <= seed <= MAX_SEED for seed in seeds)


def test_the_forecast_says_time_memory_and_stages(studio):
    text = create.forecast_html(studio, 1024, 512, 4, "storybook")
    assert "about <strong>1 s</strong>" in text and "<strong>1.1 GB</strong>" in text
    assert "1024 \u00d7 512" in text and 'data-width="1024" data-height="512"' in text


def test_the_forecast_warns_when_memory_is_short(studio, painter):
    painter.fits = False
    assert "does not have that much memory" in create.forecast_html(studio, 1024, 512, 4, "storybook")


@pytest.mark.parametrize(("width", "height"), [(math.nan, 512), (None, 512), (0, 0), (100, 100), (1e9, 1e9)])
def test_an_impossible_size_gets_a_sentence_instead_of_a_forecast(studio, width, height):
    text = create.forecast_html(studio, width, height, 4, "storybook")
    assert 'data-kind="problem"' in text and "given" in text and "t-forecast" not in text


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "1 s"),
        (7.4, "7 s"),
        (33, "35 s"),
        (99, "100 s"),
        (150, "2 min 30 s"),
        (180, "3 min"),
        (4200, "1 h 10 min"),
    ],
)
def test_durations_are_said_no_finer_than_they_are_known(seconds, said):
    assert create.duration(seconds) == said


def test_unknown_words_are_named_with_what_is_known(studio):
    text = create.prompt_html(studio, "a red astronaut", NO_STYLE, "storybook")
    assert "<b>astronaut</b>" in text and "ball, cat; red, blue; a meadow" in text
    assert create.prompt_html(studio, "a red ball", NO_STYLE, "storybook") == ""


def test_nothing_is_said_about_an_empty_prompt(studio):
    assert create.prompt_html(studio, "", NO_STYLE, "storybook") == ""
    assert create.prompt_html(studio, None, NO_STYLE, "storybook") == ""


def test_a_style_shows_what_is_painted_or_why_it_adds_nothing(studio):
    assert "Painted as: a red ball under a night sky" in create.prompt_html(
        studio, "a red ball", "Night", "storybook"
    )
    said = create.prompt_html(studio, "a red ball in a meadow", "Night", "storybook")
    assert "adds nothing" in said


def test_what_a_person_wrote_is_escaped(studio):
    hostile = '<img src=x onerror="alert(1)">'
    for text in (
        create.prompt_html(studio, hostile, NO_STYLE, "storybook"),
        create.prompt_html(studio, hostile, "Night", "storybook"),
        create.forecast_html(studio, hostile, 512, 4, "storybook"),
        create.prompt_html(studio, "a red ball", hostile, "storybook"),
        create.forecast_html(studio, 512, 512, 4, hostile),
    ):
        assert text and "<img" not in text


def test_a_prompt_that_is_too_long_is_told_at_once(studio):
    text = create.prompt_html(studio, "x" * 1_000_000, NO_STYLE, "storybook")
    assert "1,000,000 characters" in text and len(text) < 500


def length(studio, prompt, style=NO_STYLE, model="storybook"):
    return create.length_of(studio, prompt, style, model)


def test_the_length_is_told_for_each_encoder(studio):
    studio.meters = WordMeters()
    found = length(studio, "a red ball. a cat")
    t5, clip = found["gauges"]
    assert (t5["encoder"], t5["tokens"], t5["room"], t5["rows"], t5["free"]) == ("T5", 7, "of 8", [3, 2], 1)
    assert (clip["tokens"], clip["room"], clip["dropped"], clip["free"]) == (7, "of 6", 1, 0)
    assert found["said"] == "2 sentences, 0 tokens dropped; CLIP sums up the first 4."
    assert found["sentences"][1] == {"text": "a cat", "tokens": 2, "lost": ""} and not found["is_lost"]


def test_words_that_nobody_reads_are_named(studio):
    studio.meters = WordMeters()
    found = length(studio, "one two three four five six <b>seven</b> eight")
    assert (
        found["said"] == "1 sentence, 2 tokens dropped: \u201c<b>seven</b> eight\u201d" and found["is_lost"]
    )
    assert found["sentences"][0]["lost"] == "<b>seven</b> eight" and found["gauges"][0]["dropped"] == 2
    long = length(studio, "one two three four five six " + "x" * 500)
    assert long["said"].endswith("\u2026\u201d") and len(long["said"]) < 150


def test_sentences_of_a_book_are_listed_in_part(studio):
    gauge = Gauge("T5", 512, 900, (SentenceLength("a cat", 3),) * 300, 902, "blocks")
    studio.meters = SimpleNamespace(gauges=lambda *_: [gauge])
    found = length(studio, "a cat. " * 300)
    assert len(found["sentences"]) == 200 and found["more"] == 100
    assert found["gauges"][0]["rows"] == [3] * 200 + [300]
    assert found["said"] == "300 sentences, 0 tokens dropped."


def test_how_a_page_is_read_is_said(studio):
    sentence = SentenceLength("a cat", 4)
    for reading, said in (("blocks", "in blocks of 512"), ("sentences", "sentence by sentence")):
        gauge = Gauge("T5", 512, 8, (sentence, sentence), 700, reading)
        studio.meters = SimpleNamespace(gauges=lambda *_, gauge=gauge: [gauge])
        (bar,) = length(studio, "a cat. a cat.")["gauges"]
        assert (bar["room"], bar["free"], bar["tokens"]) == (said, 0, 8)


def test_the_style_counts_and_what_can_not_be_counted_is_not_shown(studio):
    studio.meters = WordMeters()
    plain, night = (length(studio, "a red ball", style) for style in (NO_STYLE, "Night"))
    assert (plain["gauges"][0]["tokens"], night["gauges"][0]["tokens"]) == (5, 9)
    for prompt in ("", "  ", None, 7, "x" * 1_000_000):
        assert length(studio, prompt) == {}
    assert length(studio, "a red ball", model="dall-e") == {}


def test_a_model_without_tokenizers_has_no_meter(studio):
    assert length(studio, "a red ball") == {}


def test_tenor_is_left_as_trained_unless_switched_off():
    assert Fields("a red ball", 512, 512, 0).request().tenor is None
    assert Fields("a red ball", 512, 512, 0, tenor=False).request().tenor is False

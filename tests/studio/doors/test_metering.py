"""Token counts of the embedded models, held against the tokenizers that painting uses."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from studio.doors.metering import PipelineMeters
from studio.settings import REPOSITORY

FLUX = REPOSITORY / "assets" / "weights" / "storybook-flux"
PROMPTS = (
    "a red ball",
    "A red cat to the left of a blue house. A green tree stands behind it! It is night.",
    "une balle rouge \u2014 \u732b \U0001f408",
    "a red ball in a meadow, " * 120,
)


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "sentences", "foreign", "long"])
def test_counts_are_those_of_the_tokenizers_that_paint(prompt):
    from transformers import AutoTokenizer

    from pipelines.storybook.vocabulary import canonical_prompt

    t5, clip = PipelineMeters().gauges(FLUX, prompt)
    text = canonical_prompt(prompt).lower()
    for gauge, part in ((t5, "tokenizer_2"), (clip, "tokenizer")):
        tokenizer = AutoTokenizer.from_pretrained(FLUX / part)
        ids = tokenizer(text, verbose=False).input_ids
        assert gauge.limit == tokenizer.model_max_length
        assert gauge.whole == gauge.tokens + gauge.dropped == len(ids)
        assert (gauge.reading == "blocks") == (gauge.limit < len(ids) and gauge.encoder == "T5")
        assert bool(gauge.lost) == bool(gauge.dropped)
    assert (t5.encoder, t5.is_summary) == ("T5", False)
    assert (clip.encoder, clip.is_summary) == ("CLIP", True)


def test_each_sentence_has_its_share():
    t5, clip = PipelineMeters().gauges(FLUX, PROMPTS[1])
    assert [sentence.text for sentence in t5.sentences] == [
        "a red cat to the left of a blue house",
        "a green tree stands behind it",
        "it is night",
    ]
    assert [one.text for one in clip.sentences] == [one.text for one in t5.sentences]
    assert all(one.tokens > 0 for one in t5.sentences)
    assert sum(one.tokens for one in t5.sentences) + 1 == t5.tokens, "T5 has an end mark"


def test_the_end_of_a_page_is_named_as_lost():
    page = "a red ball in a meadow. " * 900 + "a purple umbrella"
    t5, _ = PipelineMeters().gauges(FLUX, page)
    assert t5.dropped > 0 and t5.lost.startswith("a red ball") and len(t5.lost) <= 2000
    last = t5.sentences[-1]
    assert (last.text, last.tokens, last.lost) == ("a purple umbrella", 0, "a purple umbrella")
    assert t5.sentences[0].lost == "" and len(t5.sentences) == 901


def test_a_folder_without_tokenizers_gives_nothing(tmp_path):
    assert PipelineMeters().gauges(tmp_path, "a red ball") == []


def test_one_tokenizer_decides_alone_and_an_endless_limit_is_that_of_its_kind(tmp_path):
    part = tmp_path / "tokenizer"
    part.mkdir()
    (part / "tokenizer.json").write_bytes((FLUX / "tokenizer" / "tokenizer.json").read_bytes())
    config = {"tokenizer_class": "CLIPTokenizerFast", "model_max_length": int(1e30)}
    (part / "tokenizer_config.json").write_text(json.dumps(config))
    (gauge,) = PipelineMeters().gauges(tmp_path, "A red ball")
    assert (gauge.encoder, gauge.limit, gauge.is_summary) == ("CLIP", 77, False)


def test_seams_are_looked_for_where_there_are_tiles():
    meters = PipelineMeters()
    assert not meters.has_borders(256, 256) and meters.has_borders(1024, 1024)
    assert meters.seams(Image.new("RGB", (256, 256), "red")).ratio == 1.0

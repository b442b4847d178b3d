"""Captions say what is in a scene, in words of the world, and know which word speaks of which object."""

import re

import pytest

from pipelines.storybook.captions import (
    PLURALS,
    caption,
    is_group,
    long_caption,
    position_phrase,
    short_caption,
)
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, relation_between, sample_scene
from pipelines.storybook.vocabulary import COUNTS, PLACE_PHRASES, unknown_words

SAMPLES = 300


def samples(mix=None, seed=31):
    for index in range(SAMPLES):
        rng = sample_rng(seed, index)
        yield sample_scene(rng, mix), rng


@pytest.mark.parametrize("write", [short_caption, long_caption])
def test_every_object_is_named_with_its_colour(write):
    for scene, rng in samples():
        written = write(scene, rng)
        if is_group(scene) and write is short_caption:
            item = scene.objects[0]
            plural = PLURALS.get(item.kind, item.kind + "s")
            assert written.text.count(f"{COUNTS[len(scene.objects) - 1]} ") == 1
            assert re.search(rf"{item.colour} (\w+ )?{plural}\b", written.text)
            continue
        assert {mention.index for mention in written.mentions} == set(range(len(scene.objects)))
        for item in scene.objects:
            assert re.search(rf"\b{item.colour} (striped |dotted )?{item.kind}\b", written.text)


@pytest.mark.parametrize("write", [short_caption, long_caption])
def test_mentions_are_the_kind_words(write):
    for scene, rng in samples():
        written = write(scene, rng)
        assert written.mentions
        for mention in written.mentions:
            kind = scene.objects[mention.index].kind
            assert written.text[mention.start : mention.end] in (kind, PLURALS.get(kind, kind + "s"))


def test_all_words_are_known_to_the_world():
    for long_share in (0.0, 1.0):
        for scene, rng in samples(SceneMix(counts=(0.3, 0.4, 0.3))):
            assert unknown_words(caption(scene, rng, long_share).text) == []


def test_relations_in_captions_are_those_of_the_scene():
    phrases = {"to the left of": "left of", "left of": "left of", "to the right of": "right of",
               "right of": "right of", "above": "above", "below": "below", "under": "below"}  # fmt: skip
    found = 0
    for scene, rng in samples(SceneMix(counts=(0.0, 1.0, 0.0), groups=0.0)):
        written = short_caption(scene, rng)
        first, second = written.mentions[0], written.mentions[1]
        between = written.text[first.end : second.start]
        match = re.match(
            r"^ (to the left of|left of|to the right of|right of|above|below|under) an? ", between
        )
        if match:
            found += 1
            a, b = scene.objects[first.index], scene.objects[second.index]
            assert relation_between(a, b) == phrases[match[1]]
    assert found > SAMPLES / 4


def test_articles_fit():
    for scene, rng in samples():
        text = caption(scene, rng, 0.3).text.lower()
        assert not re.search(r"\ba [aeiou]", text) and not re.search(r"\ban [^aeiou]", text), text


def test_places_are_named_mostly_in_short_and_always_in_long_captions():
    named = 0
    for scene, rng in samples():
        place = PLACE_PHRASES[scene.place]
        named += place in short_caption(scene, rng).text
        assert place.split(" ", 1)[1] in long_caption(scene, rng).text
    assert 0.85 < named / SAMPLES < 1.0


def test_long_captions_are_sentences():
    lengths = []
    for scene, rng in samples():
        text = long_caption(scene, rng).text
        sentences = re.findall(r"[^.]+\.", text)
        assert "".join(sentences) == text and all(s.strip()[0].isupper() for s in sentences)
        lengths.append(len(sentences))
    assert min(lengths) >= 3 and max(lengths) >= 8


def test_sizes_and_patterns_are_named_only_where_they_are_uncommon():
    item = SceneObject("cat", "orange", "striped", "large", 0.5, 0.6, 0.2)
    plain = SceneObject("cat", "red", "plain", "medium", 0.5, 0.6, 0.2)
    texts = {short_caption(Scene("room", (item,)), sample_rng(0, i)).text for i in range(60)}
    assert any("a large orange striped cat" in text for text in texts)
    assert any("an orange cat" in text for text in texts)
    for index in range(60):
        text = short_caption(Scene("room", (plain,)), sample_rng(0, index)).text
        assert "plain" not in text and "medium" not in text


@pytest.mark.parametrize(
    ("x", "y", "phrase"),
    [(0.2, 0.5, "on the left"), (0.8, 0.5, "on the right"), (0.5, 0.2, "at the top"),
     (0.5, 0.6, "in the middle"), (0.37, 0.6, "")],
)  # fmt: skip
def test_positions_are_named_where_they_are_clear(x, y, phrase):
    item = SceneObject("cat", "red", "plain", "medium", x, y, 0.1)
    assert position_phrase(Scene("room", (item,)), item) == phrase


def test_the_same_generator_writes_the_same_caption():
    (scene, _), *_ = samples()
    assert caption(scene, sample_rng(3, 3)) == caption(scene, sample_rng(3, 3))
    assert len({caption(scene, sample_rng(3, index)).text for index in range(20)}) > 3

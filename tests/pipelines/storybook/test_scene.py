"""Scenes as data: layout, the held-out split, and strict relations."""

from collections import Counter
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.scene import (
    AIRBORNE,
    EXTENTS,
    Scene,
    SceneMix,
    SceneObject,
    has_held_out,
    is_held_out_pair,
    is_held_out_triple,
    relation_between,
    sample_scene,
)
from pipelines.storybook.vocabulary import COLOURS, KINDS, PATTERNS, PLACES, RELATIONS

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", None: None}


def scenes(count=400, mix=None, seed=17):
    return [sample_scene(sample_rng(seed, index), mix) for index in range(count)]


def thing(kind="ball", x=0.5, y=0.5, scale=0.1, colour="red"):
    return SceneObject(kind, colour, "plain", "medium", x, y, scale)


def test_training_never_draws_a_held_out_combination_and_evaluation_always_does():
    for scene in scenes():
        assert not has_held_out(scene)
        assert not any(is_held_out_pair(item.colour, item.kind) for item in scene.objects)
        for first, second in combinations(scene.objects, 2):
            for a, b in ((first, second), (second, first)):
                relation = relation_between(a, b)
                assert relation is None or not is_held_out_triple(a.kind, relation, b.kind)
    held_out = scenes(200, SceneMix(held_out=True))
    assert all(has_held_out(scene) for scene in held_out)
    for_pairs = [any(is_held_out_pair(o.colour, o.kind) for o in scene.objects) for scene in held_out]
    assert 0 < sum(for_pairs) < len(for_pairs)  # some are held out for a pair, some for a relation


def test_about_a_tenth_is_held_out_and_every_kind_and_colour_is_still_seen():
    pairs = [(colour, kind) for colour in COLOURS for kind in KINDS if is_held_out_pair(colour, kind)]
    assert 0.05 < len(pairs) / (len(COLOURS) * len(KINDS)) < 0.16
    assert max(Counter(colour for colour, _ in pairs).values()) < len(KINDS)
    assert max(Counter(kind for _, kind in pairs).values()) < len(COLOURS)
    triples = [is_held_out_triple(a, r, b) for a in KINDS for b in KINDS if a != b for r in RELATIONS]
    assert 0.05 < sum(triples) / len(triples) < 0.16


def test_a_relation_is_held_out_from_both_sides():
    for first, second in combinations(KINDS, 2):
        for relation in RELATIONS:
            opposite = OPPOSITE[relation]
            held_out = is_held_out_triple(first, relation, second)
            assert held_out == is_held_out_triple(second, opposite, first)


def test_objects_stand_inside_the_picture_far_ones_first():
    for scene in scenes(mix=SceneMix(aspects=(1.0, 1.5, 0.667))):
        assert scene.place in PLACES and 1 <= len(scene.objects) <= 3
        assert scene.width * scene.height == pytest.approx(1.0)
        feet = [item.box[3] for item in scene.objects]
        assert feet == sorted(feet)
        for item in scene.objects:
            left, top, right, bottom = item.box
            assert -1e-9 <= left < right <= scene.width + 1e-9
            assert -1e-9 <= top < bottom <= scene.height + 1e-9
            assert item.kind in KINDS and item.colour in COLOURS and item.pattern in PATTERNS


def test_objects_hardly_cover_each_other():
    for scene in scenes(mix=SceneMix(counts=(0.0, 0.5, 0.5))):
        for first, second in combinations(scene.objects, 2):
            a, b = first.box, second.box
            width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
            smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
            assert min(width, height) <= 0 or width * height <= 0.1 * smaller + 1e-9


def test_kinds_that_cannot_fly_stand_on_the_ground():
    alone = scenes(mix=SceneMix(counts=(1.0, 0.0, 0.0)))
    for scene in alone:
        (item,) = scene.objects
        if item.kind not in AIRBORNE:
            foot = item.y + EXTENTS[item.kind][1] * item.scale
            assert foot >= scene.horizon * scene.height - 0.05


def test_a_mix_is_what_it_says():
    single = scenes(100, SceneMix(counts=(1.0, 0.0, 0.0), kinds=("cat", "boat"), patterned=0.0, sized=0.0))
    items = [scene.objects[0] for scene in single]
    assert {len(scene.objects) for scene in single} == {1}
    assert {item.kind for item in items} == {"cat", "boat"}
    assert {(item.pattern, item.size) for item in items} == {("plain", "medium")}
    groups = scenes(100, SceneMix(counts=(0.0, 0.5, 0.5), groups=1.0))
    assert sum(len(scene.objects) > 1 for scene in groups) > 90
    for scene in groups:
        assert len({(item.kind, item.colour, item.pattern) for item in scene.objects}) == 1


def test_related_pairs_have_all_four_relations():
    related = scenes(200, SceneMix(counts=(0.0, 1.0, 0.0), groups=0.0, related=1.0))
    pairs = [scene.objects for scene in related if len(scene.objects) == 2]
    found = Counter(relation_between(*order) for a, b in pairs for order in ((a, b), (b, a)))
    assert found[None] < 40 and all(found[relation] > 60 for relation in RELATIONS)


@given(
    x=st.floats(-1, 1), y=st.floats(-1, 1),
    kinds=st.tuples(st.sampled_from(KINDS), st.sampled_from(KINDS)), scale=st.floats(0.05, 0.3),
)  # fmt: skip
def test_relations_are_strict_and_mutual(x, y, kinds, scale):
    first, second = thing(kinds[0], 0.0, 0.0, scale), thing(kinds[1], x, y, 0.1)
    relation = relation_between(first, second)
    assert relation_between(second, first) == OPPOSITE[relation]
    axis = 0 if abs(x) > abs(y) else 1
    margin = 0.6 * (EXTENTS[kinds[0]][axis] * scale + EXTENTS[kinds[1]][axis] * 0.1)
    distance = (x, y)[axis]
    if abs(distance) < margin:
        assert relation is None
    else:
        names = (("right of", "left of"), ("below", "above"))[axis]
        assert relation == names[distance > 0]


@pytest.mark.parametrize(
    ("x", "y", "relation"),
    [
        (0.4, 0.1, "left of"),
        (-0.4, 0.1, "right of"),
        (0.1, 0.4, "above"),
        (0.1, -0.4, "below"),
        (0.05, 0.02, None),
    ],
)
def test_relations_read_as_words_do(x, y, relation):
    assert relation_between(thing(x=0.5, y=0.5), thing(x=0.5 + x, y=0.5 + y)) == relation


def test_the_default_scene_is_square():
    assert Scene("meadow", ()).width == Scene("meadow", ()).height == 1.0

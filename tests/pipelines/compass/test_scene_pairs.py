"""Storybook scenes as SCOP sees them: accepted pairs, captions, exact masks, streams."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.compass.pair_data import FolderPairs, ScenePairs
from pipelines.compass.parser import parse_prompt
from pipelines.compass.scene_pairs import (
    object_masks,
    picture_boxes,
    relation_caption,
    relational_scene,
)
from pipelines.compass.scop import run_scop
from pipelines.compass.scop_rules import ScopParams, scop_relations
from pipelines.storybook.draw import draw_scene
from pipelines.storybook.scene import Scene, SceneObject, has_held_out, is_held_out_triple

PARAMS = ScopParams()


def test_accepted_scenes_pass_the_filter_and_avoid_what_is_held_out():
    rng = Random(5)
    for _ in range(15):
        scene, pairs = relational_scene(rng, PARAMS)
        boxes = picture_boxes(scene)
        assert not has_held_out(scene)
        for pair in pairs:
            assert list(pair.relations) == scop_relations(*boxes[[pair.first, pair.second]].tolist())
            areas = boxes[[pair.first, pair.second], 2:].prod(1)
            assert areas.sum() >= 0.2 * 512 * 512 and areas.min() >= 0.5 * areas.max()
            kinds = scene.objects[pair.first].kind, scene.objects[pair.second].kind
            for relation in pair.relations[0].replace("to the ", "").split(" and "):
                assert not is_held_out_triple(kinds[0], relation, kinds[1])


def test_captions_say_what_the_boxes_show():
    rng, forms, dropped = Random(6), set(), 0
    for _ in range(40):
        scene, pairs = relational_scene(rng, PARAMS)
        caption = relation_caption(scene, pairs, rng)
        if not caption.text:
            dropped += 1
            continue
        parsed = parse_prompt(caption.text)
        (relation,) = parsed.relations
        assert tuple(entity.text for entity in parsed.entities) == caption.names
        boxes = picture_boxes(scene)[list(caption.objects)].tolist()
        shown = [text.replace("to the ", "") for text in scop_relations(*boxes)]
        assert parsed.text[relation.start : relation.end].replace("to the ", "") in shown[: len(shown) // 2]
        assert [scene.objects[index].kind for index in caption.objects] == [
            n.split()[-1] for n in caption.names
        ]
        forms.add("to the" in caption.text)
    assert forms == {True, False} and 0 < dropped < 12


def test_masks_are_exactly_where_the_picture_changes():
    """A pixel outside an object's mask doesn't change when the object changes its colour; most inside do."""
    far = SceneObject("house", "blue", "plain", "large", 0.45, 0.5, 0.24, seed=2)
    near = SceneObject("ball", "red", "plain", "medium", 0.6, 0.62, 0.16, seed=3)
    scene = Scene("meadow", (far, near), horizon=0.5, seed=4)
    house, ball = object_masks(scene, (0, 1), 96)
    assert house.shape == (96, 96) and house.min() >= 0 and house.max() == 1
    drawn = draw_scene(scene, 96, 96).astype(int)
    for index, mask in ((0, house), (1, ball)):
        items = list(scene.objects)
        items[index] = SceneObject(**{**vars(items[index]), "colour": "yellow"})
        other = draw_scene(Scene("meadow", tuple(items), horizon=0.5, seed=4), 96, 96).astype(int)
        changed = np.abs(drawn - other).max(2) > 8
        assert not (changed & (mask < 0.01)).any()
        assert changed[mask > 0.99].mean() > 0.4
    assert (house * ball).max() < 0.3  # the ball covers the house behind it
    left, top, right, bottom = (value * 96 for value in near.box)
    rows, columns = np.nonzero(ball > 0.5)
    assert rows.min() >= top - 1 and rows.max() <= bottom + 1
    assert columns.min() >= left - 1 and columns.max() <= right + 1


class Shrink(torch.nn.Module):
    """An autoencoder of paper: eight times smaller, 16 channels."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def encode(self, x):
        small = torch.nn.functional.avg_pool2d(x, 8).repeat(1, 6, 1, 1)[:, :16]
        return type("Encoded", (), {"latent_dist": type("Dist", (), {"mean": small * self.scale})})


@pytest.mark.parametrize("params", [PARAMS, None], ids=["scop", "plain"])
def test_a_stream_gives_the_same_samples_whenever_asked(params, tmp_path):
    source = ScenePairs(Shrink(), tmp_path, 6, 3, params)
    first, again = source.batch(0, 8, True), source.batch(4, 4, True)
    assert first.latents.shape == (8, 16, 16, 16)
    assert torch.equal(first.latents[4:], again.latents) and first.texts[4:] == again.texts
    assert torch.equal(first.latents[0], first.latents[6])  # the seventh sample shows the first scene again
    assert len(set(first.texts)) > 5
    for names, masks, text in zip(first.names, first.masks, first.texts, strict=True):
        assert (names is None) == (masks is None)
        if params is None or not text:
            assert names is None
        else:
            assert all(name in text for name in names) and masks.shape == (2, 128, 128)
    assert all(mask is None for mask in source.batch(0, 8, False).masks)


def test_mined_folders_feed_the_same_recipes(write_coco, good_pair, pictures, tmp_path):
    out = tmp_path / "out"
    run_scop(write_coco(good_pair), pictures, out)
    source = FolderPairs(out, Shrink(), side_px=64)
    batch = source.batch(0, 6, True)
    assert batch.latents.shape == (6, 16, 8, 8) and source.crop == "official"
    assert set(batch.texts) <= {"a photo of a cat left of a dog", "a photo of a dog right of a cat", ""}
    row = next(index for index, text in enumerate(batch.texts) if text.startswith("a photo of a dog"))
    dog, cat = batch.masks[row]
    assert batch.names[row] == ("dog", "cat")
    columns = torch.arange(64.0)
    assert (dog.sum(0) * columns).sum() / dog.sum() > 40 > 24 > (cat.sum(0) * columns).sum() / cat.sum()
    stem = out / "masks/000000000001"
    stem.mkdir(parents=True)
    Image.new("L", (200, 200), 255).save(stem / "mask_000000000001_dog.0.png")
    assert source.batch(row, 1, True).masks[0][0].min() == 1  # a file counts instead of the box
    with pytest.raises(ValueError, match="holds no metadata.jsonl"):
        FolderPairs(tmp_path, Shrink())


def test_mirrored_lines_turn_picture_and_masks(write_coco, good_pair, pictures, tmp_path):
    from pipelines.compass.scop import ScopOutput

    out = tmp_path / "out"
    run_scop(write_coco(good_pair), pictures, out, ScopParams(profile="strict"), ScopOutput(mirror=True))
    source = FolderPairs(out, Shrink(), side_px=64)
    assert source.crop == "square"
    batch = source.batch(0, 16, True)
    columns = torch.arange(64.0)
    places = {}
    for text, names, masks in zip(batch.texts, batch.names, batch.masks, strict=True):
        if text:
            middle = [(mask.sum(0) * columns).sum() / mask.sum() for mask in masks]
            at = dict(zip(names, middle, strict=True))
            places.setdefault("cat left" in text or "dog right" in text, []).append(
                bool(at["cat"] < at["dog"])
            )
    assert all(places[True]) and not any(places[False])

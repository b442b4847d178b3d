"""Storybook scenes through SCOP's filter: relational captions and exact masks of both objects."""

from dataclasses import dataclass
from random import Random

import numpy as np
from numpy.typing import NDArray

from pipelines.compass.scop_crops import with_article
from pipelines.compass.scop_rules import ScopParams, judge_pairs, scop_relations, triples
from pipelines.storybook.canvas import Canvas
from pipelines.storybook.draw_objects import INK, draw_object
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, is_held_out_triple, sample_scene
from pipelines.storybook.vocabulary import PLACE_PHRASES

SIDE_PX = 512  # thresholds in pixels are meant for pictures of about this size
SCENES = SceneMix(counts=(0.0, 0.75, 0.25), groups=0.0, related=0.8)
CAPTION_DROPOUT = 0.1
_WITH_PLACE, _WITH_DETAILS = 0.9, 0.4
_SHADOW = 0.6  # share of INK in the colour of a contact shadow


@dataclass(frozen=True)
class ScenePair:
    """Two objects of a scene whose relation SCOP accepts; `relations` as of `scop_relations`."""

    first: int
    second: int
    relations: tuple[str, ...]


@dataclass(frozen=True)
class RelationCaption:
    """A caption and the objects it names.

    Attributes:
        text: "" when it was dropped out. names: words of the two objects, in the order of the text.
        objects: their indices in the scene.
    """

    text: str
    names: tuple[str, str]
    objects: tuple[int, int]


def picture_boxes(scene: Scene) -> NDArray[np.float64]:
    """Boxes `[N, 4]` (left, top, width, height) on a picture of 512 x 512 pixels' area."""
    boxes = np.array([item.box for item in scene.objects]).reshape(-1, 4) * SIDE_PX
    boxes[:, 2:] -= boxes[:, :2]
    return boxes


def scop_pairs(scene: Scene, params: ScopParams) -> list[ScenePair]:
    """The pairs of a scene that pass the filter and don't show a held-out triple."""
    boxes = picture_boxes(scene)
    found = []
    for first in range(len(boxes)):
        for second in range(first + 1, len(boxes)):
            a, b = scene.objects[first], scene.objects[second]
            pair = boxes[[first, second]]
            if (pair[:, 2] * pair[:, 3] < params.min_bbox_area).any():
                continue
            size = (np.array([scene.width * SIDE_PX]), np.array([scene.height * SIDE_PX]))
            verdicts = judge_pairs(pair[:1], pair[1:], np.array([a.kind != b.kind]), size, params)
            relations = scop_relations(*pair.tolist())
            if verdicts.accepted[0] and not _is_held_out(a, b, relations[0]):
                found.append(ScenePair(first, second, tuple(relations)))
    return found


def _is_held_out(first: SceneObject, second: SceneObject, relation: str) -> bool:
    plain = relation.replace("to the ", "").split(" and ")
    return any(is_held_out_triple(first.kind, part, second.kind) for part in plain)


def relational_scene(rng: Random, params: ScopParams) -> tuple[Scene, list[ScenePair]]:
    """Draw scenes until one holds an accepted pair."""
    while True:
        scene = sample_scene(rng, SCENES)
        if pairs := scop_pairs(scene, params):
            return scene, pairs


def relation_caption(scene: Scene, pairs: list[ScenePair], rng: Random) -> RelationCaption:
    """A caption of one pair: "a red cat to the left of a blue house in a meadow", or without "to the"."""
    pair = rng.choice(pairs)
    items = (scene.objects[pair.first], scene.objects[pair.second])
    full = rng.random() < _WITH_DETAILS
    first, second = (_name(item, full) for item in items)
    index = rng.randrange(len(pair.relations))
    subject, relation, other = triples(first, second, pair.relations)[index]
    is_first = index < len(pair.relations) // 2
    objects = (pair.first, pair.second) if is_first else (pair.second, pair.first)
    if rng.random() < 0.5:
        relation = relation.replace("to the ", "")
    text = f"{with_article(subject)} {relation} {with_article(other)}"
    if rng.random() < _WITH_PLACE:
        text += f" {PLACE_PHRASES[scene.place]}"
    return RelationCaption("" if rng.random() < CAPTION_DROPOUT else text, (subject, other), objects)


def _name(item: SceneObject, full: bool) -> str:
    words = [item.size] if full and item.size != "medium" else []
    words.append(item.colour)
    if full and item.pattern != "plain":
        words.append(item.pattern)
    return " ".join([*words, item.kind])


def object_masks(scene: Scene, objects: tuple[int, ...], side: int) -> NDArray[np.float32]:
    """Visible part of each object, `[K, H, W]` in [0, 1]; nearer objects cover farther ones.

    Args:
        objects: indices in the scene. side: square root of the picture's area in pixels.
    """
    count = len(scene.objects)
    cover = {index: _coverage(scene, scene.objects[index], side) for index in range(min(objects), count)}
    masks = []
    for index in objects:
        visible = cover[index]
        for nearer in range(index + 1, count):  # scenes are drawn far to near
            visible = visible * (1 - cover[nearer])
        masks.append(visible)
    return np.stack(masks).astype(np.float32)


def _coverage(scene: Scene, item: SceneObject, side: int) -> NDArray[np.float64]:
    """Share of each pixel that one object covers, from two drawings of it on grounds of different colours.

    The ground is chosen so that the contact shadow has the colour of the background and leaves no trace.
    """
    width, height = round(scene.width * side), round(scene.height * side)
    drawings = []
    for level in (0, 255):
        canvas = Canvas(np.full((height, width, 3), level, np.uint8), float(side), 0, 0)
        red, green, blue = (round((level - _SHADOW * ink) / (1 - _SHADOW)) for ink in INK)
        draw_object(canvas, item, (red, green, blue))
        drawings.append(canvas.pixels().astype(np.float64))
    return 1 - (drawings[1] - drawings[0]).mean(2) / 255

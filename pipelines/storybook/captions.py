"""Captions of scenes: short, relational and long, with a record of which words speak of which object."""

from dataclasses import dataclass
from random import Random

from pipelines.storybook.scene import Scene, SceneObject, relation_between
from pipelines.storybook.vocabulary import COUNTS, PLACE_PHRASES

PLURALS = {"fish": "fish"}
_RELATION_PHRASES = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below", "under"),
}


@dataclass(frozen=True)
class Mention:
    """Characters `start ... end - 1` of the caption speak of object `index` (its kind word)."""

    start: int
    end: int
    index: int


@dataclass(frozen=True)
class Caption:
    """A text and the kind words in it."""

    text: str
    mentions: tuple[Mention, ...]


class _Writer:
    """Collects text and mentions."""

    def __init__(self) -> None:
        self.text = ""
        self.mentions: list[Mention] = []

    def add(self, words: str) -> "_Writer":
        self.text += words
        return self

    def noun(
        self, item: SceneObject, index: int, *, full: bool, article: str = "a ", plural: bool = False
    ) -> "_Writer":
        """Article, adjectives and kind; `full` also names a size and pattern that aren't the common ones."""
        words = []
        if full and item.size != "medium":
            words.append(item.size)
        words.append(item.colour)
        if full and item.pattern != "plain":
            words.append(item.pattern)
        adjectives = " ".join(words)
        if article == "a " and adjectives[0] in "aeiou":
            article = "an "
        kind = PLURALS.get(item.kind, item.kind + "s") if plural else item.kind
        self.text += f"{article}{adjectives} "
        self.mentions.append(Mention(len(self.text), len(self.text) + len(kind), index))
        self.text += kind
        return self

    def caption(self) -> Caption:
        return Caption(self.text, tuple(self.mentions))


def position_phrase(scene: Scene, item: SceneObject) -> str:
    """Where an object stands, in words; empty when it is between two answers."""
    across, down = item.x / scene.width, item.y / scene.height
    if across < 0.32:
        return "on the left"
    if across > 0.68:
        return "on the right"
    if down < 0.3:
        return "at the top"
    if 0.42 < across < 0.58:
        return "in the middle"
    return ""


def is_group(scene: Scene) -> bool:
    """Whether all objects share kind, colour and pattern (they are then counted)."""
    looks = {(item.kind, item.colour, item.pattern) for item in scene.objects}
    return len(scene.objects) > 1 and len(looks) == 1


def short_caption(scene: Scene, rng: Random) -> Caption:
    """One sentence: objects (with relation or position where it is clear) and usually the place."""
    writer = _Writer()
    place_first = rng.random() < 0.15
    place = PLACE_PHRASES[scene.place]
    full = rng.random() < 0.75
    with_place = rng.random() < 0.93
    if place_first and with_place:
        writer.add(f"{place}, ")
    _describe(writer, scene, rng, full)
    if with_place and not place_first:
        writer.add(f" {place}")
    return writer.caption()


def _describe(writer: _Writer, scene: Scene, rng: Random, full: bool) -> None:
    objects = scene.objects
    order = list(range(len(objects)))
    rng.shuffle(order)
    if is_group(scene):
        writer.noun(objects[0], 0, full=full, article=f"{COUNTS[len(objects) - 1]} ", plural=True)
        return
    if len(objects) == 2:
        first, second = order
        relation = relation_between(objects[first], objects[second])
        if relation and rng.random() < 0.85:
            phrase = rng.choice(_RELATION_PHRASES[relation])
            writer.noun(objects[first], first, full=full).add(f" {phrase} ")
            writer.noun(objects[second], second, full=full)
            return
    for place, index in enumerate(order):
        if place:
            writer.add(" and " if place == len(order) - 1 else ", ")
        writer.noun(objects[index], index, full=full)
        where = position_phrase(scene, objects[index])
        if where and rng.random() < (0.5 if len(objects) == 1 else 0.35):
            writer.add(f" {where}")


def long_caption(scene: Scene, rng: Random) -> Caption:
    """Several sentences, each about one object or the place."""
    writer = _Writer()
    openings = ("This is a picture of {}.", "We see {}.", "The picture shows {}.", "The place is {}.")
    place = PLACE_PHRASES[scene.place].split(" ", 1)[1]
    writer.add(rng.choice(openings).format(place))
    order = list(range(len(scene.objects)))
    rng.shuffle(order)
    for index in order:
        item = scene.objects[index]
        writer.add(" There is ").noun(item, index, full=False).add(".")
        where = position_phrase(scene, item)
        sentences = [f" It is {item.pattern}." if item.pattern != "plain" else " It has no pattern."]
        if where:
            sentences.append(f" It stands {where} of the picture.")
        if item.size != "medium":
            sentences.append(f" It is {item.size}.")
        rng.shuffle(sentences)
        for sentence in sentences[: rng.randint(1, 3)]:
            writer.add(sentence)
    for first in order:
        for second in order:
            relation = (
                relation_between(scene.objects[first], scene.objects[second]) if first != second else None
            )
            if relation and rng.random() < 0.5:
                writer.add(" ").noun(scene.objects[first], first, full=False, article="The ")
                writer.add(f" is {_RELATION_PHRASES[relation][0]} ")
                writer.noun(scene.objects[second], second, full=False, article="the ").add(".")
    return writer.caption()


def caption(scene: Scene, rng: Random, long_share: float = 0.15) -> Caption:
    """A caption of a random form."""
    return long_caption(scene, rng) if rng.random() < long_share else short_caption(scene, rng)

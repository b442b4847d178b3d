"""Pages about Storybook scenes: a dozen sentences or more, each about one object, the place, or nothing much.

Objects are called by colour and kind in every sentence, so that a sentence can be read alone. What a page
states can be checked in a picture (`asked`), and most of it stands behind the first 77 tokens.
"""

from dataclasses import dataclass
from random import Random

from pipelines.storybook.captions import position_phrase
from pipelines.storybook.dataset import sample_rng
from pipelines.storybook.scene import Scene, SceneMix, SceneObject, relation_between, sample_scene
from pipelines.storybook.verify import Wanted, WantedObject
from pipelines.storybook.vocabulary import PLACE_PHRASES

SENTENCES = (12, 18)
PAGE_MIX = SceneMix(counts=(0.0, 0.5, 0.5), groups=0.0, related=0.8)
HELD_OUT_PAGES = SceneMix(counts=(0.0, 0.5, 0.5), groups=0.0, related=0.8, held_out=True)
EVALUATION_SEED = 900_021

_PLACES = (
    "The place is {}.",
    "This is a picture of {}.",
    "The page shows {}.",
    "We see {} in the background.",
)
_INTRODUCTIONS = ("There is {}.", "We see {}.", "The picture shows {}.", "On this page there is also {}.")
_RELATIONS = {"left of": "to the left of", "right of": "to the right of", "above": "above", "below": "below"}
_FILLERS = (
    "This is a page of a storybook.",
    "The picture is bright and calm.",
    "The colours in the drawing look bright and calm.",
    "The background of the picture is quiet and calm.",
    "It is a drawing and not a painting.",
    "Just a quiet thing happens in this part of the picture.",
    "We can see the scene from the front.",
    "The upper part of the picture is calm.",
    "The other part of the page is very quiet.",
    "This looks like a quiet page of the storybook.",
    "The drawing takes up the page from edge to edge.",
    "A calm scene like this is just right for a storybook.",
    "We can see the scene up close and not from far away.",
    "The lower corner of the page is set into a quiet background.",
)


@dataclass(frozen=True)
class Page:
    """A text, what a picture of it must show, and the scene it is about.

    `relation` is of the first object to the second.
    """

    text: str
    wanted: Wanted
    scene: Scene
    relation: str | None = None


def write_page(scene: Scene, rng: Random, sentences: tuple[int, int] = SENTENCES) -> Page:
    """A page about a scene, in another order and other words for every `rng`."""
    place = PLACE_PHRASES[scene.place].split(" ", 1)[1]
    units = [_about(scene, item, rng) for item in scene.objects]
    units.append([rng.choice(_PLACES).format(place)])
    relation = None
    if len(scene.objects) > 1:
        first, second = scene.objects[:2]
        relation = relation_between(first, second)
        if relation:
            units.append([f"The {_name(first)} is {_RELATIONS[relation]} the {_name(second)}."])
    missing = max(0, rng.randint(*sentences) - sum(map(len, units)))
    units += [[line] for line in rng.sample(_FILLERS, min(missing, len(_FILLERS)))]
    rng.shuffle(units)
    text = " ".join(line for unit in units for line in unit)
    objects = tuple(WantedObject(item.kind, item.colour, item.pattern) for item in scene.objects)
    return Page(text, Wanted(objects, scene.place), scene, relation)


def _about(scene: Scene, item: SceneObject, rng: Random) -> list[str]:
    """The sentences about one object, the one that brings it in first."""
    name = _name(item)
    article = "an" if name[0] in "aeiou" else "a"
    details = [f"The {name} has no pattern." if item.pattern == "plain" else f"The {name} is {item.pattern}."]
    where = position_phrase(scene, item)
    if where:
        details.append(f"The {name} stands {where} of the picture.")
    if item.size != "medium":
        details.append(f"The {name} is {item.size}.")
    rng.shuffle(details)
    return [rng.choice(_INTRODUCTIONS).format(f"{article} {name}"), *details]


def _name(item: SceneObject) -> str:
    return f"{item.colour} {item.kind}"


def page_of(seed: int, index: int, mix: SceneMix = PAGE_MIX) -> Page:
    """Page `index` of a seeded stream."""
    rng = sample_rng(seed, index)
    return write_page(sample_scene(rng, mix), rng)


def held_out_pages(count: int) -> list[Page]:
    """The pages that evaluations are taken on: scenes with combinations that training never draws."""
    return [page_of(EVALUATION_SEED, index, HELD_OUT_PAGES) for index in range(count)]

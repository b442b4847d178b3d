"""Prompts about two objects of the Storybook world, from either side of the held-out split."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from pipelines.compass.scop_crops import with_article
from pipelines.storybook.scene import is_held_out_pair, is_held_out_triple
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES, RELATIONS


@dataclass(frozen=True)
class SpatialPrompt:
    """A prompt and what it asks for: names ("red cat"), and the plain relation of the first to the second."""

    text: str
    names: tuple[str, str]
    relation: str


def spatial_prompts(
    count: int, held_out: bool, seed: int = 73, kinds: Sequence[str] = KINDS
) -> list[SpatialPrompt]:
    """The first prompts of a seeded list; a longer list begins with the shorter one.

    Args:
        held_out: True: the triple (kind, relation, kind) or one of the colours and kinds was never drawn in
            training; False: all of them may have been.
    """
    rng = Random(f"{seed}/{held_out}")
    found: list[SpatialPrompt] = []
    while len(found) < count:
        first, second = rng.sample(list(kinds), 2)
        colours = rng.choice(COLOURS), rng.choice(COLOURS)
        relation, place = rng.choice(RELATIONS), rng.choice(PLACES)
        unseen = is_held_out_triple(first, relation, second) or any(
            is_held_out_pair(colour, kind) for colour, kind in zip(colours, (first, second), strict=True)
        )
        if unseen == held_out:
            names = (f"{colours[0]} {first}", f"{colours[1]} {second}")
            phrase = f"to the {relation}" if relation in ("left of", "right of") else relation
            text = f"{with_article(names[0])} {phrase} {with_article(names[1])} {PLACE_PHRASES[place]}"
            found.append(SpatialPrompt(text, names, relation))
    return found

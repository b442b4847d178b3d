"""Prompts that metrics are taken on, with what each asks for, from either side of the held-out split."""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from pipelines.storybook.scene import is_held_out_pair
from pipelines.storybook.verify import Wanted, WantedObject
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES


@dataclass(frozen=True)
class Asked:
    """A prompt and what it asks for."""

    text: str
    wanted: Wanted


def one_object_prompts(count: int, held_out: bool, seed: int = 71) -> Iterator[Asked]:
    """`a red cat in a meadow`."""
    rng = Random(f"{seed}/{held_out}")
    for _ in range(count):
        item, place = _pair(rng, held_out), rng.choice(PLACES)
        yield Asked(f"{_noun(item)} {PLACE_PHRASES[place]}", Wanted((item,), place))


def two_object_prompts(count: int, held_out: bool, seed: int = 72) -> Iterator[Asked]:
    """`a red cat and a blue house in a meadow`: other kinds, other colours; held out: at least the first."""
    rng = Random(f"{seed}/{held_out}")
    for _ in range(count):
        first, place = _pair(rng, held_out), rng.choice(PLACES)
        second = first
        while second.kind == first.kind or second.colour == first.colour:
            second = _pair(rng, False)
        yield Asked(
            f"{_noun(first)} and {_noun(second)} {PLACE_PHRASES[place]}", Wanted((first, second), place)
        )


def _pair(rng: Random, held_out: bool) -> WantedObject:
    while True:
        colour, kind = rng.choice(COLOURS), rng.choice(KINDS)
        if is_held_out_pair(colour, kind) == held_out:
            return WantedObject(kind, colour)


def _noun(item: WantedObject) -> str:
    assert item.colour is not None and item.kind is not None
    return f"{'an' if item.colour[0] in 'aeiou' else 'a'} {item.colour} {item.kind}"

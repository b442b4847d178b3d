"""Prompts about two objects: of the Storybook world, from either side of the held-out split, or from a file.

Files may be those of three benchmarks, or plain text with one prompt per line.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from pipelines.compass.parser import ParsedPrompt, parse_prompt
from pipelines.compass.relations import ABOVE, BELOW, LEFT, NEXT, PLAIN, RIGHT, Entity, Relation
from pipelines.compass.scop_crops import with_article
from pipelines.storybook.scene import is_held_out_pair, is_held_out_triple
from pipelines.storybook.vocabulary import COLOURS, KINDS, PLACE_PHRASES, PLACES, RELATIONS


@dataclass(frozen=True)
class SpatialPrompt:
    """A prompt and what it asks for.

    Attributes:
        text: as it is painted. names: of the two objects that scores are about ("red cat").
        relation: of the first to the second: plain, or "next to".
        parsed: all that it says, where that is more.
    """

    text: str
    names: tuple[str, str]
    relation: str
    parsed: ParsedPrompt | None = None

    @property
    def reading(self) -> ParsedPrompt:
        """The prompt for `judging.judge`."""
        if self.parsed is not None:
            return self.parsed
        entities = tuple(Entity(name, name) for name in self.names)
        return ParsedPrompt(self.text, entities, (Relation(0, self.relation, (1,)),))

    @property
    def asked(self) -> tuple[str, ...]:
        """Everything that a detector has to look for."""
        nouns = (entity.noun for entity in self.parsed.entities) if self.parsed is not None else ()
        return tuple(dict.fromkeys((*self.names, *nouns)))


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


# T2I-CompBench: "a cat on side of a key"
_T2I_WORDS = {
    "on the left of": LEFT, "on the right of": RIGHT, "on the top of": ABOVE, "on the bottom of": BELOW,
    "next to": NEXT, "near": NEXT, "on side of": NEXT,
}  # fmt: skip
_T2I_LINE = re.compile(rf"an? (.+?) ({'|'.join(_T2I_WORDS)}) an? (.+?)\.?", re.IGNORECASE)


def read_prompts(path: Path | str) -> list[SpatialPrompt]:
    """Prompts of a file, in its order.

    * VISOR (arXiv 2212.10015), a JSON list: the prompts with a relation; "and" and single objects are left
      out, as its scores leave them out.
    * GenEval (arXiv 2310.11513), JSON lines: those tagged "position".
    * Plain text, one prompt per line, T2I-CompBench's among them (arXiv 2307.06350): every line must say that
      one thing is left of, right of, above, below or next to another. Empty lines are left out.

    Raises:
        ValueError: the file can't be read, holds no such prompt, or a line says nothing of the kind.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read ({error})") from None
    try:
        if text.lstrip().startswith("["):
            found = list(_visor_prompts(json.loads(text)))
        elif text.lstrip().startswith("{"):
            found = list(_geneval_prompts([json.loads(line) for line in text.splitlines() if line.strip()]))
        else:
            lines = enumerate(text.splitlines(), start=1)
            found = [_line_prompt(line.strip(), number) for number, line in lines if line.strip()]
    except (KeyError, IndexError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} has none of the known formats ({error!r})") from None
    if not found:
        raise ValueError(f"{path} holds no prompt about the places of two things")
    return found


def _visor_prompts(items: Sequence[Any]) -> Iterator[SpatialPrompt]:
    for item in items:
        relation = item["rel_type"].removeprefix("to the ")
        if relation in PLAIN:
            (first, *_), (second, *_) = item["obj_1_attributes"], item["obj_2_attributes"]
            yield SpatialPrompt(item["text"], (first, second), relation)


def _geneval_prompts(items: Sequence[Any]) -> Iterator[SpatialPrompt]:
    for item in items:
        if item["tag"] == "position":
            subject = next(thing for thing in item["include"] if "position" in thing)
            relation, other = subject["position"]
            yield SpatialPrompt(item["prompt"], (subject["class"], item["include"][other]["class"]), relation)


def _line_prompt(line: str, number: int) -> SpatialPrompt:
    """A line of plain text.

    Raises:
        ValueError: it says nothing that can be scored.
    """
    if match := _T2I_LINE.fullmatch(line):
        return SpatialPrompt(line, (match[1], match[3]), _T2I_WORDS[match[2].lower()])
    parsed = parse_prompt(line)
    for relation in parsed.relations:
        if relation.predicate in (*PLAIN, NEXT):
            first, second = (parsed.entities[i].noun for i in (relation.subject, relation.objects[0]))
            return SpatialPrompt(line, (first, second), relation.predicate, parsed)
    known = ", ".join(PLAIN)
    raise ValueError(
        f"line {number} says of no two things that one is {known} or {NEXT} the other: {line!r:.80}"
    )

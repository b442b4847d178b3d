"""Entities, relations between them, and whether several relations can hold at once.

Plain Python: the studio reads prompts with it while somebody types.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

LEFT, RIGHT, ABOVE, BELOW = "left of", "right of", "above", "below"
FRONT, BEHIND, NEXT, ON_TOP, INSIDE, BETWEEN = (
    "in front of",
    "behind",
    "next to",
    "on top of",
    "inside",
    "between",
)
PLAIN = (LEFT, RIGHT, ABOVE, BELOW)
DIAGONAL = tuple(f"{across} and {down}" for across in (LEFT, RIGHT) for down in (ABOVE, BELOW))
PREDICATES = (*PLAIN, *DIAGONAL, FRONT, BEHIND, NEXT, ON_TOP, INSIDE, BETWEEN)

_OPPOSITE = {
    LEFT: RIGHT, RIGHT: LEFT, ABOVE: BELOW, BELOW: ABOVE, FRONT: BEHIND, BEHIND: FRONT, NEXT: NEXT,
}  # fmt: skip
# what a predicate says along each axis: -1, the subject comes first (left, above, in front)
_AXES: Mapping[str, tuple[tuple[str, int], ...]] = {
    LEFT: (("x", -1),), RIGHT: (("x", 1),), ABOVE: (("y", -1),), BELOW: (("y", 1),),
    FRONT: (("z", -1),), BEHIND: (("z", 1),), ON_TOP: (("y", -1),), NEXT: (), INSIDE: (), BETWEEN: (),
}  # fmt: skip
AXIS_WORDS = {"x": ("left of", "right of"), "y": ("above", "below"), "z": ("in front of", "behind")}


@dataclass(frozen=True)
class Entity:
    """Something that a prompt names.

    Attributes:
        text: its words without article ("red cat with a hat").
        noun: the part that says what it is ("red cat"), for detectors.
        article: "a", "an", "the", a number, or "".
        start, end: characters of the prompt, article included; both 0 for entities without a text.
        position: "left", "right", "top", "bottom" or "middle" where the prompt places it in the picture.
    """

    text: str
    noun: str
    article: str = "a"
    start: int = 0
    end: int = 0
    position: str | None = None

    @property
    def phrase(self) -> str:
        """With its article."""
        return f"{self.article} {self.text}".strip()


@dataclass(frozen=True)
class Relation:
    """A statement about two entities (three for "between").

    Attributes:
        subject, objects: indices of entities. predicate: one of `PREDICATES`.
        start, end: characters of the predicate in the prompt; both 0 for relations without a text.
    Raises:
        ValueError: an unknown predicate, the wrong number of objects, or a relation of a thing to itself.
    """

    subject: int
    predicate: str
    objects: tuple[int, ...]
    start: int = 0
    end: int = 0

    def __post_init__(self) -> None:
        if self.predicate not in PREDICATES:
            raise ValueError(f"predicate is {self.predicate!r}; it must be one of {PREDICATES}")
        wanted = 2 if self.predicate == BETWEEN else 1
        if len(self.objects) != wanted or len({self.subject, *self.objects}) != wanted + 1:
            raise ValueError(
                f"{self.predicate!r} needs {wanted} other objects, got {self.subject} and {self.objects}"
            )


def inverse(predicate: str) -> str | None:
    """What the object is to the subject; None where there is no word for it ("inside", "between")."""
    parts = predicate.split(" and ")
    if predicate == ON_TOP:
        return BELOW
    if any(part not in _OPPOSITE for part in parts):
        return None
    return " and ".join(_OPPOSITE[part] for part in parts)


def axis_signs(predicate: str) -> dict[str, int]:
    """Axis -> -1 (the subject is left of, above or in front of the object) or 1."""
    return {axis: sign for part in predicate.split(" and ") for axis, sign in _AXES[part]}


def combine(predicates: Sequence[str]) -> str | None:
    """ "left of" and "above" as "left of and above", across first; None when they don't combine."""
    across = [part for part in predicates if part in (LEFT, RIGHT)]
    down = [part for part in predicates if part in (ABOVE, BELOW)]
    if len(predicates) == 2 and len(across) == len(down) == 1:
        return f"{across[0]} and {down[0]}"
    return None


@dataclass(frozen=True)
class Contradiction:
    """Relations (indices) that can't all hold, and a sentence about them."""

    relations: tuple[int, ...]
    message: str


def contradictions(relations: Sequence[Relation], names: Sequence[str]) -> list[Contradiction]:
    """Cycles along an axis: A left of B, B left of C, C left of A.

    Args:
        names: of the entities, for the sentences.
    Returns:
        One for each axis on which the relations have a cycle, with the relations of a shortest one.
    """
    found = []
    for axis in AXIS_WORDS:
        edges = list(_edges(relations, axis))
        cycle = _shortest_cycle(edges)
        if cycle:
            word = AXIS_WORDS[axis][0]
            chain = [names[edges[cycle[0]][0]], *(names[edges[index][1]] for index in cycle)]
            indices = tuple(dict.fromkeys(edges[index][2] for index in cycle))
            found.append(Contradiction(indices, f"{f' {word} '.join(chain)} is impossible"))
    return found


def _edges(relations: Sequence[Relation], axis: str) -> Iterable[tuple[int, int, int]]:
    """(before, after, relation) along an axis."""
    for index, relation in enumerate(relations):
        sign = axis_signs(relation.predicate).get(axis)
        if sign is not None:
            first, second = relation.subject, relation.objects[0]
            yield (first, second, index) if sign < 0 else (second, first, index)


def _shortest_cycle(edges: Sequence[tuple[int, int, int]]) -> list[int]:
    """Indices of edges that close a shortest cycle; empty when there is none."""
    best: list[int] = []
    for start, edge in enumerate(edges):
        paths, seen = [[start]], {edge[1]}
        while paths:
            path = paths.pop(0)
            at = edges[path[-1]][1]
            if at == edge[0]:
                if not best or len(path) < len(best):
                    best = path
                break
            for index, (before, after, _) in enumerate(edges):
                if before == at and (after not in seen or after == edge[0]):
                    seen.add(after)
                    paths.append([*path, index])
    return best


def axis_ranks(relations: Sequence[Relation], count: int, axis: str) -> list[int | None]:
    """Rank of each entity along an axis (longest path from the start), None where nothing is said of it.

    Relations that close a cycle are left out, later ones first.
    """
    kept: list[tuple[int, int, int]] = []
    for edge in _edges(relations, axis):
        if not _shortest_cycle([*kept, edge]):
            kept.append(edge)
    ranks: list[int | None] = [None] * count
    for before, after, _ in kept:
        ranks[before], ranks[after] = 0, 0
    for _ in kept:
        for before, after, _ in kept:
            ranks[after] = max(ranks[after] or 0, (ranks[before] or 0) + 1)
    return ranks

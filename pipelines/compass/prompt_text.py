"""Writing relations: canonical prompts, a predicate changed in a prompt, text for boxes that were moved."""

import itertools
from collections.abc import Mapping, Sequence

from pipelines.compass.lexicon import (
    ADVERBS,
    DETERMINERS,
    OPENERS,
    PICTURES,
    RELATIVE,
    VERBS,
    Token,
    tokenize,
)
from pipelines.compass.parser import ParsedPrompt
from pipelines.compass.relations import DIAGONAL, PLAIN, Entity, Relation
from pipelines.compass.scop_crops import with_article
from pipelines.compass.scop_rules import scop_relations

FORMS = ("compass", "plain", "visor", "geneval", "t2i")
Box = Sequence[float]
_T2I = {
    "left of": "on the left of",
    "right of": "on the right of",
    "above": "on the top of",
    "below": "on the bottom of",
}
# words that a prompt may lose without saying less
_GLUE = ADVERBS | DETERMINERS | OPENERS | PICTURES | RELATIVE | VERBS | {"of", "but"}


def phrase_of(predicate: str, form: str = "compass") -> str:
    """How a form says a predicate: "left of" is "to the left of" for VISOR, "on the left of" for "t2i"."""
    parts = predicate.split(" and ")
    if form == "visor":
        parts = [f"to the {part}" if part in ("left of", "right of") else part for part in parts]
    elif form == "t2i":
        parts = [_T2I.get(part, part) for part in parts]
    return " and ".join(parts)


def to_prompt(parsed: ParsedPrompt, form: str = "compass") -> str:
    """The prompt in the words that CoMPaSS weights were trained on.

    Args:
        form: "compass" and "geneval": "a photo of a cat left of a dog"; "plain": without "a photo of";
            "visor": "a cat to the left of a dog"; "t2i": "a cat on the left of a dog". Place and style
            follow.
    Returns:
        The prompt as it was when it holds no relation.
    Raises:
        ValueError: an unknown form.
    """
    if form not in FORMS:
        raise ValueError(f"form is {form!r}; it must be one of {FORMS}")
    if not parsed.relations:
        return parsed.text
    named: set[int] = set()
    clauses = [_clause(parsed, relation, form, named) for relation in parsed.relations]
    clauses += [
        _noun(entity, index, named) for index, entity in enumerate(parsed.entities) if index not in named
    ]
    text = ", ".join(clauses)
    if form in ("compass", "geneval"):
        text = f"a photo of {text}"
    if parsed.place:
        text += f" {parsed.place}"
    return ", ".join([text, *parsed.style])


def rephrased(parsed: ParsedPrompt, form: str = "compass") -> str | None:
    """The prompt in a form's words where these say as much; None where they don't.

    A prompt of several sentences has no such form, nor has one whose words would not all come back: a denial,
    a position in the picture, a weight.

    Raises:
        ValueError: an unknown form.
    """
    canonical = to_prompt(parsed, form)
    tokens = tokenize(parsed.text)
    sentences = sum(mark.word in ".!?;:" and after.is_word for mark, after in itertools.pairwise(tokens))
    kept = {token.word for token in tokenize(canonical)}
    lost = (
        {token.word for token in tokens if token.is_word and not _in_predicate(token, parsed)} - kept - _GLUE
    )
    return None if sentences or lost or canonical == parsed.text else canonical


def _in_predicate(token: Token, parsed: ParsedPrompt) -> bool:
    return any(relation.start <= token.start < relation.end for relation in parsed.relations)


def _clause(parsed: ParsedPrompt, relation: Relation, form: str, named: set[int]) -> str:
    subject = _noun(parsed.entities[relation.subject], relation.subject, named)
    objects = [_noun(parsed.entities[index], index, named) for index in relation.objects]
    return f"{subject} {phrase_of(relation.predicate, form)} {' and '.join(objects)}"


def _noun(entity: Entity, index: int, named: set[int]) -> str:
    """ "a red cat" when it comes first, "the red cat" from then on."""
    if index in named:
        return f"the {entity.text}"
    named.add(index)
    return entity.phrase if entity.article else with_article(entity.text)


def with_predicate(parsed: ParsedPrompt, index: int, predicate: str) -> str:
    """The prompt with one relation said differently; all other characters stay as they were.

    Raises:
        ValueError: no such relation, or a predicate that can't replace the words that stand there.
    """
    if not 0 <= index < len(parsed.relations):
        raise ValueError(f"relation {index} of {len(parsed.relations)} was asked for")
    relation = parsed.relations[index]
    if relation.end == relation.start:
        raise ValueError("this relation comes from two positions; it has no words of its own to change")
    return _replaced(parsed.text, relation, predicate)


def _replaced(text: str, relation: Relation, predicate: str) -> str:
    """Put another predicate into a text whose characters up to the relation's end are the prompt's."""
    if predicate not in PLAIN + DIAGONAL:
        raise ValueError(f"predicate is {predicate!r}; it must be one of {PLAIN + DIAGONAL}")
    before = text[relation.start : relation.end]
    phrase = phrase_of(predicate, "visor" if before.lower().startswith(("to the", "on the")) else "compass")
    if before[:1].isupper():
        phrase = phrase[0].upper() + phrase[1:]
    return text[: relation.start] + phrase + text[relation.end :]


def predicate_of(first: Box, second: Box, aspect: float = 1.0) -> str:
    """The relation that two boxes show, by SCOP's rule.

    Args:
        first, second: (left, top, right, bottom) relative to the picture.
        aspect: width over height of the picture.
    Returns:
        A plain or diagonal predicate.
    Raises:
        ValueError: a box without extent.
    """
    boxes = [
        (box[0] * aspect, box[1], (box[2] - box[0]) * aspect, box[3] - box[1]) for box in (first, second)
    ]
    return scop_relations(*boxes)[0].replace("to the ", "")


def prompt_from_boxes(parsed: ParsedPrompt, boxes: Mapping[int, Box], aspect: float = 1.0) -> str:
    """The prompt after its boxes were moved: every relation says what its two boxes show now.

    Relations that SCOP's rule can't see (in front of, next to, on top of, inside, between) stay as they are,
    and so do words that speak of several relations whose boxes disagree.

    Args:
        boxes: entity -> (left, top, right, bottom) relative to the picture. Missing ones leave their
            relations.
    """
    shown: dict[tuple[int, int], set[str]] = {}  # words of the prompt -> what the boxes of its relations show
    for relation in parsed.relations:
        pair = (relation.subject, relation.objects[0])
        if relation.predicate in PLAIN + DIAGONAL and relation.end and all(item in boxes for item in pair):
            predicate = predicate_of(boxes[pair[0]], boxes[pair[1]], aspect)
            shown.setdefault((relation.start, relation.end), set()).add(predicate)
    text = parsed.text
    for relation in sorted(parsed.relations, key=lambda item: -item.start):  # characters before it stay
        predicates = shown.pop((relation.start, relation.end), set())
        if len(predicates) == 1 and relation.predicate not in predicates:
            text = _replaced(text, relation, predicates.pop())
    return text


def describe_boxes(names: Sequence[str], boxes: Sequence[Box], aspect: float = 1.0) -> str:
    """A prompt for named boxes alone: "a photo of a cat left of a dog, the dog above a ball".

    Each thing is related to the one before it.

    Raises:
        ValueError: names and boxes differ in number, or there are none.
    """
    if not names or len(names) != len(boxes):
        raise ValueError(f"{len(names)} names were given for {len(boxes)} boxes")
    entities = tuple(Entity(name, name, with_article(name).split(" ", 1)[0]) for name in names)
    relations = tuple(
        Relation(index, predicate_of(boxes[index], boxes[index + 1], aspect), (index + 1,))
        for index in range(len(names) - 1)
    )
    if not relations:
        return f"a photo of {entities[0].phrase}"
    return to_prompt(ParsedPrompt("", entities, relations))

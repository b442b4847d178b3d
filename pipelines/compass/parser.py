"""Reading relations out of a prompt: rules, no model, a fraction of a millisecond.

A prompt is cut at predicates ("to the left of"), conjunctions, commas and ends of sentences. What stands
between is a noun phrase: a thing where it begins with an article or takes part in a relation, else words
about style. Words that only look like a relation are left alone, and what can't be decided is remarked and
never scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.compass.lexicon import (
    ADVERBS,
    ARTICLES,
    DETERMINERS,
    MODIFIERS,
    NOUNS_IN_ING,
    OPENERS,
    PICTURES,
    PLACE_PREPOSITIONS,
    POSSESSIVES,
    PRONOUNS,
    RELATIVE,
    SCENERY,
    SCENERY_LEADS,
    VERBS,
    Token,
)
from pipelines.compass.prompt_pieces import FoundPredicate, Piece, Remark, cut
from pipelines.compass.relations import (
    BETWEEN,
    LEFT,
    Contradiction,
    Entity,
    Relation,
    combine,
    contradictions,
)

MAX_CHARACTERS = 20_000
Words = tuple[Token, ...]


@dataclass(frozen=True)
class ParsedPrompt:
    """What a prompt says about space.

    Attributes:
        text: the prompt. entities, relations: see their classes; relations hold indices of entities.
        place: where it happens ("in a meadow"), or "".
        style: the rest, in the order of the text.
        remarks: what was left out, for the person to read.
    """

    text: str
    entities: tuple[Entity, ...] = ()
    relations: tuple[Relation, ...] = ()
    place: str = ""
    style: tuple[str, ...] = ()
    remarks: tuple[Remark, ...] = ()

    @property
    def contradictions(self) -> list[Contradiction]:
        """Relations that can't all hold."""
        return contradictions(self.relations, [entity.text for entity in self.entities])

    def describe(self, relation: Relation) -> str:
        """ "red cat left of blue house"."""
        objects = " and ".join(self.entities[index].text for index in relation.objects)
        return f"{self.entities[relation.subject].text} {relation.predicate} {objects}"


def parse_prompt(text: str) -> ParsedPrompt:
    """Read a prompt.

    Raises:
        ValueError: it isn't a string, or over 20,000 characters long.
    """
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        raise ValueError(f"a prompt must be a string of at most {MAX_CHARACTERS} characters")
    pieces, remarks = cut(text)
    return _Reader(text, remarks).read(pieces)


class _Reader:
    """Turns pieces into entities and relations."""

    def __init__(self, text: str, remarks: list[Remark]) -> None:
        self.text, self.remarks = text, remarks
        self.entities: list[Entity] = []
        self.relations: list[Relation] = []
        self.place = ""
        self.style: list[str] = []
        self.topic: int | None = None  # what "it" means
        self._new_sentence()

    def _new_sentence(self) -> None:
        self.subjects: list[int] = []
        self.group: list[int] = []  # nouns joined by "and" so far
        self.last: int | None = None  # the noun before
        self.pending: list[FoundPredicate] = []  # predicates that wait for their object
        self.first_of_two: int | None = None  # of "between"
        self.fronted: tuple[list[FoundPredicate], tuple[int, ...]] | None = None  # that wait for a subject
        self.related = False  # the subject has a relation already
        self.after_and = self.after_comma = self.after_relative = self.denied = False
        self.position = ""  # of the noun to come

    def read(self, pieces: Sequence[Piece]) -> ParsedPrompt:
        for index, piece in enumerate(pieces):
            if piece.kind == "noun":
                following = next(p.kind for p in pieces[index + 1 :] if p.kind != "position")
                self._nouns(piece.tokens, following)
            elif piece.predicate is not None:
                self._predicate(piece.predicate)
            elif piece.kind == "position":
                self._set_position(piece.position)
            elif piece.kind == "end":
                self._end_sentence()
            self.after_relative |= piece.kind == "relative"
            self.after_and |= piece.kind == "and"
            self.after_comma |= piece.kind == "comma"
        self._relate_positions()
        remarks = tuple(sorted(self.remarks, key=lambda remark: remark.start))
        return ParsedPrompt(
            self.text, tuple(self.entities), tuple(self.relations), self.place, tuple(self.style), remarks
        )

    def _end_sentence(self) -> None:
        for predicate in self.pending:
            needs = "needs two things" if self.first_of_two is not None else "has no object"
            self._remark(predicate, needs)
        for predicate in self.fronted[0] if self.fronted else ():
            self._remark(predicate, "has no subject")
        if self.subjects:
            self.topic = self.subjects[0]
        self._new_sentence()

    def _remark(self, predicate: FoundPredicate, why: str) -> None:
        words = self.text[predicate.start : predicate.end]
        self.remarks.append(Remark(f"“{words}” {why}; not checked", predicate.start, predicate.end))

    def _set_position(self, position: str) -> None:
        if self.last is not None and not (self.after_comma or self.after_and):
            self.entities[self.last] = replace(self.entities[self.last], position=position)
        else:
            self.position = position

    def _predicate(self, predicate: FoundPredicate) -> None:
        if self.denied:
            predicate = replace(predicate, denied=True)
        if self.pending and (self.after_and or self.after_comma):
            self.pending.append(predicate)  # "left of and above"
        else:
            for left_over in self.pending:
                self._remark(left_over, "has no object")
            self.pending = [predicate]
            joined = self.after_and or self.after_comma
            if self.last is not None and (self.after_relative or (self.related and not joined)):
                self.subjects = [self.last]
            elif predicate.plural and len(self.group) > 1:
                self.subjects = list(self.group)
        self.after_and = self.after_comma = self.after_relative = self.denied = False

    def _nouns(self, words: Words, following: str) -> None:
        """A stretch between two cuts; a verb may stand in it with a noun on each side."""
        frame, words = _without_opening(words)
        if frame:
            self.style.append(self._text(frame))
        parts = _split_at_verbs(words)
        for index, part in enumerate(parts):
            self._noun(part, following if index == len(parts) - 1 else "verb")

    def _text(self, words: Words) -> str:
        return " ".join(self.text[token.start : token.end] for token in words)

    def _noun(self, words: Words, following: str) -> None:
        if len(words) == 1 and words[0].word in PRONOUNS:
            if self.topic is not None:
                self._take(self.topic)
            return
        words, place = _without_place(words, following)
        if place and self.place:
            self.style.append(self._text(place))
        elif place:
            self.place = self._text(place)
        if not words:
            return
        wanted = self.pending or self.fronted is not None or following in ("predicate", "relative")
        if words[0].word == "no":
            self.remarks.append(
                Remark("what must not be there is not checked", words[0].start, words[-1].end)
            )
            self.denied = True
        elif words[0].word in DETERMINERS or wanted:
            self._take(self._entity(words))
        else:
            self.style.append(self._text(words))

    def _entity(self, words: Words) -> int:
        """Index of the entity that these words name: a known one for "the", else a new one."""
        article = words[0].word if words[0].word in DETERMINERS and len(words) > 1 else ""
        body = words[1:] if article else words
        text = self._text(body)
        if article == "the":
            known = [index for index, entity in enumerate(self.entities) if _same(entity, text)]
            if known:
                return known[-1]
        noun = _head(body)
        entity = Entity(text, self._text(noun), article, words[0].start, words[-1].end, self.position or None)
        self.entities.append(entity)
        self.position = ""
        return len(self.entities) - 1

    def _take(self, index: int) -> None:
        """A noun in the flow of the sentence: the object of what is pending, or a subject."""
        if self.pending:
            self._object(index)
        elif self.fronted is not None:
            predicates, objects = self.fronted
            self.fronted = None
            self.subjects, self.group = [index], [index]
            self._relate(self.subjects, predicates, objects)
        else:
            joined = (self.after_and or self.after_comma) and not self.related
            self.group = [*self.group, index] if joined else [index]
            self.subjects, self.related = [index], False
        self.last = index
        self.after_and = self.after_comma = False

    def _object(self, index: int) -> None:
        objects: tuple[int, ...] = (index,)
        if self.pending[0].name == BETWEEN:
            if self.first_of_two is None:
                self.first_of_two = index
                return
            objects, self.first_of_two = (self.first_of_two, index), None
        if self.subjects:
            self._relate(self.subjects, self.pending, objects)
        else:  # "above the house flies a bird"
            self.fronted = (self.pending, objects)
        self.pending = []

    def _relate(
        self, subjects: Sequence[int], predicates: Sequence[FoundPredicate], objects: tuple[int, ...]
    ) -> None:
        self.related = True
        if any(predicate.denied for predicate in predicates):
            self._remark(predicates[0], "is denied")
            return
        joined = combine([predicate.name for predicate in predicates])
        if joined is not None:
            predicates = [FoundPredicate(joined, predicates[0].start, predicates[-1].end)]
        for predicate in predicates:
            for subject in subjects:
                if subject in objects:
                    self._remark(predicate, "would relate a thing to itself")
                else:
                    self.relations.append(
                        Relation(subject, predicate.name, objects, predicate.start, predicate.end)
                    )

    def _relate_positions(self) -> None:
        """ "a cat on the left and a dog on the right" relates the two."""
        left = [index for index, entity in enumerate(self.entities) if entity.position == "left"]
        right = [index for index, entity in enumerate(self.entities) if entity.position == "right"]
        if not self.relations and len(left) == len(right) == 1:
            self.relations.append(Relation(left[0], LEFT, (right[0],)))


def _without_opening(words: Words) -> tuple[Words, Words]:
    """The frame ("oil painting" of "an oil painting of") and the rest without "there is" and the like."""
    frame: Words = ()
    at = 0
    while at < len(words):
        if words[at].word in OPENERS or (at and words[at].word in VERBS):
            at += 1
            continue
        ends = [
            index
            for index in range(at, min(at + 6, len(words) - 1))
            if words[index].word in PICTURES
            and words[index + 1].word in ("of", "showing", "shows", "depicting", "depicts")
        ]
        if not ends:
            break
        named = tuple(token for token in words[at : ends[0] + 1] if token.word not in DETERMINERS)
        frame += named if len(named) > 1 else ()
        at = ends[0] + 2
    return frame, words[at:]


def _split_at_verbs(words: Words) -> list[Words]:
    """ "the house stands a tree" as "the house" and "a tree"; "a cat with a hat" stays whole."""
    parts: list[Words] = []
    start, leads = 0, MODIFIERS | PLACE_PREPOSITIONS | SCENERY_LEADS
    for index in range(1, len(words)):
        verb = words[index - 1].word in VERBS
        begins = words[index].word in (DETERMINERS if verb else ARTICLES | POSSESSIVES)
        if begins and index - start > 1 and words[index - 1].word not in leads:
            parts.append(_trimmed(words[start : index - 1]))
            start = index
    parts.append(_trimmed(words[start:]))
    return [part for part in parts if part]


def _trimmed(words: Words) -> Words:
    while words and words[-1].word in VERBS | ADVERBS:
        words = words[:-1]
    return words


def _without_place(words: Words, following: str) -> tuple[Words, Words]:
    """A noun phrase and the place at its end; the place stays in it when a predicate follows."""
    for index, token in enumerate(words):
        scenery = token.word in SCENERY_LEADS and SCENERY & {
            later.word for later in words[index + 1 : index + 4]
        }
        if token.word in PLACE_PREPOSITIONS or scenery:
            if index and following in ("predicate", "relative"):
                break
            return _trimmed(words[:index]), words[index:]
    return words, ()


def _head(words: Words) -> Words:
    """The words up to "with", "of", a place, a clause or a participle."""
    for index, token in enumerate(words[1:], start=1):
        participle = token.word.endswith("ing") and len(token.word) > 5 and token.word not in NOUNS_IN_ING
        if participle or token.word in MODIFIERS | PLACE_PREPOSITIONS | RELATIVE | VERBS | SCENERY_LEADS:
            return words[:index]
    return words


def _same(entity: Entity, text: str) -> bool:
    """Whether "the cat" can mean this "red cat"."""
    words, known = text.lower().split(), entity.text.lower().split()
    return words == known or (words[-1] == entity.noun.lower().split()[-1] and set(words) <= set(known))

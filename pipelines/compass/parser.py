"""Reading relations out of a prompt: rules, no model, a fraction of a millisecond.

A prompt is cut at predicates ("to the left of"), conjunctions, commas and ends of sentences. What stands
between is a noun phrase: a thing where it begins with an article or takes part in a relation, else words
about style. What later sentences say of a thing ("the cat is striped", "it has no pattern") is added to its
name; what they say of the page is style. Words that only look like a relation are left alone, and what can't
be decided is remarked and never scored.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from pipelines.compass.lexicon import DETERMINERS, NEGATIONS, PLACES, PRONOUNS, RELATIVE
from pipelines.compass.noun_phrases import (
    Words,
    cut_at_copula,
    head,
    is_of_the_picture,
    said_adjectives,
    split_at_verbs,
    things_in,
    without_opening,
    without_place,
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
        self.sentence = 0
        self.first_named: list[int] = []  # for each entity, in which sentence
        self.placed: dict[int, int] = {}  # entity -> the sentence that gives its position
        self._new_sentence()

    def _new_sentence(self) -> None:
        self.sentence += 1
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
            self.placed[self.last] = self.sentence
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
        frame, words = without_opening(words)
        if frame:
            self.style.append(self._text(frame))
        subject, said = cut_at_copula(words)
        parts = split_at_verbs(subject)
        if not (self.pending or self.fronted is not None or following in ("predicate", "relative")):
            parts = things_in(parts)
        if words and not parts:
            self.style.append(self._text(words))
        for index, part in enumerate(parts):
            taken = self._noun(part, following if index == len(parts) - 1 else "verb")
            if said and index == len(parts) - 1:
                self._say(taken, said)

    def _text(self, words: Words) -> str:
        return " ".join(self.text[token.start : token.end] for token in words)

    def _noun(self, words: Words, following: str) -> int | None:
        """Read a noun phrase; returns the entity that it names, if any."""
        if len(words) == 1 and words[0].word in PRONOUNS:
            if self.topic is not None:
                self._take(self.topic)
            return self.topic
        if len(words) == 1 and words[0].word in RELATIVE and self.pending and self.last is not None:
            self.subjects = []  # "a house, above which flies a bird": the subject is still to come
            self._take(self.last)
            return self.last
        words, place = without_place(words, keep_inner=following in ("predicate", "relative"))
        wanted = self.pending or self.fronted is not None or following in ("predicate", "relative")
        if words and not wanted and words[0].word != "no" and head(words)[-1].word in PLACES:
            self._set_place(self._place_of(words))  # "a meadow in the background"
            return None
        if place and is_of_the_picture(place):
            self.style.append(self._text(place))
        elif place:
            self._set_place(self._text(place))
        if not words:
            return None
        if words[0].word == "no":
            self.remarks.append(
                Remark("what must not be there is not checked", words[0].start, words[-1].end)
            )
            self.denied = True
        elif words[0].word in DETERMINERS or wanted:
            index = self._entity(words)
            self._take(index)
            return index
        else:
            self.style.append(self._text(words))
        return None

    def _place_of(self, words: Words) -> str:
        """ "a beach" as "on a beach"."""
        noun = head(words)
        return f"{PLACES[noun[-1].word]} {self._text(noun).lower()}"

    def _set_place(self, place: str) -> None:
        if not self.place:
            self.place = place
        elif place != self.place:
            self.style.append(place)

    def _say(self, index: int | None, said: Words) -> None:
        """ "is striped", "has no pattern": add to the names of what the verb speaks of."""
        if index is None:
            return
        adjectives = said_adjectives(said)
        if adjectives is not None:
            several = self.group if index in self.group else [index]
            for member in several:
                self.entities[member] = _with_adjectives(self.entities[member], adjectives)
        elif {"no", *NEGATIONS} & {token.word for token in said}:
            self.remarks.append(Remark("what must not be there is not checked", said[0].start, said[-1].end))
        elif self.first_named[index] == self.sentence:
            entity = self.entities[index]
            self.entities[index] = replace(entity, text=f"{entity.text} {self._text(said)}")

    def _entity(self, words: Words) -> int:
        """Index of the entity that these words name: a known one for "the", else a new one."""
        article = words[0].word if words[0].word in DETERMINERS and len(words) > 1 else ""
        body = words[1:] if article else words
        text = self._text(body)
        known = [index for index, entity in enumerate(self.entities) if _same(entity, text)]
        if article == "the" and known:
            return known[-1]
        if article in ("a", "an"):  # the thing that earlier sentences called "the cat" already
            for index in known:
                if self.entities[index].article == "the" and self.first_named[index] < self.sentence:
                    entity = self.entities[index]
                    self.entities[index] = replace(entity, article=_article(entity.text))
                    return index
        noun = head(body)
        entity = Entity(text, self._text(noun), article, words[0].start, words[-1].end, self.position or None)
        self.entities.append(entity)
        self.first_named.append(self.sentence)
        if self.position:
            self.placed[len(self.entities) - 1] = self.sentence
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
        """ "a cat on the left and a dog on the right" relates the two, also in two sentences running."""
        left = [index for index, entity in enumerate(self.entities) if entity.position == "left"]
        right = [index for index, entity in enumerate(self.entities) if entity.position == "right"]
        if self.relations or len(left) != 1 or len(right) != 1:
            return
        if abs(self.placed[left[0]] - self.placed[right[0]]) <= 1:
            self.relations.append(Relation(left[0], LEFT, (right[0],)))


def _same(entity: Entity, text: str) -> bool:
    """Whether "the cat" can mean this "red cat"."""
    words, known = text.lower().split(), entity.text.lower().split()
    return words == known or (words[-1] == entity.noun.lower().split()[-1] and set(words) <= set(known))


def _with_adjectives(entity: Entity, adjectives: Sequence[str]) -> Entity:
    known = entity.noun.lower().split()
    new = " ".join(word for word in dict.fromkeys(adjectives) if word not in known)
    if not new:
        return entity
    article = _article(new) if entity.article in ("a", "an") else entity.article
    return replace(entity, text=f"{new} {entity.text}", noun=f"{new} {entity.noun}", article=article)


def _article(text: str) -> str:
    return "an" if text[0].lower() in "aeiou" else "a"

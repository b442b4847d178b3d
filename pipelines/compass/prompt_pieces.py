"""Cutting a prompt at predicates, positions, conjunctions, commas and ends of sentences."""

from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.compass.lexicon import (
    ADVERBS,
    DETERMINERS,
    NEGATIONS,
    NOT_AFTER,
    NOT_BEFORE,
    PICTURES,
    PLAIN_ADJECTIVES,
    POSITIONS,
    POSSESSIVES,
    PREDICATE_PHRASES,
    RELATIVE,
    SCENERY,
    SCENERY_LEADS,
    VERBS,
    VIEWERS,
    Token,
    longest_phrase,
    tokenize,
)
from pipelines.compass.relations import BETWEEN

_OF_A_PICTURE = tuple(
    f"{start} {word} of" for start, word in
    (("on the", "left"), ("on the", "right"), ("on the", "left side"), ("on the", "right side"), ("at the",
    "top"),
     ("at the", "bottom"), ("on the", "top"), ("on the", "bottom"))
)  # fmt: skip
_QUOTES = ('"', "“", "”")


@dataclass(frozen=True)
class Remark:
    """Something that was understood as no relation, and why; `start ... end - 1` are its characters."""

    message: str
    start: int
    end: int


@dataclass(frozen=True)
class FoundPredicate:
    """A predicate in the text.

    Attributes:
        name: one of `relations.PREDICATES`. start, end: its characters.
        denied: a "not" stands before it. plural: an "are" stands before it.
    """

    name: str
    start: int
    end: int
    denied: bool = False
    plural: bool = False


@dataclass(frozen=True)
class Piece:
    """A part of a prompt.

    Attributes:
        kind: "noun", "predicate", "position", "relative" ("which is" before a predicate), "and", "comma",
            "end".
        tokens: of a noun. predicate: of a predicate. position: of a position, for instance "left".
    """

    kind: str
    tokens: tuple[Token, ...] = ()
    predicate: FoundPredicate | None = None
    position: str = ""


def cut(text: str) -> tuple[list[Piece], list[Remark]]:
    """The pieces of a prompt in order, and remarks about words that only look like relations."""
    cutter = _Cutter(tokenize(text))
    return _with_joined_adjectives(cutter.cut()), cutter.remarks


class _Cutter:
    def __init__(self, tokens: list[Token]) -> None:
        self.tokens = tokens
        self.remarks: list[Remark] = []
        self.pieces: list[Piece] = []
        self.words: list[Token] = []  # of the noun phrase that is being collected
        self.in_quotes = False

    def cut(self) -> list[Piece]:
        at = 0
        while at < len(self.tokens):
            at += self._step(at)
        self._add(Piece("end"))
        return self.pieces

    def _add(self, piece: Piece) -> None:
        if self.words:
            self.pieces.append(Piece("noun", tuple(self.words)))
            self.words = []
        self.pieces.append(piece)

    def _word(self, at: int) -> str:
        return self.tokens[at].word if 0 <= at < len(self.tokens) else ""

    def _words(self, start: int, stop: int) -> list[str]:
        return [self._word(index) for index in range(start, stop)]

    def _remark(self, at: int, count: int, why: str) -> None:
        words = " ".join(self._words(at, at + count))
        self.remarks.append(
            Remark(f"“{words}” {why}", self.tokens[at].start, self.tokens[at + count - 1].end)
        )

    def _step(self, at: int) -> int:
        """Handle what begins at token `at`; returns how many tokens that took."""
        token = self.tokens[at]
        if token.word in _QUOTES:
            rest = self._words(at + 1, len(self.tokens))
            self.in_quotes = not self.in_quotes and any(mark in rest for mark in _QUOTES)
            return 1
        if self.in_quotes:
            self.words.append(token)
            return 1
        if not token.is_word:
            return self._mark(at)
        for handle in (self._possessive, self._predicate, self._position):
            if taken := handle(at):
                return taken
        if token.word in ("and", "but", "while") and self._separates(at):
            self._add(Piece("and"))
        elif token.word in RELATIVE and self._predicate_follows(at + 1):
            self._add(Piece("relative"))
        else:
            self.words.append(token)
        return 1

    def _mark(self, at: int) -> int:
        mark, follows = self._word(at), self._word(at + 1)
        if mark == ":" and follows.isdigit():  # a weight: (cat:1.3)
            return 4 if self._word(at + 2) == "." else 2
        if mark in ".!?;:":
            self._add(Piece("end"))
        elif mark == ",":
            self._add(Piece("comma"))
        return 1

    def _separates(self, at: int) -> bool:
        """Whether the "and" at `at` ends a noun phrase; that of "black and white" doesn't."""
        last = self.pieces[-1].predicate if self.pieces else None
        between = last is not None and last.name == BETWEEN
        follows = self._word(at + 1)
        position = longest_phrase(self.tokens, at + 1, POSITIONS) is not None
        begins = follows in DETERMINERS or follows == "there" or position
        return between or begins or self._predicate_follows(at + 1)

    def _predicate_follows(self, at: int) -> bool:
        while self._word(at) in VERBS | ADVERBS | NEGATIONS:
            at += 1
        return longest_phrase(self.tokens, at, PREDICATE_PHRASES) is not None

    def _possessive(self, at: int) -> int:
        """ "on his left", "to the cat's right": a side seen from the thing, not from the picture."""
        if self._word(at) not in ("on", "to", "at", "from"):
            return 0
        ahead = self._words(at + 1, at + 5)
        side = next((index for index, word in enumerate(ahead) if word in ("left", "right")), 0)
        owner = ahead[side - 1] if side else ""
        if owner not in POSSESSIVES and not owner.endswith("'s"):
            return 0
        self._remark(at, side + 2, "may mean the side seen from the thing itself; not checked")
        self._add(Piece("comma"))
        return side + 2

    def _predicate(self, at: int) -> int:
        found = longest_phrase(self.tokens, at, PREDICATE_PHRASES)
        if found is None or self._is_no_relation(at, *found):
            return 0
        phrase, count = found
        dropped = []
        while self.words and self.words[-1].word in VERBS | ADVERBS | NEGATIONS:
            dropped.append(self.words.pop().word)
        predicate = FoundPredicate(
            PREDICATE_PHRASES[phrase],
            self.tokens[at].start,
            self.tokens[at + count - 1].end,
            denied=bool(NEGATIONS & set(dropped)),
            plural=bool({"are", "were"} & set(dropped)),
        )
        self._add(Piece("predicate", predicate=predicate))
        return count

    def _is_no_relation(self, at: int, phrase: str, count: int) -> bool:
        before, ahead = self._word(at - 1), self._words(at + count, at + count + 4)
        noun = next((word for word in ahead if word not in DETERMINERS), "")
        follows = {ahead[0], " ".join(ahead[:2])}
        if before in NOT_AFTER.get(phrase, ()) or (phrase == "left of" and self._remains(at)):
            self._remark(at, count, "was not read as a relation")
        elif follows & NOT_BEFORE.get(phrase, frozenset()):
            self._remark(at, count + 1, "was not read as a relation")
        elif "or" in (before, ahead[0]):
            self._remark(at, count, "is one of two choices; not checked")
        elif noun in VIEWERS:
            self._remark(at, count, "speaks of the viewer; not checked")
        else:  # a position in the picture, or the place where it all happens
            scenery = phrase in SCENERY_LEADS and bool(SCENERY & set(ahead[:3]))
            return scenery or (phrase in _OF_A_PICTURE and noun in PICTURES)
        return True

    def _remains(self, at: int) -> bool:
        """ "what is left of the castle" speaks of what remains."""
        return bool(NOT_AFTER["left of"] & set(self._words(max(at - 3, 0), at)))

    def _position(self, at: int) -> int:
        found = longest_phrase(self.tokens, at, POSITIONS)
        if found is None:
            return 0
        phrase, count = found
        ahead = self._words(at + count, at + count + 3)
        if ahead[0] == "of":  # "on the left of the picture", but not "in the middle of a lake"
            if not PICTURES & set(ahead[1:]):
                return 0
            count += 2 if ahead[1] in PICTURES else 3
        elif phrase.startswith("to the") and ahead[0].isalnum() and ahead[0] != "and":
            return 0  # "to the left hand"
        while self.words and self.words[-1].word in VERBS | ADVERBS:
            self.words.pop()
        self._add(Piece("position", position=POSITIONS[phrase]))
        return count


def _with_joined_adjectives(pieces: Sequence[Piece]) -> list[Piece]:
    """ "a small, red cat" is one noun phrase."""
    joined: list[Piece] = []
    for piece in pieces:
        if (
            piece.kind == "noun"
            and piece.tokens[0].word not in DETERMINERS
            and [part.kind for part in joined[-2:]] == ["noun", "comma"]
            and joined[-2].tokens[0].word in DETERMINERS
            and len(joined[-2].tokens) > 1
            and all(token.word in PLAIN_ADJECTIVES for token in joined[-2].tokens[1:])
        ):
            joined[-2:] = [Piece("noun", joined[-2].tokens + piece.tokens)]
        else:
            joined.append(piece)
    return joined

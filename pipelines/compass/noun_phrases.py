"""Noun phrases of a prompt: their heads, the places at their ends, and what a verb says of them."""

from collections.abc import Sequence

from pipelines.compass.lexicon import (
    ADVERBS,
    ARTICLES,
    COPULAS,
    DETERMINERS,
    FRAMES,
    LOOKS,
    MODIFIERS,
    NEGATIONS,
    NOUNS_IN_ING,
    OPENERS,
    PICTURES,
    PLACE_PREPOSITIONS,
    PLAIN_ADJECTIVES,
    POINTERS,
    POSSESSIVES,
    PRONOUNS,
    RELATIVE,
    SCENERY,
    SCENERY_LEADS,
    VERBS,
    Token,
)

Words = tuple[Token, ...]


def without_opening(words: Words) -> tuple[Words, Words]:
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
        left_out = DETERMINERS | PRONOUNS | VERBS | MODIFIERS
        named = tuple(token for token in words[at : ends[0] + 1] if token.word not in left_out)
        frame += named if len(named) > 1 else ()
        at = ends[0] + 2
    return frame, words[at:]


def cut_at_copula(words: Words) -> tuple[Words, Words]:
    """ "the cat is small and striped" as "the cat" and "small and striped"; the second is mostly empty.

    What follows the verb must say how a thing is. Where it names another one ("above the house is a bird"),
    nothing is cut.
    """
    for index in range(1, len(words)):
        if words[index].word not in COPULAS or words[index - 1].word in DETERMINERS - POINTERS:
            continue
        rest = words[index + 1 :]
        if rest and not (DETERMINERS - {"no"}) & {token.word for token in rest}:
            return without_trailing(words[:index], RELATIVE | ADVERBS), rest
    return words, ()


def said_adjectives(said: Words) -> tuple[str, ...] | None:
    """The adjectives that a verb says of a thing; None where the words are no such adjectives."""
    words = [token.word for token in said]
    if " ".join(words) in LOOKS:
        return (LOOKS[" ".join(words)],)
    if all(word in PLAIN_ADJECTIVES | ADVERBS | {"and", "but"} for word in words):
        return tuple(word for word in words if word in PLAIN_ADJECTIVES)
    return None


def split_at_verbs(words: Words) -> list[Words]:
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


def without_trailing(words: Words, unwanted: frozenset[str]) -> Words:
    while words and words[-1].word in unwanted:
        words = words[:-1]
    return words


def _trimmed(words: Words) -> Words:
    return without_trailing(words, VERBS | ADVERBS | NEGATIONS | {"and"})


def without_place(words: Words, keep_inner: bool) -> tuple[Words, Words]:
    """A noun phrase and the place at its end.

    Args:
        keep_inner: the place stays in the phrase unless it is all there is.
    """
    for index, token in enumerate(words):
        scenery = token.word in SCENERY_LEADS and SCENERY & {
            later.word for later in words[index + 1 : index + 4]
        }
        if token.word in PLACE_PREPOSITIONS or scenery:
            if index and keep_inner:
                break
            return _trimmed(words[:index]), words[index:]
    return words, ()


def head(words: Words) -> Words:
    """The words up to "with", "of", a place, a clause or a participle."""
    ends = MODIFIERS | PLACE_PREPOSITIONS | RELATIVE | VERBS | SCENERY_LEADS
    for index, token in enumerate(words[1:], start=1):
        participle = token.word.endswith("ing") and len(token.word) > 5 and token.word not in NOUNS_IN_ING
        if participle or token.word in ends:
            return words[:index]
    return words


def is_of_the_picture(words: Words) -> bool:
    """Whether a phrase speaks of the picture, the page or a part of it instead of a thing in it.

    "the colours in the drawing", "a page of a storybook", "in this part of the picture", "this looks like".
    """
    while words and words[0].word in ADVERBS | PLACE_PREPOSITIONS:
        words = words[1:]
    if not words:
        return False
    if words[0].word in POINTERS and (len(words) == 1 or words[1].word in VERBS):
        return True
    while len(words) > 1 and words[0].word in DETERMINERS:
        words = words[1:]
    return head(words)[-1].word in FRAMES


def things_in(parts: Sequence[Words]) -> list[Words]:
    """The parts of a stretch that speak of things; "it" isn't one beside "a drawing": it is the picture."""
    kept = [part for part in parts if not is_of_the_picture(part)]
    if len(kept) < len(parts) and all(part[0].word in PRONOUNS for part in kept):
        return []
    return kept

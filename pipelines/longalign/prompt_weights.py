"""Emphasis in prompts: `(word)`, `(word:1.3)`, nesting, `\\(` for a bracket, and `BREAK` for a segment's end.

The rules are those of the widespread prompt interfaces: `(x)` multiplies by 1.1, `(x:w)` sets w, an explicit
number inside wins over one outside, brackets without a partner are ordinary characters. Time grows linearly
with the text, whatever its brackets look like.
"""

import math
import re
from collections.abc import Callable

from pipelines.longalign.source_text import SourceText

IMPLICIT_WEIGHT = 1.1
_BRACKET = re.compile(r"\\[()]|([()])")
_ESCAPED = re.compile(r"\\[()]")
_BREAK = re.compile(r"(?<!\w)BREAK(?!\w)")
_LONGEST_NUMBER = 64  # characters behind a colon that may still be a weight


def parse_weights(prompt: str) -> SourceText:
    """The prompt without its emphasis marks, each character with its weight."""
    parts = []
    for start, end, weight in _pieces(prompt):
        literal = SourceText.plain(prompt[start:end], start, weight)
        parts.append(literal.replace(_ESCAPED, lambda mark: mark[1]))
    return SourceText.join(parts)


def weighted_pieces(prompt: str) -> list[tuple[str, float]]:
    """(text, weight) in order, neighbours of equal weight not joined."""
    return [(_ESCAPED.sub(lambda mark: mark.group()[1], prompt[s:e]), w) for s, e, w in _pieces(prompt)]


def uses_syntax(prompt: str) -> bool:
    """Whether somebody meant emphasis: a bracket with its own number, `(word:1.3)`, or the word `BREAK`.

    Plain brackets alone are ordinary text, since most who type them mean a remark; so are "(12:30)" and
    "(16:9)".
    """
    return _BREAK.search(prompt) is not None or any(given for *_, given in _groups(prompt))


def rewrite_words(prompt: str, rewrite: Callable[[str], str]) -> str:
    """The prompt with its literal text rewritten; emphasis marks, weights and `BREAK` stay as they stand.

    A prompt without them (see `uses_syntax`) is rewritten whole.
    """
    if not uses_syntax(prompt):
        return rewrite(prompt)
    parts, done = [], 0
    for start, end, _ in _pieces(prompt):
        literal = prompt[start:end]
        texts = [rewrite(text) for text in _BREAK.split(literal)]
        parts += [prompt[done:start], "BREAK".join(texts)]
        done = end
    return "".join([*parts, prompt[done:]])


def plain_words(prompt: str) -> str:
    """What the prompt says, without emphasis marks, weights and `BREAK`; others come back as they are."""
    if not uses_syntax(prompt):
        return prompt
    return _BREAK.sub(" ", "".join(text for text, _ in weighted_pieces(prompt)))


def hide_breaks(prompt: str) -> str:
    """The prompt with a full stop in place of each `BREAK`, every other character where it was."""
    return _BREAK.sub(".    ", prompt)


def split_at_breaks(text: SourceText) -> list[SourceText]:
    """The texts between words `BREAK`; those without any character are left out."""
    places = [match.span() for match in _BREAK.finditer(text.text)]
    starts = [0, *(end for _, end in places)]
    ends = [*(start for start, _ in places), len(text.text)]
    parts = [text.part(start, end) for start, end in zip(starts, ends, strict=True)]
    return [part for part in parts if part.text.strip()] if places else parts


def _pieces(prompt: str) -> list[tuple[int, int, float]]:
    """Ranges of literal text with their weights, in order."""
    return [(start, end, weight) for start, end, weight, is_literal, _ in _groups(prompt) if is_literal]


def _groups(prompt: str) -> list[tuple[int, int, float, bool, bool]]:
    """What brackets hold and what is literal: range, weight, whether it is literal, whether it has a number.

    Literal ranges come in order, a group before what is inside it.
    """
    brackets = [match.start() for match in _BRACKET.finditer(prompt) if match.group(1)]
    order = {place: rank for rank, place in enumerate(brackets)}
    partner = _partners(prompt, brackets)
    groups, todo = [], [(0, len(prompt), 1.0, False, False)]
    while todo:
        groups.append(group := todo.pop())
        start, end, weight, is_literal, _ = group
        if is_literal:
            continue
        rank = _first_rank(brackets, order, start, end)
        found = []
        for first, last in _items(prompt, brackets, rank, partner, (start, end)):
            ends = (prompt[first], prompt[last - 1]) == ("(", ")")
            if ends and last - first >= 2 and first in order and last - 1 in order:
                inner = _group(prompt, first + 1, last - 1, weight * IMPLICIT_WEIGHT)
                has_number = inner[1] < last - 1 and not prompt[inner[1] - 1].isdigit()
                found.append((*inner, False, has_number))
            else:
                found.append((first, last, weight, True, False))
        todo.extend(reversed(found))
    return groups


def _first_rank(brackets: list[int], order: dict[int, int], start: int, end: int) -> int:
    """Index of the first bracket in a range: right behind the opening one, or the very first."""
    return order[start - 1] + 1 if start - 1 in order else 0


def _partners(prompt: str, brackets: list[int]) -> dict[int, int]:
    """Index of each opening bracket's closing one, by their ranks."""
    partner, waiting = {}, []
    for rank, place in enumerate(brackets):
        if prompt[place] == "(":
            waiting.append(rank)
        elif waiting:
            partner[waiting.pop()] = rank
    return partner


def _items(
    prompt: str, brackets: list[int], rank: int, partner: dict[int, int], bounds: tuple[int, int]
) -> list[tuple[int, int]]:
    """Ranges of a text at its own level: bracketed groups, and what stands between them.

    A closing bracket without a partner uses up the next opening one, as the common parsers do.
    """
    (begin, end), items, surplus = bounds, [], 0
    while rank < len(brackets) and brackets[rank] < end:
        place = brackets[rank]
        if prompt[place] == ")":
            surplus += 1
        elif surplus:
            surplus -= 1
        else:
            if place > begin:
                items.append((begin, place))
            closing = partner.get(rank)
            if closing is None or brackets[closing] >= end:
                items.append((place, end))
                return items
            items.append((place, brackets[closing] + 1))
            begin, rank = brackets[closing] + 1, closing
        rank += 1
    if end > begin:
        items.append((begin, end))
    return items


def _group(prompt: str, start: int, end: int, weight: float) -> tuple[int, int, float]:
    """Range and weight of what a pair of brackets holds."""
    colon = prompt.rfind(":", start + 1, end)
    if colon < 0 or end - colon > _LONGEST_NUMBER:
        return start, end, weight
    try:
        given = float(prompt[colon + 1 : end])
    except ValueError:
        return start, end, weight
    return (start, colon, given) if math.isfinite(given) else (start, end, weight)

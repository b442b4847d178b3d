"""Prompts into sentences: exactly as LongAlign's weights were trained, or as a reader would cut them."""

import re
import unicodedata
from collections.abc import Iterator

from pipelines.longalign.source_text import SourceText, clean_up

MODES = ("official", "smart")

# the pattern of the authors' scripts, stray quotes included
_OFFICIAL = re.compile(r'"!|\.|\?|;"')

_STOP = re.compile(r"[.!?;…。！？；｡．]+|\s*\n\s*")
_ALWAYS = frozenset("。！？；｡．")
_CLOSERS = "\"'”’»)]}」』"
_URL = re.compile(r"(?:[a-z]{2,8}://|www\.)", re.IGNORECASE)
_WORD_BEFORE = re.compile(r"[^\W_](?:[\w.]{0,22}\w)?$")

# a stop behind these never ends a sentence
_TITLES = frozenset(
    [
        "mr",
        "mrs",
        "ms",
        "dr",
        "prof",
        "st",
        "mt",
        "capt",
        "gen",
        "col",
        "lt",
        "sgt",
        "rev",
        "hon",
        "messrs",
        "vs",
        "eg",
        "ie",
        "cf",
        "ca",
        "approx",
        "vol",
        "pp",
        "al",
    ]
)
# behind these it does when a capital letter follows; the second group only with dots or capitals of its own
_EITHER = frozenset(["etc", "inc", "ltd", "co", "corp", "jr", "sr", "dept", "est", "ave", "blvd", "rd"])
_EITHER_MARKED = frozenset(["am", "pm", "us", "uk", "eu", "usa", "bc", "ad"])
_BEFORE_NUMBERS = frozenset({"no", "nos", "fig", "figs", "p", "art", "ch"})


def split_prompt(text: SourceText, mode: str) -> list[SourceText]:
    """Sentences of a prompt without their final stop (the encoder's plan adds exactly one to each).

    Args:
        text: a prompt, or the part of it between two `BREAK`s.
        mode: "official" cuts at every full stop and question mark (also in "3.5" and "Dr.") and at the
            sequences `"!` and `;"` only, and keeps whitespace: the distribution that the published weights
            know. "smart" leaves numbers, abbreviations, addresses and ellipses whole, cuts at "!", ";", line
            ends and CJK stops too, and drops pieces without a letter, a digit or a symbol.
    Returns:
        At least one piece, or none when nothing survives ("", "...").
    Source: arXiv 2410.11817 and its sampling script.
    """
    if mode not in MODES:
        raise ValueError(f"split mode is {mode!r}; it must be one of {MODES}")
    return _official(text) if mode == "official" else _smart(text)


def _official(text: SourceText) -> list[SourceText]:
    pieces, done = [], 0
    for match in _OFFICIAL.finditer(text.text):
        pieces.append(text.part(done, match.start()))
        done = match.end()
    pieces.append(text.part(done, len(text.text)))
    return [piece for piece in pieces if piece.text]


def _smart(text: SourceText) -> list[SourceText]:
    text = clean_up(text)
    pieces, done = [], 0
    for stop, end in sentence_ends(text.text):
        closed = next((i for i in range(stop, end) if text.text[i] in _CLOSERS), end)
        body = SourceText.join([text.part(done, stop), text.part(closed, end)])
        pieces.append(body.strip())
        done = end
    pieces.append(text.part(done, len(text.text)).strip())
    return [piece for piece in pieces if any(map(_says_something, piece.text))]


def _says_something(character: str) -> bool:
    """Letters, digits and symbols such as emoji; not punctuation, not whitespace."""
    return unicodedata.category(character)[0] in "LNS"


def sentence_ends(text: str) -> Iterator[tuple[int, int]]:
    """(start of the stop, end of the sentence with closing quotes and brackets), in order.

    Runs in time proportional to the text.
    """
    token = 0  # where the present run of characters without whitespace begins
    scanned = 0
    for match in _STOP.finditer(text):
        start, end = match.span()
        for space in re.finditer(r"\s", text[scanned:start]):
            token = scanned + space.end()
        scanned = start
        mark = match.group()
        if mark[-1].isspace() or mark[0].isspace():
            yield start, end
            continue
        closed = end
        while closed < len(text) and closed - end < 4 and text[closed] in _CLOSERS:
            closed += 1
        if _ends_sentence(text, token, (start, end, closed)):
            yield start, closed


def _ends_sentence(text: str, token: int, places: tuple[int, int, int]) -> bool:
    """Whether the stop ends a sentence; `places`: its start, its end, the end of what closes with it."""
    start, end, closed = places
    mark = text[start:end]
    if _ALWAYS & set(mark) or closed == len(text):
        return True
    following = text[closed : closed + 24].lstrip()[:1]
    if "…" in mark or mark.strip(".") == "" and len(mark) > 1:
        return text[closed].isspace() and following.isupper()
    if text[closed].isspace():
        return mark != "." or _full_stop(text, start, following)
    if closed > end or _URL.match(text, token):
        return False
    if mark != ".":
        return text[closed].isalpha()
    word = _WORD_BEFORE.search(text, max(0, start - 24), start)
    glued = word is not None and len(word.group()) > 2 and word.group().isalpha() and word.group().islower()
    return glued and text[closed].isupper()  # "a cat.A dog" but not "example.com" or "U.S.A"


def _full_stop(text: str, dot: int, following: str) -> bool:
    """Whether a single dot before whitespace is a full stop and no part of an abbreviation or list number."""
    found = _WORD_BEFORE.search(text, max(0, dot - 24), dot)
    if found is None:
        return True
    word = found.group()
    bare = word.replace(".", "").lower()
    if bare in _TITLES:
        return False
    is_marked = "." in word or word != word.lower()
    if bare in _EITHER or (bare in _EITHER_MARKED and is_marked):
        return following.isupper() and not (word.isupper() and "." in word)  # "U.S. Capitol" stays whole
    if bare in _BEFORE_NUMBERS and following.isdigit():
        return False
    if len(word) == 1 and word.isupper():
        return False  # an initial
    return not (word.isdigit() and _starts_line(text, found.start()))


def _starts_line(text: str, place: int) -> bool:
    before = text[max(0, place - 8) : place].rstrip(" \t")
    return before.endswith("\n") or (before == "" and place < 8)

"""Text that remembers where each of its characters stood in the prompt, so that plans can point there."""

import html
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import chain


@dataclass(frozen=True)
class SourceText:
    """A text made from a prompt.

    Attributes:
        text: the characters.
        starts, ends: for each character the range in the prompt that it was made from.
        weights: for each character how strongly it is meant; 1 is normal.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    weights: tuple[float, ...]

    @classmethod
    def plain(cls, prompt: str, first: int = 0, weight: float = 1.0) -> "SourceText":
        """`prompt[first:]`-like text whose first character stands at `first` of the prompt."""
        places = range(first, first + len(prompt) + 1)
        return cls(prompt, tuple(places[:-1]), tuple(places[1:]), (weight,) * len(prompt))

    @classmethod
    def join(cls, parts: "Iterable[SourceText]") -> "SourceText":
        """The parts one after the other."""
        parts = [part for part in parts if part.text]
        if len(parts) == 1:
            return parts[0]
        fields = zip(*((part.starts, part.ends, part.weights) for part in parts), strict=True)
        places = [tuple(chain.from_iterable(field)) for field in fields] or [(), (), ()]
        return cls("".join(part.text for part in parts), *places)

    @property
    def span(self) -> tuple[int, int]:
        """Range in the prompt from the first character to the last; (0, 0) for no text."""
        return (self.starts[0], self.ends[-1]) if self.text else (0, 0)

    @cached_property
    def is_plain(self) -> bool:
        """Whether every weight is 1."""
        return all(weight == 1.0 for weight in self.weights)

    def part(self, start: int, end: int) -> "SourceText":
        """Characters `start ... end - 1`."""
        cut = slice(start, end)
        return SourceText(self.text[cut], self.starts[cut], self.ends[cut], self.weights[cut])

    def strip(self) -> "SourceText":
        """Without whitespace at both ends."""
        left = len(self.text) - len(self.text.lstrip())
        return self.part(left, max(left, len(self.text.rstrip())))

    def replace(self, pattern: re.Pattern[str], answer: Callable[[str], str]) -> "SourceText":
        """Replace each match by `answer(match)`; the new characters point at the whole match."""
        parts, done = [], 0
        for match in pattern.finditer(self.text):
            new = answer(match.group())
            if new == match.group():
                continue
            start, end = match.span()
            parts.append(self.part(done, start))
            count = len(new)
            place = (self.starts[start],) * count, (self.ends[end - 1],) * count
            parts.append(SourceText(new, *place, (self.weights[start],) * count))
            done = end
        return SourceText.join([*parts, self.part(done, len(self.text))]) if parts else self


_ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
_ESCAPE_CODE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]")
_LINE_END = re.compile("\r\n|[\r\u2028\u2029]")
_C1 = re.compile("[\x80-\x9f]")  # Windows-1252 taken for Latin-1
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0e-\x1f\x7f\u206a-\u206f\ufeff\ufff9-\ufffc\U000e0001\U000e0020-\U000e007f]"
)
_MARK = re.compile(
    "[\u02bc\u2018-\u201f\u0132\u0133\u0149\u01c4-\u01cc\u01f1-\u01f3\u3000\ufb00-\ufb06\uff01-\uffef]"
)


def _plain_mark(mark: str) -> str:
    if mark in "\u02bc\u2018\u2019\u201a\u201b":
        return "'"
    if mark in "\u201c\u201d\u201e\u201f":
        return '"'
    return "'n" if mark == "\u0149" else unicodedata.normalize("NFKC", mark)


def _windows_mark(mark: str) -> str:
    return mark.encode("latin-1").decode("cp1252", errors="ignore") or mark


def clean_up(text: SourceText) -> SourceText:
    """Text as CLIP's own tokenizer saw it in training.

    That tokenizer repairs text first; the one in transformers 5 doesn't. Entities are resolved (in lines
    before the first "<"), curly quotes straightened, ligatures and full-width forms opened, line ends
    unified, control characters removed. Mended encodings ("Ã©") are not part of it. The tokenizer itself
    does the rest (whitespace, lower case, composed characters).
    """
    if text.text.isascii() and "&" not in text.text and text.text.isprintable():
        return text
    tag = text.text.find("<")
    safe = len(text.text) if tag < 0 else text.text.rfind("\n", 0, tag) + 1
    head = text.part(0, safe).replace(_ENTITY, html.unescape)
    text = SourceText.join([head, text.part(safe, len(text.text))])
    text = text.replace(_ESCAPE_CODE, lambda _: "").replace(_C1, _windows_mark)
    text = text.replace(_MARK, _plain_mark)
    return text.replace(_LINE_END, lambda _: "\n").replace(_CONTROL, lambda _: "")

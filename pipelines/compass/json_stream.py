"""Reading the lists of a large JSON object element by element, in little memory, with byte offsets.

The text is read as Latin-1, where one character is one byte: offsets stay exact and the structure of UTF-8
JSON is unharmed. Strings that matter have to be read again from their bytes (`decode_element`).
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

CHUNK = 1 << 20
MAX_ELEMENT = 64 << 20  # bytes of one element; real annotations stay below one MiB
_SPACE = " \t\r\n"


@dataclass(frozen=True)
class Element:
    """One element of a list.

    Attributes:
        section: key of the list. index: position in it, from 0.
        value: the element; its strings are not yet UTF-8.
        offset, length: where its text lies in the file, in bytes.
        odd_number: "NaN", "Infinity" or "-Infinity" when it holds one, which JSON doesn't know.
    """

    section: str
    index: int
    value: Any
    offset: int
    length: int
    odd_number: str | None


class JsonStreamError(ValueError):
    """The text is no JSON object of lists, or ends too early; `last` is the last whole element before it."""

    def __init__(self, message: str, last: Element | None) -> None:
        super().__init__(message)
        self.last = last


def decode_element(raw: bytes) -> Any:
    """An element from its bytes, strings included."""
    return json.loads(raw)


class _Scanner:
    """A window on the file: `text[at:]` is what hasn't been read yet."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream, self.text, self.at, self.base = stream, "", 0, 0
        self.ended = False
        self.last: Element | None = None
        self.odd: str | None = None
        self.decoder = json.JSONDecoder(parse_constant=self._note)

    def _note(self, name: str) -> float:
        self.odd = name
        return float(name.replace("Infinity", "inf"))

    def fail(self, message: str) -> JsonStreamError:
        return JsonStreamError(f"{message} at byte {self.base + self.at}", self.last)

    def fill(self) -> bool:
        """Read on; False at the end of the file."""
        block = b"" if self.ended else self.stream.read(CHUNK)
        if not block:
            self.ended = True
            return False
        self.base += self.at
        self.text, self.at = self.text[self.at :] + block.decode("latin-1"), 0
        return True

    def peek(self) -> str:
        """The next character that isn't white space, not taken."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in _SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.fill():
                raise self.fail("the file ends too early")

    def take(self, *expected: str) -> str:
        found = self.peek()
        if found not in expected:
            raise self.fail(f"found {found!r} instead of {' or '.join(map(repr, expected))}")
        self.at += 1
        return found

    def value(self) -> Any:
        """Decode one whole value."""
        self.peek()
        while True:
            self.odd = None
            try:
                value, end = self.decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                # complete so far but cut off: a string without end, or a stumble in the last characters
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - 12
                if not cut:
                    self.at = error.pos
                    raise self.fail(f"not JSON ({error.msg})") from None
                if len(self.text) - self.at > MAX_ELEMENT:
                    raise self.fail(f"one element is over {MAX_ELEMENT >> 20} MiB long") from None
                if not self.fill():
                    raise self.fail("the file ends too early") from None
            except (RecursionError, ValueError) as error:
                raise self.fail(f"not usable JSON ({str(error)[:80]})") from None
            else:
                # "12" may be the beginning of "12.5e3"
                is_number = isinstance(value, int | float)
                if is_number and end > len(self.text) - 4 and self.fill():
                    continue
                self.at = end
                return value

    def elements(self, section: str) -> Iterator[Element]:
        """The elements of the list that begins here."""
        self.take("[")
        if self.peek() == "]":
            self.take("]")
            return
        index = 0
        while True:
            self.peek()
            start = self.base + self.at
            value = self.value()
            self.last = Element(section, index, value, start, self.base + self.at - start, self.odd)
            yield self.last
            index += 1
            if self.take(",", "]") == "]":
                return


def stream_lists(stream: BinaryIO, lists: set[str] | None = None) -> Iterator[Element]:
    """Every element of every list at the top level of a JSON object, in the order of the file.

    Values that are no lists are passed over. Memory is bounded by `MAX_ELEMENT`.

    Args:
        lists: gets the key of each list, empty ones too.

    Raises:
        JsonStreamError: not such an object, a list that comes twice, an element of over 64 MiB, or a cut
        file.
    """
    scanner = _Scanner(stream)
    scanner.take("{")
    seen: set[str] = set()
    if scanner.peek() == "}":
        return
    while True:
        if scanner.peek() != '"':
            raise scanner.fail("a key must be a string")
        key = scanner.value()
        if key in seen:
            raise scanner.fail(f"the key {key!r} comes twice")
        seen.add(key)
        scanner.take(":")
        if scanner.peek() == "[":
            if lists is not None:
                lists.add(key)
            yield from scanner.elements(key)
        else:
            scanner.value()
        if scanner.take(",", "}") == "}":
            return

"""What may come in from outside: text, whole numbers, sides of pictures, names.

Every refusal is one sentence of the form "<field>: given X, allowed Y".
"""

from __future__ import annotations

import re
import unicodedata

from studio.errors import StudioError

MAX_PROMPT_CHARS = 20_000
MIN_SIDE = 64
MAX_SIDE = 16_384
SIDE_MULTIPLE = 16
# 8192 x 8192; Pillow refuses to read back pictures above 2.6 times this
MAX_PIXELS = 8192 * 8192
MAX_SEED = 2**32 - 1
MAX_STEPS = 200
MAX_VERIFY = 16
MAX_NAME_CHARS = 128

# control characters but tab and line break; then direction marks, embeddings, overrides and isolates, which
# could make a prompt read differently from what is painted
_DROPPED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SURROGATES = re.compile("[\ud800-\udfff]")
_SIZE = re.compile(r"\s*([0-9]{1,9})\s*[xX*\u00d7]\s*([0-9]{1,9})\s*", re.ASCII)
_INTEGER = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._ -]*", re.ASCII)


def shown(value: object, limit: int = 60) -> str:
    """`value` for an error sentence: one printable line of at most `limit` characters, text in quotes."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return "an integer of more than 38 digits"
    text = ascii(value) if not isinstance(value, str) else repr(value[: limit + 1])
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def clean_prompt(prompt: object, limit: int = MAX_PROMPT_CHARS) -> str:
    """Normalise a prompt, or refuse it.

    Lone surrogates become U+FFFD, control and direction-override characters go (line breaks and tabs
    stay), the rest is put in Unicode form NFC and stripped at both ends.

    Raises:
        StudioError: not text, empty, or longer than `limit` characters before or after normalising.
    """
    if not isinstance(prompt, str):
        raise StudioError(
            "bad_input", f"prompt: given {shown(prompt)}, allowed text of 1 to {limit:,} characters."
        )
    if len(prompt) > limit:
        raise StudioError("too_long", f"prompt: given {len(prompt):,} characters, allowed 1 to {limit:,}.")
    text = prompt.replace("\r\n", "\n").replace("\r", "\n")
    text = _DROPPED.sub("", _SURROGATES.sub("\ufffd", text))
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise StudioError("bad_input", f"prompt: given nothing to paint, allowed 1 to {limit:,} characters.")
    if len(text) > limit:
        raise StudioError("too_long", f"prompt: given {len(text):,} characters, allowed 1 to {limit:,}.")
    return text


def parse_size(text: str, limit: int = MAX_SIDE) -> tuple[int, int]:
    """Width and height in pixels, at most `limit`, from "1024x768".

    Raises:
        StudioError: not two whole numbers joined by x, or a side that is not allowed.
    """
    match = _SIZE.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise StudioError("bad_input", f"size: given {shown(text)}, allowed WIDTHxHEIGHT such as 1024x768.")
    width, height = int(match[1]), int(match[2])
    check_side("width", width, limit)
    check_side("height", height, limit)
    return width, height


def parse_integer(name: str, text: str) -> int:
    """A whole number typed by a person; "nan", "1.5", "1e3" and "" are refused.

    Raises:
        StudioError: kind "bad_input".
    """
    if not _INTEGER.fullmatch(text.strip()):
        raise StudioError("bad_input", f"{name}: given {shown(text)}, allowed a whole number.")
    return int(text)


def check_side(name: str, value: object, limit: int = MAX_SIDE) -> None:
    """Refuse a picture side that is not an int, not a multiple of 16, or out of 64 to `limit`."""
    allowed = f"allowed multiples of {SIDE_MULTIPLE} from {MIN_SIDE} to {limit}"
    if type(value) is not int or not MIN_SIDE <= value <= limit:
        raise StudioError("bad_input", f"{name}: given {shown(value)}, {allowed}.")
    if value % SIDE_MULTIPLE:
        lower = value - value % SIDE_MULTIPLE
        near = f"{lower} or {lower + SIDE_MULTIPLE}" if lower + SIDE_MULTIPLE <= limit else f"{lower}"
        raise StudioError("bad_input", f"{name}: given {value}, {allowed} (for instance {near}).")


def check_integer(name: str, value: object, low: int, high: int) -> None:
    """Refuse what is not exactly an int (a bool or a float is not) from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise StudioError(
            "bad_input", f"{name}: given {shown(value)}, allowed whole numbers from {low} to {high}."
        )


def parse_number(name: str, text: str) -> float:
    """A number from text; its range is checked elsewhere.

    Raises:
        StudioError: it isn't one.
    """
    try:
        return float(text)
    except ValueError as error:
        raise StudioError("bad_input", f"{name}: given {shown(text)}, allowed a number.") from error


def check_number(name: str, value: object, low: float, high: float) -> None:
    """Refuse what is no number (a bool or text is none) from `low` to `high`; NaN never is."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise StudioError(
            "bad_input", f"{name}: given {shown(value)}, allowed numbers from {low:g} to {high:g}."
        )


def check_name(name: str, value: object) -> None:
    """Refuse what cannot be the name of a model or style (a path, markup, control characters)."""
    if not isinstance(value, str) or len(value) > MAX_NAME_CHARS or not _NAME.fullmatch(value):
        raise StudioError(
            "bad_input",
            f"{name}: given {shown(value)}, allowed a name of letters, digits, dots, dashes and spaces.",
        )

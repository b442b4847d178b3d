"""Identifiers that sort by time: 48 bits of milliseconds, 80 random bits, in Crockford's base 32."""

from __future__ import annotations

import re
import secrets
import threading
import time

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PATTERN = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.ASCII)
_lock = threading.Lock()
_last_ms = 0


def new_identifier() -> str:
    """A unique identifier, greater than every earlier one of this process even when the clock steps back."""
    global _last_ms
    with _lock:
        _last_ms = max(time.time_ns() // 1_000_000, _last_ms + 1)
        value = _last_ms << 80 | secrets.randbits(80)
    return "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))


def is_identifier(text: object) -> bool:
    """Whether `text` has the form of an identifier; anything else never reaches a path or a query."""
    return isinstance(text, str) and _PATTERN.fullmatch(text) is not None

"""Style presets: words a style adds to the prompt, in plain sight. Their data is `assets/presets/styles.json`.

A style either adds its words at the end ("in a night sky") or inserts one before each colour ("dotted"). It
only uses words of the embedded world, and gives way to what the prompt already says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from studio.errors import StudioError
from studio.requests import shown

_END_PUNCTUATION = re.compile(r"[\s.!?;,]*\Z")


@dataclass(frozen=True)
class Style:
    """One preset.

    Args:
        name: What a person picks, for instance "Night".
        about: One short sentence for the picker.
        words: The words it adds.
        before: Words in front of which `words` go; empty: `words` go to the end of the prompt.
        unless: When the prompt has one of these, the style adds nothing.
    """

    name: str
    about: str
    words: str
    before: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()

    def apply(self, prompt: str) -> tuple[str, str]:
        """The prompt with the style's words, and a sentence when nothing could be added ("" otherwise)."""
        taken = _first_word(prompt, self.unless)
        if taken:
            return prompt, f'Style {self.name} adds nothing: the prompt already says "{taken}".'
        if not self.before:
            end = _END_PUNCTUATION.search(prompt)
            cut = end.start() if end else len(prompt)
            return f"{prompt[:cut]} {self.words}{prompt[cut:]}", ""
        pattern = re.compile(rf"(?:\ban )?\b({_alternatives(self.before)})\b", re.IGNORECASE)
        if not pattern.search(prompt):
            return prompt, f"Style {self.name} adds nothing: the prompt names no colour to put it before."
        return pattern.sub(self._inserted, prompt), ""

    def _inserted(self, match: re.Match[str]) -> str:
        # "an orange cat" becomes "a dotted orange cat"
        article = "a " if match[0].lower().startswith("an ") else ""
        return f"{article}{self.words} {match[1]}"


def load_styles(presets_dir: Path) -> tuple[Style, ...]:
    """The styles of `presets_dir/styles.json`; none where the file does not exist.

    Raises:
        StudioError: the file can't be read as a list of styles.
    """
    path = presets_dir / "styles.json"
    if not path.exists():
        return ()
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))["styles"]
        return tuple(
            Style(
                name=str(entry["name"]),
                about=str(entry["about"]),
                words=str(entry["words"]),
                before=tuple(map(str, entry.get("before", ()))),
                unless=tuple(map(str, entry.get("unless", ()))),
            )
            for entry in entries
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StudioError("internal", f"The style presets can't be read ({error}).") from error


def find_style(styles: tuple[Style, ...], name: str) -> Style:
    """The style called `name`, upper and lower case alike.

    Raises:
        StudioError: "bad_input", listing the styles there are.
    """
    for style in styles:
        if style.name.lower() == name.lower():
            return style
    known = ", ".join(style.name for style in styles) or "none"
    raise StudioError("bad_input", f"style: given {shown(name)}, allowed {known}.")


def _alternatives(words: tuple[str, ...]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _first_word(prompt: str, words: tuple[str, ...]) -> str:
    if not words:
        return ""
    match = re.search(rf"\b(?:{_alternatives(words)})\b", prompt, re.IGNORECASE)
    return match[0] if match else ""

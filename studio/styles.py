"""Style presets: words a style adds to the prompt, in plain sight. Data: `assets/presets/styles.json`.

A style either adds its words at the end ("under a night sky") or puts one before each object ("dotted"). It
only uses words of the embedded world, and gives way to what the prompt already says.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from studio.checks import shown
from studio.errors import StudioError

_END_PUNCTUATION = re.compile(r"[\s.!?;,]*\Z")


@dataclass(frozen=True)
class Style:
    """One preset.

    Args:
        name: What a person picks, for instance "Night".
        about: One short sentence for the picker.
        words: The words it adds.
        before: Objects in front of which `words` go; empty: `words` go to the end of the prompt.
        past: Adjectives between `words` and the object ("dotted" goes before the "red" of "red cat").
        unless: When the prompt has one of these, the style adds nothing.
    """

    name: str
    about: str
    words: str
    before: tuple[str, ...] = ()
    past: tuple[str, ...] = ()
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
        past = rf"(?:(?:{_alternatives(self.past)})\s+)*" if self.past else ""
        objects = _alternatives(self.before)
        # "oak tree" is one object of two words
        pattern = re.compile(rf"(?:\ban\s+)?\b({past}(?:{objects})(?:\s+(?:{objects}))*)\b", re.IGNORECASE)
        if not pattern.search(prompt):
            return prompt, f"Style {self.name} adds nothing: the prompt names no object it could describe."
        return pattern.sub(self._inserted, prompt), ""

    def _inserted(self, match: re.Match[str]) -> str:
        # "an orange cat" becomes "a dotted orange cat"
        article = f"{match[0][0]} " if re.match(r"an\s", match[0], re.IGNORECASE) else ""
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
        data = json.loads(path.read_text(encoding="utf-8"))
        lists = data["word_lists"]
        return tuple(
            Style(
                name=str(entry["name"]),
                about=str(entry["about"]),
                words=str(entry["words"]),
                before=_listed(entry, lists, "before"),
                past=_listed(entry, lists, "past"),
                unless=_listed(entry, lists, "unless"),
            )
            for entry in data["styles"]
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


def _listed(entry: dict[str, list[str]], lists: dict[str, list[str]], key: str) -> tuple[str, ...]:
    """The words of the word lists that `entry` names under `key`."""
    return tuple(str(word) for name in entry.get(key, ()) for word in lists[name])


def _alternatives(words: tuple[str, ...]) -> str:
    return "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))


def _first_word(prompt: str, words: tuple[str, ...]) -> str:
    if not words:
        return ""
    match = re.search(rf"\b(?:{_alternatives(words)})\b", prompt, re.IGNORECASE)
    return match[0] if match else ""

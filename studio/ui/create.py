"""What the Create screen does: values of its fields in, requests and sentences out; no component is built."""

from __future__ import annotations

import math
import secrets
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from studio.checks import MAX_SEED, check_side, clean_prompt
from studio.errors import StudioError
from studio.metering import Gauge
from studio.requests import DEFAULT_MODEL, ImageRequest
from studio.studio import Studio

EXAMPLES = (
    "a red cat to the left of a blue house in a meadow",
    "a yellow star above a green tree under a night sky",
    "a large striped umbrella on a beach",
    "three white mushrooms in a snowy field",
)
CUSTOM = "Custom"
NO_STYLE = "None"
SCALES = (256, 1024, 2048, 4096)
# longer side : shorter side of the shapes that are not square
_LONG, _SHORT = 16, 9
_SHOWN_LOST = 90
_MOST_LISTED = 200  # sentences
_MARKS = 2  # around what CLIP reads
SHAPES = ("Square", "Landscape", "Portrait", CUSTOM)


@dataclass(frozen=True)
class Fields:
    """The form as it stands, straight from the page: nothing in it is trusted.

    Args:
        prompt, width, height, seed, style, steps, model, verify: As `ImageRequest`; numbers may arrive as
            floats, the style may be `NO_STYLE`.
        tenor: The switch, which stands on "on" (as trained) also where it is not shown.
    """

    prompt: Any
    width: Any
    height: Any
    seed: Any
    style: Any = NO_STYLE
    steps: Any = None
    model: Any = DEFAULT_MODEL
    verify: Any = 0
    tenor: Any = True

    def request(self) -> ImageRequest:
        """The request these fields make.

        Raises:
            StudioError: one sentence about the first field that is not allowed.
        """
        return ImageRequest(
            prompt=self.prompt,
            width=whole("width", self.width),
            height=whole("height", self.height),
            seed=whole("seed", self.seed),
            steps=None if self.steps is None else whole("steps", self.steps),
            model=self.model,
            style=None if self.style in (None, "", NO_STYLE) else self.style,
            verify=whole("verify", self.verify),
            tenor=None if self.tenor else False,
        )


def whole(name: str, value: Any) -> Any:
    """A number field's value as an int where it is one; anything else stays for `ImageRequest` to refuse.

    Raises:
        StudioError: the field is empty.
    """
    if value is None or value == "":
        raise StudioError("bad_input", f"{name}: given nothing, allowed a whole number.")
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def sides(shape: str, scale: int) -> tuple[int, int]:
    """Width and height of a preset; the longer side is `scale` pixels."""
    if shape == "Square":
        return scale, scale
    short = scale * _SHORT // _LONG
    return (scale, short) if shape == "Landscape" else (short, scale)


def preset_of(width: int, height: int) -> tuple[str, int]:
    """The preset that gives this size, `CUSTOM` and the nearest scale when none does."""
    for scale in SCALES:
        for shape in SHAPES[:-1]:
            if sides(shape, scale) == (width, height):
                return shape, scale
    return CUSTOM, min(SCALES, key=lambda scale: abs(scale - max(width, height)))


def new_seed() -> int:
    """A seed nobody chose."""
    return secrets.randbelow(MAX_SEED + 1)


def forecast_html(studio: Studio, width: Any, height: Any, steps: Any, model: Any) -> str:
    """Time, memory and stages of a picture of this size, or the sentence that says why there can't be one."""
    try:
        size = whole("width", width), whole("height", height)
        check_side("width", size[0], studio.settings.max_side)
        check_side("height", size[1], studio.settings.max_side)
        forecast = studio.forecast(*size, None if steps is None else whole("steps", steps), model)
    except StudioError as error:
        return note_html(str(error), "problem")
    stages = "<i>\u2192</i>".join(f"<span>{w} \u00d7 {h}</span>" for w, h in forecast.stages)
    problem = (
        "" if forecast.fits else note_html("This machine does not have that much memory free.", "problem")
    )
    return (
        f'<div class="t-forecast" data-width="{size[0]}" data-height="{size[1]}">'
        f"<span>about <strong>{duration(forecast.seconds)}</strong></span>"
        f"<span><strong>{forecast.memory_bytes / 1e9:.1f} GB</strong> of memory</span>"
        f'<span class="t-stages">{stages}</span></div>{problem}'
    )


def duration(seconds: float) -> str:
    """Seconds as a forecast says them, no finer than they are known: "4 s", "2 min 30 s", "1 h 10 min"."""
    if seconds < 20:
        return f"{max(1, round(seconds))} s"
    if seconds < 100:
        return f"{round(seconds / 5) * 5} s"
    if seconds < 3600:
        minutes, rest = divmod(round(seconds / 10) * 10, 60)
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, rest = divmod(round(seconds / 60), 60)
    return f"{hours} h {rest} min"


def prompt_html(studio: Studio, prompt: Any, style: Any, model: Any) -> str:
    """What is said while a person types: unknown words, what a style adds, a prompt that is too long."""
    if not isinstance(prompt, str) or not prompt.strip():
        return ""
    try:
        text = clean_prompt(prompt, studio.settings.max_prompt_chars)
        painted, remark = studio.painted_prompt(text, None if style in (None, "", NO_STYLE) else style)
        unknown = studio.unknown_words(painted, model)
    except StudioError as error:
        # what is wrong with the model stands beside the forecast already
        return "" if error.kind == "unknown_model" else note_html(str(error), "problem")
    notes = []
    if unknown:
        notes.append(_unknown_html(unknown, studio.world_summary()))
    if remark:
        notes.append(note_html(remark))
    elif painted != text:
        notes.append(note_html(f"Painted as: {painted}", "good"))
    return "".join(notes)


def length_of(studio: Studio, prompt: Any, style: Any, model: Any) -> dict[str, Any]:
    """How long the painted text is for each text encoder, sentence by sentence, and what is dropped.

    {} when nothing can be told. "rows" are the tokens of each sentence; those beyond `_MOST_LISTED` are one.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        return {}
    try:
        text = clean_prompt(prompt, studio.settings.max_prompt_chars)
        painted, _ = studio.painted_prompt(text, None if style in (None, "", NO_STYLE) else style)
        gauges = studio.gauges(painted, model)
    except StudioError:
        # what is wrong is said elsewhere
        return {}
    if not gauges:
        return {}
    sentences = gauges[0].sentences
    return {
        "gauges": [_gauge(gauge) for gauge in gauges],
        "sentences": [asdict(sentence) for sentence in sentences[:_MOST_LISTED]],
        "more": max(0, len(sentences) - _MOST_LISTED),
        "said": _dropped(gauges),
        "is_lost": gauges[0].dropped > 0,
    }


def _gauge(gauge: Gauge) -> dict[str, Any]:
    rows = [sentence.tokens for sentence in gauge.sentences]
    listed = rows[:_MOST_LISTED]
    if rest := sum(rows[_MOST_LISTED:]):
        listed.append(rest)
    room = {"blocks": f"in blocks of {gauge.limit:,}", "sentences": "sentence by sentence"}
    tokens = gauge.tokens + gauge.dropped
    return {
        "encoder": gauge.encoder,
        "tokens": tokens,
        "room": room.get(gauge.reading, f"of {gauge.limit:,}"),
        "rows": listed,
        "free": max(0, gauge.limit - tokens) if gauge.reading == "whole" else 0,
        "dropped": gauge.dropped,
    }


def _dropped(gauges: tuple[Gauge, ...]) -> str:
    """The sentence under the bars: how many sentences, and which words nobody reads."""
    first = gauges[0]
    count = len(first.sentences)
    said = f"{count:,} {'sentence' if count == 1 else 'sentences'}, {first.dropped:,} tokens dropped"
    if first.dropped:
        lost = " ".join(first.lost.split())
        lost = lost if len(lost) <= _SHOWN_LOST else f"{lost[:_SHOWN_LOST]}\u2026"
        return f"{said}: \u201c{lost}\u201d"
    short = [gauge for gauge in gauges[1:] if gauge.dropped]
    return f"{said}; {short[0].encoder} sums up the first {short[0].limit - _MARKS}." if short else f"{said}."


def reading_of(studio: Studio, prompt: Any, width: Any, height: Any) -> dict[str, Any]:
    """What the prompt says about space, for the panel below it; {} while there is nothing to read."""
    try:
        text = clean_prompt(prompt, studio.settings.max_prompt_chars)
        aspect = whole("width", width) / whole("height", height)
    except (StudioError, TypeError, ZeroDivisionError):
        # what is wrong with prompt or size is said elsewhere
        return {}
    aspect = min(8.0, max(0.125, aspect))
    return {"reading": studio.reader.read(text, aspect).to_json(), "aspect": aspect}


def has_tenor(studio: Studio, model: Any) -> bool:
    """Whether a model was trained with TENOR, so that there is something to switch."""
    try:
        return studio.registry.card(str(model)).tenor is not None
    except StudioError:
        return False


def has_relations(studio: Studio, prompt: Any) -> bool:
    """Whether a prompt says something about space."""
    try:
        text = clean_prompt(prompt, studio.settings.max_prompt_chars)
    except StudioError:
        return False
    return bool(studio.reader.read(text, 1.0).relations)


def _unknown_html(words: tuple[str, ...], world: str) -> str:
    listed = ", ".join(f"<b>{escape(word)}</b>" for word in words)
    return (
        '<div class="t-note" role="note"><details>'
        f"<summary>Not in Storybook\u2019s world: {listed}.</summary>"
        f'<div class="t-world">{escape(world)}</div></details></div>'
    )


def note_html(sentence: str, kind: str = "") -> str:
    """One sentence in a box; `kind` is "", "good" or "problem"."""
    role = "alert" if kind == "problem" else "note"
    return f'<div class="t-note" role="{role}" data-kind="{kind}">{escape(sentence)}</div>'

"""Which sentence of a page does a picture show, and which may be missing? The eyes tell, one by one.

A CLIP score of each sentence (`longalign.segment_scores`) was tried first: it finds less than half of the
sentences whose object was taken out of a drawing, and marks a quarter of the others (docs/longalign.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.compass.detectors import StorybookDetector
from pipelines.compass.judging import judge
from pipelines.compass.parser import ParsedPrompt, parse_prompt
from pipelines.compass.relations import Entity
from pipelines.longalign.plan import WHERE_MEANT, PromptSettings
from pipelines.longalign.planner import read_syntax
from pipelines.longalign.split import split_prompt
from pipelines.storybook.vocabulary import PLACE_PHRASES

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.compass.scoring import Detected

MOST_SENTENCES = 200  # of a page that are told of; reading more takes seconds


@dataclass(frozen=True)
class SentenceVerdict:
    """What a picture says about one sentence of its prompt.

    Attributes:
        text: the sentence. start, end: its range in the prompt.
        shown: whether everything that it names is there; None where the eyes can't tell of any of it.
        reason: what may be missing, a sentence for people; "" otherwise.
    """

    text: str
    start: int
    end: int
    shown: bool | None
    reason: str = ""


def judge_sentences(eyes: Any, prompt: str, picture: Image.Image) -> list[SentenceVerdict]:
    """A verdict for each sentence of a prompt, in order, at most `MOST_SENTENCES`.

    Each sentence is read alone: what "it" is stays open, and a second red cat in another sentence is not told
    from the first.

    Args:
        eyes: `StorybookEyes` or `StorybookJudge`.
    """
    from pipelines.storybook.detector import detect

    parts, _ = read_syntax(prompt, PromptSettings(weights=WHERE_MEANT))
    pieces = [piece for part in parts for piece in split_prompt(part, "smart")][:MOST_SENTENCES]
    read = [parse_prompt(piece.text) for piece in pieces]
    detector = StorybookDetector(eyes)
    names = dict.fromkeys(entity.noun for parsed in read for entity in parsed.entities)
    known = {name for name in names if detector.knows(name)}
    found = detector(picture, sorted(known)) if known else []
    place = detect(eyes, [picture])[0].place if any(_place_of(parsed) for parsed in read) else ""
    verdicts = []
    for piece, parsed in zip(pieces, read, strict=True):
        shown, reason = _judged(parsed, found, known, place, picture.size)
        verdicts.append(SentenceVerdict(piece.text, *piece.span, shown, reason))
    return verdicts


def _judged(
    parsed: ParsedPrompt, found: Sequence[Detected], known: set[str], place: str, size: tuple[int, int]
) -> tuple[bool | None, str]:
    knows = [entity.noun in known for entity in parsed.entities]
    verdict = judge(parsed, found, size, knows=knows)
    faults = [f"not found: {_name(parsed.entities[index])}" for index in verdict.missing]
    faults += [
        result.reason
        for result in verdict.relations
        if result.passed is False and not result.reason.startswith("not found")
    ]
    wanted = _place_of(parsed)
    if wanted and wanted != place:
        faults.append(f"it looks like a {place}")
    if faults:
        return False, "; ".join(dict.fromkeys(faults))
    return (True if any(knows) or wanted else None), ""


def _place_of(parsed: ParsedPrompt) -> str:
    """The place that a sentence names, a word of Storybook's vocabulary; "" for none."""
    return next((place for place, phrase in PLACE_PHRASES.items() if phrase == parsed.place), "")


def _name(entity: Entity) -> str:
    """Its words, with the number that it was asked for in."""
    is_counted = entity.article not in ("", "a", "an", "the")
    return f"{entity.article} {entity.text}" if is_counted else entity.text

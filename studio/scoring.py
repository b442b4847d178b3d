"""Which sentences of its prompt a picture shows, and which may be missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from PIL import Image


@dataclass(frozen=True)
class SentenceVerdict:
    """What a picture says about one sentence.

    Args:
        text: The sentence, without its full stop.
        start, end: Its characters in the prompt that was painted.
        shown: Whether all that it names is there; None where the eyes can't tell of any of it.
        reason: What may be missing, or "".
    """

    text: str
    start: int
    end: int
    shown: bool | None
    reason: str = ""


def sentences_json(verdicts: Sequence[SentenceVerdict]) -> dict[str, Any]:
    """Plain JSON values: the sentences, and how many are shown, may be missing, can't be told."""
    answers = [verdict.shown for verdict in verdicts]
    counts = {"shown": answers.count(True), "missing": answers.count(False), "open": answers.count(None)}
    return {"sentences": [asdict(verdict) for verdict in verdicts], **counts}


class Scorer(Protocol):
    """What holds pictures against sentences. The real one is `studio.doors.scoring.PipelineScorer`.

    `eyes` is what `Looker.load_eyes` gave.
    """

    def sentences(self, eyes: Any, prompt: str, picture: Image.Image) -> Sequence[SentenceVerdict]:
        """A verdict for each sentence of a prompt, in order; of a very long one, for its beginning."""

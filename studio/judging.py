"""Whether pictures show what their prompt says: verdicts per relation, and a search with a budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class RelationVerdict:
    """What a picture says about one relation of its prompt.

    Args:
        text: For instance "red cat left of blue house".
        passed: None where it can't be told.
        margin: How clearly, -1 to 1; None where an object was not found.
        reason: A sentence when it did not pass, or "".
    """

    text: str
    passed: bool | None
    margin: float | None
    reason: str = ""


@dataclass(frozen=True)
class Judgement:
    """What a picture says about its prompt.

    Args:
        relations: One verdict for each relation of the prompt.
        things: What the prompt names.
        boxes: Place of a thing -> (left, top, right, bottom) of what stands for it, shares of the picture.
        missing: Things that should be there and were not found.
        unknown: Things the eyes can't tell of.
        passed: Whether nothing is missing and no relation failed.
        score: 0 to 1, for choosing among pictures.
    """

    relations: tuple[RelationVerdict, ...]
    things: tuple[str, ...]
    boxes: dict[int, Box]
    missing: tuple[str, ...]
    unknown: tuple[str, ...]
    passed: bool
    score: float

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, numbers to four places."""
        data = asdict(self)
        data["boxes"] = {str(place): [round(edge, 4) for edge in box] for place, box in self.boxes.items()}
        data["score"] = round(self.score, 4)
        for relation in data["relations"]:
            if relation["margin"] is not None:
                relation["margin"] = round(relation["margin"], 4)
        return data


@dataclass(frozen=True)
class Attempt:
    """One picture of a search, as it was judged; `prompt` is what was painted."""

    seed: int
    prompt: str
    picture: Image.Image = field(repr=False)
    judgement: Judgement


@dataclass(frozen=True)
class Search:
    """Everything a search did.

    Args:
        attempts: In the order of painting; none is left out.
        best: Place of the one to show.
        rephrased: The words that took over after pictures without some object, or "".
        is_stopped: Whether somebody asked it to stop.
    """

    attempts: tuple[Attempt, ...]
    best: int
    rephrased: str
    is_stopped: bool

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; pictures are left out."""
        return {
            "attempts": attempts_json(self.attempts),
            "best": self.best,
            "accepted": sum(attempt.judgement.passed for attempt in self.attempts),
            "rephrased": self.rephrased,
        }


def attempts_json(attempts: Sequence[Attempt]) -> list[dict[str, Any]]:
    """Seed and judgement of each, plain JSON values."""
    return [{"seed": attempt.seed, "judgement": attempt.judgement.to_json()} for attempt in attempts]


class Judge(Protocol):
    """What holds pictures against prompts. The real one is `studio.doors.judging.PipelineJudge`.

    `eyes` is what `Looker.load_eyes` gave.
    """

    def problem(self, prompt: str) -> str:
        """Why no picture can be verified against this prompt, in one sentence, or ""."""

    def judge(self, eyes: Any, prompt: str, picture: Image.Image) -> Judgement:
        """What a picture says about a prompt."""

    def search(
        self,
        eyes: Any,
        prompt: str,
        paint: Callable[[str, int], Image.Image],
        seeds: Sequence[int],
        on_attempt: Callable[[Attempt], None],
        should_stop: Callable[[], bool],
    ) -> Search:
        """Paint with one seed after the other until a picture passes or the seeds are used up."""

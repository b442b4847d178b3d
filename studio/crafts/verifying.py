"""Verification: pictures held against their prompts, and painting until one passes or the budget is spent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from studio.crafts.craft import News
from studio.crafts.reports import Report
from studio.gallery.encoding import thumbnail_bytes
from studio.judging import Attempt, Judge, Judgement, Search, attempts_json
from studio.painter import PaintingStopped, ProgressReport
from studio.registry import ModelCard, Registry
from studio.seeing import Eyes


@dataclass(frozen=True)
class Share:
    """The part of a whole job that one of its paintings is: it begins at `start` and takes `length` of it."""

    start: float
    length: float

    def scaled(self, news: News, attempt: tuple[int, int] | None = None) -> Callable[[ProgressReport], None]:
        """Where the painting's own reports go: their fractions become those of the whole job.

        Args:
            news: Hears of the whole job.
            attempt: (which, of how many) while a search goes on.
        """

        def report(inner: ProgressReport) -> None:
            if news.report is None:
                return
            fraction = self.start + self.length * inner.fraction
            steps = (inner.stage, inner.stages, inner.step, inner.steps)
            phase = inner.phase
            if attempt is not None:
                phase, steps = "verify", (0, 0, *attempt)
            news.report(Report(phase, *steps, fraction, inner.width, inner.height, inner.preview))

        return report


class Verifier:
    """Knows what can be verified, and does it.

    Args:
        registry: Says whether there are eyes.
        eyes: Look.
        judge: Holds what they see against prompts.
    """

    def __init__(self, registry: Registry, eyes: Eyes, judge: Judge) -> None:
        self._registry = registry
        self._eyes = eyes
        self._judge = judge

    def problem(self, card: ModelCard, prompt: str) -> str:
        """Why pictures of this model can't be verified against this prompt, in one sentence, or ""."""
        if not card.embedded:
            return f"the eyes know Storybook's world only, not what {card.name} paints."
        if not self._registry.has("eyes"):
            return "no eyes are installed (storybook-eyes)."
        return self._judge.problem(prompt)

    def judge(self, prompt: str, picture: Image.Image) -> Judgement:
        """What a picture says about a prompt.

        Raises:
            StudioError: the eyes are missing or damaged.
        """
        return self._eyes.used(lambda eyes: self._judge.judge(eyes, prompt, picture))

    def search(
        self, prompt: str, paint: Callable[[str, int], Image.Image], seeds: Sequence[int], news: News
    ) -> Search:
        """Paint with one seed after the other until a picture passes or the seeds are used up.

        Raises:
            PaintingStopped: somebody asked to stop.
        """
        attempts: list[Attempt] = []

        def on_attempt(attempt: Attempt) -> None:
            attempts.append(attempt)
            news.keep(f"attempt-{len(attempts)}.webp", thumbnail_bytes(attempt.picture))
            news.show({"attempts": attempts_json(attempts)})

        # painting takes long: the eyes are handed over once, not held
        eyes = self._eyes.used(lambda eyes: eyes)
        search = self._judge.search(eyes, prompt, paint, seeds, on_attempt, news.should_stop)
        if search.is_stopped:
            raise PaintingStopped
        return search

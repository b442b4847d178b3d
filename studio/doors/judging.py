"""The door to CoMPaSS's verdicts and search, imported when first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from studio.judging import Attempt, Judgement, RelationVerdict, Search

if TYPE_CHECKING:
    from pipelines.compass import search as compass_search
    from pipelines.compass.judging import Verdict
    from pipelines.compass.parser import ParsedPrompt


class PipelineJudge:
    """The real `Judge`."""

    def problem(self, prompt: str) -> str:
        """See `Judge`."""
        from pipelines.compass.detectors import wanted_object

        parsed = _parsed(prompt)
        if parsed.contradictions:
            return f"no picture can show this: {parsed.contradictions[0].message}."
        if not any(wanted_object(entity.noun) for entity in parsed.entities):
            return "the prompt names nothing that the eyes know."
        return ""

    def judge(self, eyes: Any, prompt: str, picture: Image.Image) -> Judgement:
        """See `Judge`."""
        from pipelines.compass.detectors import StorybookDetector
        from pipelines.compass.judging import judge

        parsed, detector = _parsed(prompt), StorybookDetector(eyes)
        knows = [detector.knows(entity.noun) for entity in parsed.entities]
        names = [entity.noun for entity, known in zip(parsed.entities, knows, strict=True) if known]
        found = detector(picture, names) if names else []
        return _judgement(parsed, judge(parsed, found, picture.size, knows=knows), picture.size)

    def search(
        self,
        eyes: Any,
        prompt: str,
        paint: Callable[[str, int], Image.Image],
        seeds: Sequence[int],
        on_attempt: Callable[[Attempt], None],
        should_stop: Callable[[], bool],
    ) -> Search:
        """See `Judge`."""
        from pipelines.compass.detectors import StorybookDetector
        from pipelines.compass.search import SearchOptions, search

        parsed = _parsed(prompt)

        def whole(text: str) -> str:
            """What is painted: the prompt as it was written, or the search's own words."""
            return prompt if text == parsed.text else text

        report = search(
            lambda text, wave: [paint(whole(text), seed) for seed in wave],
            StorybookDetector(eyes),
            parsed,
            SearchOptions(budget=len(seeds)),
            seeds=seeds,
            on_attempt=lambda attempt: on_attempt(_attempt(parsed, attempt, whole)),
            should_stop=should_stop,
        )
        attempts = tuple(_attempt(parsed, attempt, whole) for attempt in report.attempts)
        return Search(attempts, report.best or 0, report.rephrased or "", report.stopped == "asked")


def _parsed(prompt: str) -> ParsedPrompt:
    """The prompt as the parser should see it: `BREAK` ends a sentence and names nothing."""
    from pipelines.compass.parser import parse_prompt
    from pipelines.longalign.prompt_weights import hide_breaks

    return parse_prompt(hide_breaks(prompt))


def _attempt(parsed: ParsedPrompt, attempt: compass_search.Attempt, whole: Callable[[str], str]) -> Attempt:
    judgement = _judgement(parsed, attempt.verdict, attempt.picture.size)
    return Attempt(attempt.seed, whole(attempt.prompt), attempt.picture, judgement)


def _judgement(parsed: ParsedPrompt, verdict: Verdict, size: tuple[int, int]) -> Judgement:
    width, height = size
    names = [entity.text for entity in parsed.entities]
    relations = tuple(
        RelationVerdict(parsed.describe(relation), result.passed, result.margin, result.reason)
        for relation, result in zip(parsed.relations, verdict.relations, strict=True)
    )
    boxes = {
        place: (found.box[0] / width, found.box[1] / height, found.box[2] / width, found.box[3] / height)
        for place, found in verdict.boxes.items()
    }
    return Judgement(
        relations=relations,
        things=tuple(names),
        boxes=boxes,
        missing=tuple(names[place] for place in verdict.missing),
        unknown=tuple(names[place] for place in verdict.unknown),
        passed=verdict.passed,
        score=verdict.score,
    )

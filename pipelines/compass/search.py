"""Paint, look, judge, and paint again until a picture shows what the prompt says or the budget is spent.

The painter is any callable: the loop knows neither pipelines nor devices, and works offline with anything.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from PIL import Image

from pipelines.compass.detectors import ObjectDetector
from pipelines.compass.judging import RULES, TEMPERATURE, Verdict, judge
from pipelines.compass.parser import ParsedPrompt, parse_prompt
from pipelines.compass.prompt_text import rephrased

Paint = Callable[[str, Sequence[int]], Sequence[Image.Image]]
REPHRASE_AFTER = 2  # pictures in a row that miss an object


@dataclass(frozen=True)
class Attempt:
    """One picture that was painted, and what it shows. `prompt` is what was really painted."""

    seed: int
    prompt: str
    picture: Image.Image
    verdict: Verdict


@dataclass(frozen=True)
class SearchReport:
    """Everything a search did; no picture is left out.

    Attributes:
        parsed: what was asked for. attempts: in the order of painting.
        best: index of the picture to show: one that passed, of these the one with the highest score.
        rephrased: the prompt that took over after pictures without some object, or None.
        stopped: "accepted", "budget" or "asked" (`should_stop`).
    """

    parsed: ParsedPrompt
    attempts: tuple[Attempt, ...]
    best: int | None
    rephrased: str | None
    stopped: str

    @property
    def accepted(self) -> tuple[int, ...]:
        return tuple(index for index, attempt in enumerate(self.attempts) if attempt.verdict.passed)

    @property
    def acceptance_rate(self) -> float:
        """Share of the pictures that passed; 0 without any."""
        return len(self.accepted) / len(self.attempts) if self.attempts else 0.0


@dataclass(frozen=True)
class SearchOptions:
    """How long and by what measure.

    Attributes:
        budget: pictures at most. wanted: accepted pictures after which it stops; 0: paint the whole budget.
        wave: pictures painted at once. rule, temperature: see `judging.judge`.
        rephrase: form (`prompt_text.FORMS`) that takes over when the first pictures all miss an object: a
            missing object, not a wrong place, is the most frequent failure. Prompts of several sentences
            and prompts that would lose words stay as they are. None: never.
    Raises:
        ValueError: a value out of range.
    """

    budget: int = 8
    wanted: int = 1
    wave: int = 1
    rule: str = "geneval"
    temperature: float = TEMPERATURE
    rephrase: str | None = "plain"

    def __post_init__(self) -> None:
        if self.budget < 1 or self.wave < 1 or self.wanted < 0:
            raise ValueError(
                f"budget is {self.budget}, wave {self.wave}, wanted {self.wanted}; "
                "allowed are at least 1, 1 and 0"
            )
        if self.rule not in RULES:
            raise ValueError(f"rule is {self.rule!r}; it must be one of {RULES}")


def search(
    paint: Paint,
    detector: ObjectDetector,
    prompt: str | ParsedPrompt,
    options: SearchOptions | None = None,
    *,
    seeds: Iterable[int] | None = None,
    on_attempt: Callable[[Attempt], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SearchReport:
    """Look for a picture that shows what a prompt says about space.

    Args:
        paint: `(prompt, seeds) -> pictures`, one for each seed.
        detector: finds the things of the prompt; also with several calls in a row it must not change.
        prompt: text, or what `parse_prompt` made of it.
        seeds: one for each picture. Default: 0, 1, 2, ...
        on_attempt: called with each picture as soon as it was judged.
        should_stop: asked before each wave.
    Raises:
        ValueError: relations that contradict each other, or fewer seeds than the budget.
    """
    options = options or SearchOptions()
    parsed = parse_prompt(prompt) if isinstance(prompt, str) else prompt
    if contradictions := parsed.contradictions:
        raise ValueError(f"no picture can show this: {contradictions[0].message}")
    order = list(range(options.budget)) if seeds is None else list(seeds)[: options.budget]
    if len(order) < options.budget:
        raise ValueError(f"{len(order)} seeds were given for a budget of {options.budget} pictures")
    loop = _Loop(paint, detector, parsed, options, on_attempt)
    stopped = "budget"
    while order:
        if should_stop is not None and should_stop():
            stopped = "asked"
            break
        wave, order = order[: options.wave], order[options.wave :]
        loop.paint_wave(wave)
        if options.wanted and loop.accepted >= options.wanted:
            stopped = "accepted"
            break
        loop.maybe_rephrase()
    return SearchReport(parsed, tuple(loop.attempts), loop.best, loop.rephrased, stopped)


class _Loop:
    def __init__(
        self,
        paint: Paint,
        detector: ObjectDetector,
        parsed: ParsedPrompt,
        options: SearchOptions,
        on_attempt: Callable[[Attempt], None] | None,
    ) -> None:
        self.paint, self.detector, self.parsed, self.options = paint, detector, parsed, options
        self.on_attempt = on_attempt
        self.text = parsed.text
        self.names = [entity.noun for entity in parsed.entities]
        self.knows = [detector.knows(name) for name in self.names]
        self.attempts: list[Attempt] = []
        self.rephrased: str | None = None

    @property
    def accepted(self) -> int:
        return sum(attempt.verdict.passed for attempt in self.attempts)

    @property
    def best(self) -> int | None:
        ranked = [
            (attempt.verdict.passed, attempt.verdict.score, -index)
            for index, attempt in enumerate(self.attempts)
        ]
        return -max(ranked)[2] if ranked else None

    def paint_wave(self, seeds: Sequence[int]) -> None:
        pictures = self.paint(self.text, seeds)
        for seed, picture in zip(seeds, pictures, strict=True):
            asked = [name for name, known in zip(self.names, self.knows, strict=True) if known]
            detected = self.detector(picture, asked) if asked else []
            verdict = judge(
                self.parsed,
                detected,
                picture.size,
                rule=self.options.rule,
                knows=self.knows,
                temperature=self.options.temperature,
            )
            attempt = Attempt(seed, self.text, picture, verdict)
            self.attempts.append(attempt)
            if self.on_attempt is not None:
                self.on_attempt(attempt)

    def maybe_rephrase(self) -> None:
        """Say it in canonical words when the first pictures all miss an object and nothing gets lost."""
        form = self.options.rephrase
        if form is None or self.rephrased is not None or len(self.attempts) < REPHRASE_AFTER:
            return
        if all(attempt.verdict.missing for attempt in self.attempts):
            canonical = rephrased(self.parsed, form)
            if canonical is not None:
                self.rephrased = self.text = canonical


def success_curve(passed: Sequence[Sequence[bool]], budgets: Sequence[int]) -> dict[int, float]:
    """Measured share of prompts with a success within the first n pictures.

    Args:
        passed: for each prompt, whether each of its pictures passed, in the order of painting.
    """
    if not passed:
        return dict.fromkeys(budgets, 0.0)
    return {n: sum(any(row[:n]) for row in passed) / len(passed) for n in budgets}


def independent_success(rate: float, budget: int) -> float:
    """What independence would give: 1 - (1 - p)^n. Real prompts are easy or hard, and it is less."""
    return 1 - (1 - rate) ** budget


def fit_beta_binomial(successes: Sequence[int], trials: int) -> tuple[float, float]:
    """(alpha, beta) of a beta-binomial with the same mean and variance as the counts (method of moments).

    Args:
        successes: for each prompt, how many of its `trials` pictures passed.
    Returns:
        Very large values with the right ratio where the counts vary no more than independence would.
    Raises:
        ValueError: no count, or fewer than two trials.
    """
    if not successes or trials < 2:
        raise ValueError(f"{len(successes)} counts of {trials} trials were given; at least 1 of 2 are needed")
    count = len(successes)
    mean = sum(successes) / count / trials
    if mean in (0.0, 1.0):
        return (1e-6, 1.0) if mean == 0.0 else (1.0, 1e-6)
    variance = sum((value / trials - mean) ** 2 for value in successes) / count
    binomial = mean * (1 - mean) / trials
    # share of the variance that lies between prompts, 0 to 1
    rho = (variance / binomial - 1) / (trials - 1)
    rho = min(max(rho, 1e-9), 1 - 1e-9)
    total = 1 / rho - 1
    return mean * total, (1 - mean) * total


def beta_binomial_success(alpha: float, beta: float, budget: int) -> float:
    """Probability of at least one success in n pictures: 1 - B(a, b + n) / B(a, b)."""
    log = math.lgamma(beta + budget) + math.lgamma(alpha + beta)
    log -= math.lgamma(beta) + math.lgamma(alpha + beta + budget)
    return 1 - math.exp(log)


def pipeline_painter(pipeline: object, **options: object) -> Paint:
    """A painter from a diffusers pipeline; each seed has a generator of its own."""

    def paint(prompt: str, seeds: Sequence[int]) -> Sequence[Image.Image]:
        import torch

        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipeline([prompt] * len(seeds), generator=generators, **options).images  # type: ignore[operator]

    return paint

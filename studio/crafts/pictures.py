"""From a request to a painted picture: checks, forecast, model, painting, recipe, gallery."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from studio.checks import MAX_PIXELS, MAX_SEED, MAX_STEPS, check_integer, check_side, clean_prompt
from studio.crafts.craft import SILENT, Forecast, News, Plan, loaded, memory_told
from studio.crafts.guides import GuideKeeper
from studio.crafts.verifying import Share, Verifier
from studio.crafts.world import World
from studio.errors import StudioError
from studio.gallery.gallery import Gallery
from studio.jobs.records import JobRecord, Outcome
from studio.judging import Judgement, Search
from studio.painter import Painter, PaintingResult
from studio.recipes import Recipe, make_recipe
from studio.registry import ModelCard, Registry
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.styles import Style, find_style


@dataclass(frozen=True)
class Painted:
    """A finished picture in memory; it fulfils `Product`.

    Args:
        image: RGB.
        recipe: Goes into the file.
        search: The search for it, when it was verified.
        judgement: What it says about its prompt, when it was verified.
    """

    image: Image.Image
    recipe: Recipe
    search: Search | None = None
    judgement: Judgement | None = None

    @property
    def seconds(self) -> dict[str, float]:
        """Per phase."""
        return self.recipe.seconds

    @property
    def warnings(self) -> tuple[str, ...]:
        """Sentences the person should read."""
        return self.recipe.warnings

    @property
    def peak_bytes(self) -> int:
        """Peak resident memory of the process."""
        return self.recipe.peak_bytes

    @property
    def result(self) -> dict[str, Any]:
        """What verification found; nothing without it."""
        if self.search is None or self.judgement is None:
            return {}
        return {**self.search.to_json(), "judgement": self.judgement.to_json()}


class PictureMaker:
    """Checks and paints requests. Painting is for one thread at a time; everything else is thread-safe.

    It needs no data folder: the shell's commands use it as it is, the queue through `PictureCraft`.

    Args:
        settings: Limits.
        registry: Models.
        painter: What paints.
        verifier: Holds pictures against prompts.
        styles: Style presets.
    """

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        painter: Painter,
        verifier: Verifier,
        styles: tuple[Style, ...] = (),
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._painter = painter
        self._verifier = verifier
        self._styles = styles
        self._world = World(painter)

    def check(self, request: ImageRequest) -> Plan:
        """Everything that can be refused before painting, refused here.

        Raises:
            StudioError: a limit of these settings, an unknown model or style, a size or memory out of reach.
        """
        clean_prompt(request.prompt, self._settings.max_prompt_chars)
        prompt, remark = self.painted_prompt(request.prompt, request.style)
        card = self._registry.paintable(request.model)
        forecast = self.forecast(request.width, request.height, request.steps, request.model)
        if not forecast.fits:
            raise StudioError(
                "too_large",
                f"size: {request.size} needs about {forecast.memory_bytes / 1e9:.1f} GB of memory, "
                "more than this machine has free.",
                "Choose a smaller size.",
            )
        if request.tenor and card.tenor is None:
            raise StudioError("bad_input", f"tenor: {card.name} was not trained with it, allowed is without.")
        if request.verify:
            forecast = self._with_search(request, forecast)
            problem = self._verifier.problem(card, prompt)
            if problem:
                raise StudioError("bad_input", f"verify: {problem}")
        unknown = self.unknown_words(prompt, request.model)
        warnings = tuple(text for text in (remark, self._world.sentence(unknown)) if text)
        # the alias a person typed may mean another model one day
        return Plan(replace(request, model=card.name), prompt, card, forecast, unknown, warnings)

    def forecast(self, width: int, height: int, steps: int | None, model: str) -> Forecast:
        """Time and memory of a picture.

        Raises:
            StudioError: a size or number of steps that is not allowed, a model that can't paint.
        """
        check_side("width", width, self._settings.max_side)
        check_side("height", height, self._settings.max_side)
        if width * height > MAX_PIXELS:
            raise StudioError(
                "bad_input", f"size: given {width}x{height}, allowed up to {MAX_PIXELS:,} pixels."
            )
        if steps is not None:
            check_integer("steps", steps, 1, MAX_STEPS)
        card = self._registry.paintable(model)
        refusal = self._painter.check_size(width, height)
        if refusal:
            raise StudioError("bad_input", f"size: {refusal}")
        try:
            cost = self._painter.forecast(card.folder, width, height, steps)
        except ValueError as error:
            raise StudioError("bad_input", f"size: {str(error).rstrip('.')}.") from error
        stages = tuple((int(stage[0]), int(stage[1])) for stage in cost.stages)
        return Forecast(cost.seconds, cost.memory_bytes, stages, cost.fits)

    def painted_prompt(self, prompt: str, style: str | None) -> tuple[str, str]:
        """The text to paint, and a sentence when the style adds nothing ("" otherwise)."""
        return find_style(self._styles, style).apply(prompt) if style else (prompt, "")

    def unknown_words(self, prompt: str, model: str) -> tuple[str, ...]:
        """See `World.unknown_words`."""
        return self._world.unknown_words(self._registry.card(model), prompt)

    def paint(self, plan: Plan, news: News = SILENT) -> Painted:
        """Paint a checked request on this thread.

        Raises:
            PaintingStopped: `news.should_stop` said yes.
            StudioError: the model or the memory failed.
        """
        card, model, load_seconds = loaded(self._registry, plan.card, news)
        painting = _Painting(self._painter, model, plan, news)
        request = plan.request
        search, judgement = None, None
        if request.verify:
            search = painting.search(self._verifier)
            judgement = self._verifier.judge(plan.prompt, painting.result.image)
        result = painting.result if search else painting.paint_whole()
        recipe = make_recipe(
            # the seed alone gives the picture again, without any search
            replace(request, seed=painting.seed, verify=0),
            painting.prompt,
            request.steps or self._painter.default_steps(card.folder),
            result,
            model_sha256=_model_hash(self._painter, self._settings.weights_dir, card),
            warnings=tuple(dict.fromkeys((*plan.warnings, *result.warnings, *_remarks(search, judgement)))),
            unknown_words=plan.unknown_words,
        )
        seconds = {**recipe.seconds, **painting.seconds}
        seconds["load"] = load_seconds + recipe.seconds.get("load", 0.0)
        return Painted(result.image, replace(recipe, seconds=seconds), search, judgement)

    def judge(self, recipe: Recipe, picture: Image.Image) -> Judgement | None:
        """What a finished picture says about its prompt; None when nothing can be told."""
        card = self._registry.card(recipe.request.model)
        if self._verifier.problem(card, recipe.prompt):
            return None
        return self._verifier.judge(recipe.prompt, picture)

    def _with_search(self, request: ImageRequest, forecast: Forecast) -> Forecast:
        """The forecast with all the small pictures that a search may paint."""
        width, height = forecast.stages[0]
        small = self.forecast(width, height, request.steps, request.model)
        count = request.verify - 1 if len(forecast.stages) == 1 else request.verify
        return replace(forecast, seconds=forecast.seconds + count * small.seconds)


class _Painting:
    """One run of a checked request.

    Attributes:
        prompt, seed: What the result was painted with.
        result: The picture, once painted.
        seconds: Per phase, besides those of the result.
    """

    def __init__(self, painter: Painter, model: Any, plan: Plan, news: News) -> None:
        self._painter, self._model, self._plan, self._news = painter, model, plan, news
        self.prompt: str = plan.prompt
        self.seed: int = plan.request.seed
        self.seconds: dict[str, float] = {}
        self.result: PaintingResult

    def paint_whole(self, share: Share | None = None) -> PaintingResult:
        """The picture at the size that was asked for; `share` is its part of the job."""
        request = self._plan.request
        self.result = self._paint((request.width, request.height), share)
        return self.result

    def search(self, verifier: Verifier) -> Search:
        """Look for a seed at the size of the first stage, then paint the picture from it.

        Raises:
            PaintingStopped: somebody asked to stop.
        """
        request, news = self._plan.request, self._news
        stages = self._plan.forecast.stages
        small, is_whole = stages[0], len(stages) == 1
        # an attempt is about one stage's work of the large picture's: the bar need not be finer than that
        share = 1.0 / (request.verify + (0 if is_whole else 4 * (len(stages) - 1)))
        painted: dict[tuple[str, int], PaintingResult] = {}
        began = time.monotonic()

        def paint(prompt: str, seed: int) -> Image.Image:
            self.prompt, self.seed = prompt, seed
            number = len(painted)
            found = self._paint(small, Share(number * share, share), (number + 1, request.verify))
            painted[prompt, seed] = found
            return found.image

        seeds = [(request.seed + number) % (MAX_SEED + 1) for number in range(request.verify)]
        search = verifier.search(self._plan.prompt, paint, seeds, news)
        best = search.attempts[search.best]
        self.prompt, self.seed = best.prompt, best.seed
        self.seconds["verify"] = time.monotonic() - began
        if is_whole:
            self.result = painted[best.prompt, best.seed]
        else:
            self.paint_whole(Share(request.verify * share, 1.0 - request.verify * share))
        return search

    def _paint(
        self, size: tuple[int, int], share: Share | None, attempt: tuple[int, int] | None = None
    ) -> PaintingResult:
        width, height = size
        request, news = self._plan.request, self._news
        report = share.scaled(news, attempt) if share else news.report
        if report is not None and attempt is None:
            report = GuideKeeper(report, news.keep)
        with memory_told(f"painting {width}x{height}", "Choose a smaller size."):
            result = self._painter.paint(
                self._model,
                prompt=self.prompt,
                width=width,
                height=height,
                seed=self.seed,
                steps=request.steps,
                on_progress=report,
                should_stop=news.should_stop,
                tenor=request.tenor,
                cut_prompt=request.cut_prompt,
            )
        if result.image.size != (width, height) or result.image.mode != "RGB":
            raise RuntimeError(f"painter gave {result.image.mode} {result.image.size} for {width}x{height}")
        return result


def _remarks(search: Search | None, judgement: Judgement | None) -> list[str]:
    """What a person should know about a verified picture."""
    if search is None or judgement is None:
        return []
    remarks = []
    if search.rephrased:
        remarks.append(f"Painted in other words, since objects were missing: {search.rephrased}")
    if not any(attempt.judgement.passed for attempt in search.attempts):
        count = len(search.attempts)
        several = f"None of {count} pictures shows" if count > 1 else "This picture does not show"
        remarks.append(f"{several} everything that the prompt says; this is the best one.")
    elif not judgement.passed:
        remarks.append("The small picture it grew from showed everything that the prompt says; it does not.")
    return remarks


class PictureCraft:
    """`PictureMaker` as the queue uses it; it fulfils `Craft`.

    Args:
        maker: Checks and paints.
        gallery: Takes finished pictures.
    """

    resumes = False

    def __init__(self, maker: PictureMaker, gallery: Gallery) -> None:
        self._maker = maker
        self._gallery = gallery

    def check(self, request: ImageRequest) -> Plan:
        """See `PictureMaker.check`."""
        return self._maker.check(request)

    def make(self, record: JobRecord, plan: Plan, news: News) -> Painted:
        """See `PictureMaker.paint`."""
        return self._maker.paint(plan, news)

    def save(self, record: JobRecord, product: Painted, keep_going: Callable[[], bool]) -> None:
        """See `Gallery.add`."""
        self._gallery.add(record.id, product.image, product.recipe, keep_going, record.owner)

    def recover(self, record: JobRecord) -> Outcome | None:
        """A picture that is in the gallery is done, whatever its record says."""
        if not self._gallery.has(record.id):
            return None
        self._gallery.set_owner(record.id, record.owner)
        recipe = self._gallery.get(record.id).recipe
        return Outcome("done", recipe.seconds, recipe.warnings, recipe.peak_bytes)

    def room_bytes(self, request: ImageRequest) -> int:
        """Bytes of the picture without any compression."""
        return request.amount * 4


def _model_hash(painter: Painter, weights_dir: Path, card: ModelCard) -> str:
    """One hash over the manifest's hashes of the model's files; "" for models without an entry."""
    files = painter.read_manifest(weights_dir).get("models", {}).get(card.name, {}).get("files", {})
    lines = sorted(f"{path} {facts.get('sha256', '')}\n" for path, facts in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""

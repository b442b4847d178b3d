"""From a request to a painted picture: checks, forecast, model, painting, recipe. No queue, no files.

Apart from the doctor, this is the one module of the studio that imports the painting side of `pipelines`.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from studio.errors import StudioError
from studio.painter import CostForecast, Painter, PaintingResult, PaintingStopped, ProgressReport
from studio.recipes import Recipe, make_recipe
from studio.registry import REPAIR, ModelCard, Registry
from studio.requests import MAX_PIXELS, MAX_STEPS, ImageRequest, check_integer, check_side, clean_prompt
from studio.settings import Settings
from studio.styles import Style, find_style

_MAX_UNKNOWN_WORDS = 50


@dataclass(frozen=True)
class Forecast:
    """What a picture will take.

    Args:
        seconds: Painting time on this machine.
        memory_bytes: Peak memory of the process.
        stages: (width, height) of each stage.
        fits: Whether the machine has that memory.
    """

    seconds: float
    memory_bytes: int
    stages: tuple[tuple[int, int], ...]
    fits: bool

    @property
    def sentence(self) -> str:
        """For instance "about 20 s, 1.2 GB, fits"."""
        verdict = "fits" if self.fits else "does not fit into this machine's memory"
        return f"about {duration(self.seconds)}, {self.memory_bytes / 1e9:.1f} GB, {verdict}"


@dataclass(frozen=True)
class Plan:
    """A request that has passed every check.

    Args:
        request: As asked.
        prompt: The text to paint, style words included.
        card: The model.
        forecast: Time and memory.
        unknown_words: Words the model does not know.
        warnings: Sentences the person should read.
    """

    request: ImageRequest
    prompt: str
    card: ModelCard
    forecast: Forecast
    unknown_words: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Painted:
    """A finished picture in memory.

    Args:
        image: RGB.
        recipe: Goes into the file.
        peak_bytes: Peak resident memory.
    """

    image: Image.Image
    recipe: Recipe
    peak_bytes: int


class Runner:
    """Checks and paints requests. Painting is for one thread at a time; everything else is thread-safe.

    Args:
        settings: Limits.
        registry: Models.
        painter: What paints.
        styles: Style presets.
    """

    def __init__(
        self, settings: Settings, registry: Registry, painter: Painter, styles: tuple[Style, ...] = ()
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._painter = painter
        self._styles = styles

    def check(self, request: ImageRequest, pace: float = 1.0) -> Plan:
        """Everything that can be refused before painting, refused here.

        Args:
            request: Already valid in itself.
            pace: Factor on the forecast seconds, from earlier jobs.
        Raises:
            StudioError: a limit of these settings, an unknown model or style, a size or memory out of reach.
        """
        clean_prompt(request.prompt, self._settings.max_prompt_chars)
        prompt, remark = self.painted_prompt(request.prompt, request.style)
        card = self._registry.paintable(request.model)
        forecast = self.forecast(request.width, request.height, request.steps, request.model, pace)
        if not forecast.fits:
            raise StudioError(
                "too_large",
                f"size: {request.size} needs about {forecast.memory_bytes / 1e9:.1f} GB of memory, "
                "more than this machine has free.",
                "Choose a smaller size.",
            )
        unknown = self.unknown_words(prompt, request.model)
        warnings = tuple(text for text in (remark, self._unknown_sentence(unknown)) if text)
        return Plan(request, prompt, card, forecast, unknown, warnings)

    def forecast(self, width: int, height: int, steps: int | None, model: str, pace: float = 1.0) -> Forecast:
        """Time and memory of a picture.

        Raises:
            StudioError: a size or number of steps that is not allowed, a model that can't paint.
        """
        check_side("width", width, self._settings.max_side)
        check_side("height", height, self._settings.max_side)
        if width * height > MAX_PIXELS:
            raise StudioError(
                "bad_input", f"size: given {width}x{height}, allowed up to {MAX_PIXELS / 1e6:.0f} megapixels."
            )
        if steps is not None:
            check_integer("steps", steps, 1, MAX_STEPS)
        card = self._registry.paintable(model)
        refusal = self._painter.check_size(width, height)
        if refusal:
            raise StudioError("bad_input", f"size: {refusal}")
        cost = self._painter.forecast(card.folder, width, height, steps)
        stages = tuple((int(stage[0]), int(stage[1])) for stage in cost.stages)
        return Forecast(cost.seconds * pace, cost.memory_bytes, stages, cost.fits)

    def painted_prompt(self, prompt: str, style: str | None) -> tuple[str, str]:
        """The text to paint, and a sentence when the style adds nothing ("" otherwise)."""
        return find_style(self._styles, style).apply(prompt) if style else (prompt, "")

    def unknown_words(self, prompt: str, model: str) -> tuple[str, ...]:
        """Words of `prompt` the model does not know, at most 50; none for models with an open vocabulary."""
        if not self._registry.card(model).embedded:
            return ()
        words = dict.fromkeys(word[:60] for word in self._painter.unknown_words(prompt))
        return tuple(words)[:_MAX_UNKNOWN_WORDS]

    def paint(
        self,
        plan: Plan,
        on_progress: Callable[[ProgressReport], None] | None = None,
        should_stop: Callable[[], bool] | None = None,
        on_loading: Callable[[str], None] | None = None,
    ) -> Painted:
        """Paint a checked request on this thread.

        Args:
            plan: From `check`.
            on_progress: Hears what the painter reports.
            should_stop: Polled between steps and tiles.
            on_loading: Hears the model's name when it has to be loaded first.
        Raises:
            PaintingStopped: `should_stop` said yes.
            StudioError: the model or the memory failed.
        """
        stop = should_stop or (lambda: False)
        began = time.monotonic()
        if on_loading and not self._registry.is_loaded(plan.card.name):
            on_loading(plan.card.name)
        card, model = self._registry.load(plan.card.name)
        load_seconds = time.monotonic() - began
        if stop():
            raise PaintingStopped
        request = plan.request
        result = self._paint(model, plan, on_progress, stop)
        recipe = make_recipe(
            # the alias a person typed may mean another model one day
            replace(request, model=card.name),
            plan.prompt,
            request.steps or self._painter.default_steps(card.folder),
            result,
            model_sha256=_model_hash(self._painter, self._settings.weights_dir, card),
            warnings=(*plan.warnings, *result.warnings),
            unknown_words=plan.unknown_words,
        )
        seconds = {**recipe.seconds, "load": load_seconds + recipe.seconds.get("load", 0.0)}
        return Painted(result.image, replace(recipe, seconds=seconds), result.peak_bytes)

    def _paint(
        self,
        model: Any,
        plan: Plan,
        on_progress: Callable[[ProgressReport], None] | None,
        should_stop: Callable[[], bool],
    ) -> PaintingResult:
        request = plan.request
        try:
            result = self._painter.paint(
                model,
                prompt=plan.prompt,
                width=request.width,
                height=request.height,
                seed=request.seed,
                steps=request.steps,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        except (MemoryError, RuntimeError) as error:
            # torch's own out-of-memory error is told by name: the studio does not import torch
            if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
                raise StudioError(
                    "too_large",
                    f"The memory ran out while painting {request.size}.",
                    "Choose a smaller size.",
                ) from error
            raise
        if result.image.size != (request.width, request.height) or result.image.mode != "RGB":
            raise RuntimeError(f"painter gave {result.image.mode} {result.image.size} for {request.size}")
        return result

    def _unknown_sentence(self, unknown: tuple[str, ...]) -> str:
        if not unknown:
            return ""
        return f"Not in Storybook's world: {', '.join(unknown)}; it knows: {self._painter.world_summary()}"


class PipelinePainter:
    """The real painter: `pipelines`, imported when first needed."""

    def load_model(self, folder: Path) -> Any:
        """See `Painter`."""
        from pipelines.compose import painting

        return painting.load_model(folder)

    def paint(
        self,
        model: Any,
        *,
        prompt: str,
        width: int,
        height: int,
        seed: int,
        steps: int | None,
        on_progress: Callable[[ProgressReport], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> PaintingResult:
        """See `Painter`."""
        from pipelines.compose import painting

        try:
            result: PaintingResult = painting.paint(
                model,
                prompt=prompt,
                width=width,
                height=height,
                seed=seed,
                steps=steps,
                on_progress=on_progress,
                should_stop=should_stop,
            )
        except painting.Cancelled as error:
            raise PaintingStopped from error
        return result

    def forecast(self, folder: Path, width: int, height: int, steps: int | None) -> CostForecast:
        """See `Painter`."""
        from pipelines.compose import painting

        cost: CostForecast = painting.forecast(folder, width, height, steps)
        return cost

    def check_size(self, width: int, height: int) -> str | None:
        """See `Painter`."""
        from pipelines.compose import painting

        refusal: str | None = painting.check_size(width, height)
        return refusal

    def default_steps(self, folder: Path) -> int:
        """See `Painter`."""
        from pipelines.compose import painting

        return int(painting.default_steps(folder))

    def unknown_words(self, prompt: str) -> list[str]:
        """See `Painter`."""
        from pipelines.storybook import vocabulary

        return list(vocabulary.unknown_words(prompt))

    def world_summary(self) -> str:
        """See `Painter`."""
        from pipelines.storybook import vocabulary

        return str(vocabulary.world_summary())

    def read_manifest(self, weights_dir: Path) -> Mapping[str, Any]:
        """See `Painter`."""
        if not (weights_dir / "MANIFEST.json").is_file():
            return {"models": {}}
        from pipelines import weights

        try:
            manifest: Mapping[str, Any] = weights.read_manifest(weights_dir)
        except (OSError, ValueError) as error:
            raise StudioError("damaged_model", "The weights' MANIFEST.json can't be read.", REPAIR) from error
        return manifest

    def verify_folder(self, folder: Path) -> list[str]:
        """See `Painter`."""
        from pipelines import weights

        return list(weights.verify_folder(folder))


def duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = max(2, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _model_hash(painter: Painter, weights_dir: Path, card: ModelCard) -> str:
    """One hash over the manifest's hashes of the model's files; "" for models without an entry."""
    files = painter.read_manifest(weights_dir).get("models", {}).get(card.name, {}).get("files", {})
    lines = sorted(f"{path} {facts.get('sha256', '')}\n" for path, facts in files.items())
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""

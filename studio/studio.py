"""The studio as page, API and shell see it: one object over jobs, gallery, models and forecasts."""

from __future__ import annotations

from dataclasses import replace
from types import TracebackType

from PIL import Image

from studio.checks import check_integer
from studio.crafts.craft import Craft, Forecast, Plan
from studio.crafts.films import FilmCraft
from studio.crafts.pictures import PictureCraft, PictureMaker
from studio.crafts.selftests import SelftestCraft
from studio.crafts.tokens import TokenCraft, read_strip
from studio.crafts.verifying import Verifier
from studio.crafts.world import World
from studio.doors.doors import Doors
from studio.doors.painting import PipelinePainter
from studio.errors import StudioError
from studio.gallery.gallery import Gallery
from studio.gallery.results import Results
from studio.gallery.sources import Sources
from studio.jobs.queue import JobQueue
from studio.jobs.snapshot import JobSnapshot
from studio.metering import Gauge, Meters
from studio.painter import Painter
from studio.recipes import Recipe
from studio.registry import Registry
from studio.requests import DEFAULT_MODEL, ImageRequest, Kind, Request
from studio.scoring import SentenceVerdict
from studio.seeing import Eyes
from studio.settings import Settings
from studio.styles import Style, load_styles
from studio.tokens import MAX_TOKENS


class Studio:
    """Everything behind the page. Thread-safe; one per data folder.

    Opening it marks jobs of a killed process as interrupted, goes on with queued ones and tidies the gallery.
    Every method raises only `StudioError` for what a person can cause.

    Args:
        settings: Folders and limits.
        painter: What paints. Default: the pipelines.
        doors: What else there is to reach. Default: the pipelines.
    Raises:
        StudioError: "in_use" when another process has this data folder, "unwritable" when it is read-only.
    """

    def __init__(
        self, settings: Settings, painter: Painter | None = None, doors: Doors | None = None
    ) -> None:
        self.settings = settings
        self.painter: Painter = painter if painter is not None else PipelinePainter()
        self.registry = Registry(settings, self.painter)
        self.styles: tuple[Style, ...] = load_styles(settings.presets_dir)
        self._doors = doors = doors or Doors()
        self.eyes = Eyes(self.registry, doors.looker)
        self.reader = doors.reader
        self.meters: Meters = doors.meters
        verifier = Verifier(self.registry, self.eyes, doors.judge)
        self.pictures = PictureMaker(settings, self.registry, self.painter, verifier, self.styles)
        self._queue = JobQueue(settings, self._crafts)
        self.gallery: Gallery = self._queue.gallery
        self.results: Results = self._queue.results

    def _crafts(self, gallery: Gallery, results: Results) -> dict[str, Craft]:
        world = World(self.painter)
        # after the queue has locked the data folder: it tidies up
        self.sources = Sources(self.settings.data_dir)
        tokens = TokenCraft(self.registry, self._doors.tokenizer, world, gallery, self.sources)
        return {
            "picture": PictureCraft(self.pictures, gallery),
            "encode": tokens,
            "decode": tokens,
            "generate": tokens,
            "video": FilmCraft(self.registry, self._doors.filmer, world, gallery, self.sources, results),
            "selftest": SelftestCraft(self._doors.tester),
        }

    def submit(self, request: Request, owner: str = "") -> str:
        """Put a request in the queue and return the job's identifier.

        Args:
            request: Any kind.
            owner: The visitor who asks; "" for nobody in particular.
        Raises:
            StudioError: unknown model or style, size over the limit or over memory, queue full.
        """
        return self._queue.submit(request, owner)

    def watch(self, job_id: str) -> JobSnapshot:
        """The job as it is now; cheap enough to ask every 0.3 s.

        Raises:
            StudioError: "not_found".
        """
        return self._queue.watch(job_id)

    def jobs(self, limit: int = 20, kind: Kind | None = None) -> list[JobSnapshot]:
        """The newest `limit` jobs of any state, newest first; all or those of one kind."""
        return self._queue.recent(limit, kind)

    def forget(self, job_id: str) -> None:
        """Remove a job that has ended from the list; a picture it made stays in the gallery.

        Raises:
            StudioError: "not_found", or "conflict" while it waits or runs.
        """
        self._queue.forget(job_id)

    def cancel(self, job_id: str) -> bool:
        """Ask a queued or running job to stop; False when it had already ended.

        A running one stops within a step or tile: watch until its state is final.
        """
        return self._queue.cancel(job_id)

    def retry(self, job_id: str) -> str:
        """Queue a failed, cancelled or interrupted job again under its own identifier, which is returned.

        A job whose picture could not be saved is saved, not painted again.
        """
        return self._queue.retry(job_id)

    def unsaved_png(self, job_id: str) -> bytes:
        """The PNG, recipe included, of a job whose picture is only in memory (`has_unsaved_image`)."""
        return self._queue.unsaved_png(job_id)

    def forecast(
        self, width: int, height: int, steps: int | None = None, model: str = DEFAULT_MODEL
    ) -> Forecast:
        """Seconds, bytes, stages and whether it fits, corrected by what earlier jobs here really took.

        Raises:
            StudioError: a size or step number that is not allowed, an unknown or missing model.
        """
        forecast = self.pictures.forecast(width, height, steps, model)
        name = self.registry.paintable(model).name
        return forecast.scaled(self._queue.pace("picture", name, width * height))

    def plan(self, request: Request) -> Plan:
        """What a request would take, corrected by what earlier jobs here really took; nothing is queued.

        Raises:
            StudioError: it would be refused.
        """
        return self._queue.plan(request)

    def cut_strip(self, data: bytes, keep: int | None) -> bytes:
        """A token file's first `keep` tokens; all of them without a number.

        Raises:
            StudioError: "bad_input": it can't be read, or has fewer.
        """
        if keep is not None:
            check_integer("keep", keep, 1, MAX_TOKENS)
        return read_strip(self._doors.tokenizer, data, keep).data

    def splice(self, first: bytes, second: bytes, places: list[int]) -> bytes:
        """A token file of the first picture with the tokens at `places` taken from the second.

        Raises:
            StudioError: "bad_input": files that can't be read, or that don't fit together.
        """
        try:
            return self._doors.tokenizer.splice(first, second, places)
        except ValueError as error:
            raise StudioError("bad_input", f"strip: {str(error).rstrip('.')}.") from error

    def find_done(self, request: Request, owner: str = "") -> str | None:
        """The newest finished job of this owner that was asked for exactly this."""
        return self._queue.find_done(request, owner)

    def stage_request(self, recipe: Recipe, index: int) -> ImageRequest:
        """The request whose picture is what an earlier stage of a painted one was, pixel for pixel.

        Every stage draws its noise after the one before, so the stages up to it are the same run.

        Raises:
            StudioError: no such earlier stage, or one that can't be painted alone.
        """
        if not 0 <= index < len(recipe.stages) - 1:
            raise StudioError("not_found", "This picture has no such earlier stage.")
        width, height = recipe.stages[index]
        request = replace(
            recipe.request, prompt=recipe.prompt, style=None, steps=recipe.steps, width=width, height=height
        )
        if self.forecast(width, height, recipe.steps, request.model).stages != recipe.stages[: index + 1]:
            raise StudioError("conflict", f"The stage {width}x{height} can't be painted alone.")
        return request

    def cut_at(self, recipe: Recipe) -> int:
        """Tokens that a picture's model reads at once, where its prompt has more of them; else 0."""
        if recipe.request.cut_prompt:
            return 0
        try:
            gauges = self.gauges(recipe.prompt, recipe.request.model)
        except StudioError:
            # its model is not here any more
            return 0
        return gauges[0].limit if gauges and gauges[0].whole > gauges[0].limit else 0

    def cut_request(self, recipe: Recipe) -> ImageRequest:
        """The request for a picture's twin of the same seed, whose prompt ends where plain pipelines cut it.

        Raises:
            StudioError: nothing of the prompt would be cut, or its model is gone.
        """
        if not self.cut_at(recipe):
            raise StudioError("conflict", "The model reads this prompt at once: nothing would be cut.")
        return replace(recipe.request, prompt=recipe.prompt, style=None, steps=recipe.steps, cut_prompt=True)

    def painted_prompt(self, prompt: str, style: str | None) -> tuple[str, str]:
        """The text that would be painted, and a sentence when the style adds nothing ("" otherwise)."""
        return self.pictures.painted_prompt(prompt, style)

    def unknown_words(self, prompt: str, model: str = DEFAULT_MODEL) -> tuple[str, ...]:
        """Words of `prompt` that `model` does not know; empty for models with an open vocabulary."""
        return self.pictures.unknown_words(prompt, model)

    def gauges(self, prompt: str, model: str = DEFAULT_MODEL) -> tuple[Gauge, ...]:
        """A prompt as each text encoder of `model` takes it; empty when nothing can be told.

        Raises:
            StudioError: an unknown or missing model.
        """
        return tuple(self.meters.gauges(self.registry.paintable(model).folder, prompt))

    def sentences(self, recipe: Recipe, picture: Image.Image) -> tuple[SentenceVerdict, ...]:
        """What a finished picture says about each sentence of its prompt; empty when nothing can be told.

        Raises:
            StudioError: its model is not here any more, or the eyes are damaged.
        """
        card = self.registry.card(recipe.request.model)
        if not card.embedded or not self.registry.has("eyes"):
            return ()
        scorer = self._doors.scorer
        return tuple(self.eyes.used(lambda eyes: scorer.sentences(eyes, recipe.prompt, picture)))

    def world_summary(self) -> str:
        """One line that says what the embedded models know."""
        return self.painter.world_summary()

    def close(self) -> None:
        """Stop the worker: a running job becomes interrupted, queued ones stay. Safe to call twice."""
        self._queue.close()

    def __enter__(self) -> Studio:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

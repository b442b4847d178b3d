"""The door to filming, imported when first needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from studio.crafts.reports import Report
from studio.films import Film, FilmCost, Shoot, VideoFacts
from studio.painter import PaintingStopped, ProgressReport
from studio.requests import VideoRequest

if TYPE_CHECKING:
    from pipelines.compose.film_request import FilmRequest
    from pipelines.compose.filming import FilmProgress


class PipelineFilmer:
    """The real `Filmer`."""

    def load(self, folder: Path) -> Any:
        """See `Filmer`."""
        from pipelines.compose import filming

        return filming.load_film_model(folder)

    def problem(self, request: VideoRequest) -> str:
        """See `Filmer`."""
        from pipelines.compose import filming

        return filming.check_film(_asked(request)) or ""

    def forecast(self, folder: Path, request: VideoRequest, start: Sequence[Image.Image]) -> FilmCost:
        """See `Filmer`."""
        from pipelines.compose import filming

        cost = filming.forecast_film(folder, replace(_asked(request), start=tuple(start)))
        return FilmCost(cost.seconds, cost.memory_bytes, cost.frames)

    def film(
        self,
        model: Any,
        shoot: Shoot,
        on_progress: Callable[[ProgressReport], None] | None,
        on_clip: Callable[[int, Sequence[Image.Image]], None],
        should_stop: Callable[[], bool],
    ) -> Film:
        """See `Filmer`."""
        from pipelines.compose import filming

        def hear(news: FilmProgress) -> None:
            if news.frames:
                on_clip(news.clip, news.frames)
            if on_progress is not None:
                size = (news.width, news.height)
                stage = (news.clip, news.clips, news.step, news.steps)
                on_progress(Report(news.phase, *stage, news.fraction, *size, news.preview))

        asked = replace(_asked(shoot.request), start=shoot.start)
        watching: dict[str, Any] = {"on_progress": hear, "should_stop": should_stop}
        try:
            if shoot.redo and shoot.store is not None:
                made = filming.film_again(model, asked, shoot.redo, store=shoot.store, **watching)
            else:
                made = filming.film(model, asked, store=shoot.store, **watching)
        except filming.Cancelled as error:
            raise PaintingStopped from error
        return Film(
            _Clips(made.clips),
            made.fps,
            made.width,
            made.height,
            made.seconds,
            made.dtype,
            made.device,
            made.warnings,
            made.peak_bytes,
        )

    def write(
        self, frames: Iterable[Image.Image], path: Path, fps: float, recipe: dict[str, Any]
    ) -> VideoFacts:
        """See `Filmer`."""
        from pipelines.vidrd.video_files import export_video

        written = export_video(frames, path, fps, recipe)
        return VideoFacts(written.num_frames, written.fps, written.width, written.height, written.poster)

    def read_start(self, path: Path, frames: int) -> tuple[Image.Image, ...]:
        """See `Filmer`."""
        from pipelines.compose import filming

        return tuple(filming.read_start(path, frames))


class _Clips:
    """The clips of a film, which can be stopped while they are read."""

    def __init__(self, clips: Iterable[Sequence[Image.Image]]) -> None:
        self._clips = clips

    def __iter__(self) -> Iterator[Sequence[Image.Image]]:
        from pipelines.compose.painting import Cancelled

        try:
            yield from self._clips
        except Cancelled as error:
            raise PaintingStopped from error


def _asked(request: VideoRequest) -> FilmRequest:
    from pipelines.compose.film_request import FilmRequest

    return FilmRequest(
        prompt=request.prompt,
        prompts_at=dict(request.prompts_at),
        clips=request.clips,
        frames=request.frames,
        fps=request.fps,
        seed=request.seed,
        width=request.width,
        height=request.height,
        steps=request.steps,
        order=request.order,
        overlap=request.shared_frames,
        is_loop=request.is_loop,
        smooth=request.smooth,
        clip_seeds=dict(request.clip_seeds),
    )

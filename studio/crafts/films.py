"""Video jobs: each clip can be played as soon as it is there; a run that was cut short goes on behind it."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from studio.crafts.craft import Forecast, News, Plan, loaded, memory_told
from studio.crafts.world import World
from studio.errors import StudioError
from studio.films import Film, Filmer, Shoot
from studio.gallery.encoding import thumbnail_bytes
from studio.gallery.files import storage_error
from studio.gallery.gallery import Gallery
from studio.gallery.results import Results
from studio.gallery.sources import Sources
from studio.gallery.sources import loaded as loaded_picture
from studio.jobs.records import JobRecord, Outcome
from studio.recipes import versions
from studio.registry import ModelCard, Registry
from studio.requests import VideoRequest, split_source

_STORE = "store"
# about what H.264 takes at this quality, with the latents that are kept for going on
_BYTES_PER_PIXEL = 4


@dataclass(frozen=True)
class Filmed:
    """A finished video whose files are whole; it fulfils `Product`."""

    result: dict[str, Any]
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    peak_bytes: int


class FilmCraft:
    """Answers `VideoRequest`s; it fulfils `Craft`.

    Args:
        registry: Models.
        filmer: Does the work.
        world: Words of the embedded world.
        gallery, sources: Where pictures to begin with come from.
        results: Keeps clips and what is needed to go on.
    """

    resumes = True

    def __init__(
        self,
        registry: Registry,
        filmer: Filmer,
        world: World,
        gallery: Gallery,
        sources: Sources,
        results: Results,
    ) -> None:
        self._registry = registry
        self._filmer = filmer
        self._world = world
        self._gallery = gallery
        self._sources = sources
        self._results = results

    def check(self, request: VideoRequest) -> Plan:
        """Refuse what can't be filmed, before anything is loaded."""
        card = self._registry.usable(request.model, "video")
        start = self._start(request)
        if request.redo is not None and not self._results.has_folder(request.redo[0], _STORE):
            raise StudioError("not_found", "The video whose clip is to be filmed again is not here any more.")
        return plan_film(self._filmer, self._world, card, request, start)

    def make(self, record: JobRecord, plan: Plan, news: News) -> Filmed:
        """Film clip by clip, then write the whole."""
        request = plan.request
        folder = self._results.folder(record.id)
        _, model, load_seconds = loaded(self._registry, plan.card, news, self._filmer.load)
        shown = _Shown(self._filmer, folder, request, news)
        shoot = Shoot(request, self._start(request), folder / _STORE)
        if request.redo is not None:
            # also when this job was cut short: which version of the clip its store holds is not known then
            self._take_over(request.redo[0], folder)
            shoot = replace(shoot, redo=request.redo[1])
        with memory_told("filming", "Choose a smaller size or fewer frames."), _storage_told(folder):
            film = self._filmer.film(model, shoot, news.report, shown.add, news.should_stop)
            began = time.monotonic()
            result = shown.finish(film)
        seconds = film.all_seconds(load_seconds, time.monotonic() - began)
        warnings = tuple(dict.fromkeys((*plan.warnings, *film.warnings)))
        return Filmed(result, seconds, warnings, film.peak_bytes)

    def save(self, record: JobRecord, product: Filmed, keep_going: Callable[[], bool]) -> None:
        """The files are whole already."""

    def recover(self, record: JobRecord) -> Outcome | None:
        """It goes on where it was."""
        return None

    def room_bytes(self, request: VideoRequest) -> int:
        """Bytes of clips, whole and store."""
        return request.amount * _BYTES_PER_PIXEL

    def _start(self, request: VideoRequest) -> tuple[Image.Image, ...]:
        if request.start is None:
            return ()
        kind, name = split_source(request.start)
        is_own = kind == "picture"
        return (loaded_picture(self._gallery.get(name).path) if is_own else self._sources.open(name),)

    def _take_over(self, job_id: str, folder: Path) -> None:
        """A copy of another video's clips to change one of them; that video stays as it is."""
        part = folder / f".{_STORE}.part"
        with _storage_told(folder):
            for old in (part, folder / _STORE):
                shutil.rmtree(old, ignore_errors=True)
            shutil.copytree(self._results.folder(job_id) / _STORE, part)
            part.rename(folder / _STORE)


def plan_film(
    filmer: Filmer, world: World, card: ModelCard, request: VideoRequest, start: Sequence[Image.Image]
) -> Plan:
    """The plan of a request that can be filmed.

    Raises:
        StudioError: "bad_input", or "too_large" for this machine's memory.
    """
    try:
        problem = filmer.problem(request)
        cost = None if problem else filmer.forecast(card.folder, request, start)
    except ValueError as error:
        problem, cost = str(error), None
    if cost is None:
        raise StudioError("bad_input", f"video: {problem.rstrip('.')}.")
    seconds = cost.seconds / request.clips if request.redo else cost.seconds
    texts = " ".join([request.prompt, *(text for _, text in request.prompts_at)])
    unknown = world.unknown_words(card, texts)
    remark = world.sentence(unknown)
    forecast = Forecast(seconds, cost.memory_bytes, (), True)
    named = replace(request, model=card.name)
    return Plan(named, request.prompt, card, forecast, unknown, (remark,) if remark else ())


def film_recipe(request: VideoRequest, film: Film) -> dict[str, Any]:
    """What goes into a video's file."""
    return {
        "schema": 1,
        "kind": "video",
        "request": request.to_json(),
        "versions": versions(),
        "dtype": film.dtype,
        "device": film.device,
        "seconds": {phase: round(value, 3) for phase, value in film.seconds.items()},
    }


class _Shown:
    """Writes each clip as it comes, and tells of it."""

    def __init__(self, filmer: Filmer, folder: Path, request: VideoRequest, news: News) -> None:
        self._filmer, self._folder, self._request, self._news = filmer, folder, request, news
        self._clips: list[dict[str, Any]] = []

    def add(self, number: int, frames: Sequence[Image.Image]) -> None:
        """Take a finished clip."""
        # the number in the name lets a page tell a clip that was filmed again from the one before
        name = f"clip-{number:03d}.mp4"
        facts = self._filmer.write(frames, self._folder / name, self._request.fps, {})
        self._news.keep(f"clip-{number:03d}.webp", thumbnail_bytes(facts.poster))
        self._clips.append({"clip": number, "file": name, "frames": facts.frames})
        self._news.show({"clips": list(self._clips), "width": facts.width, "height": facts.height})

    def finish(self, film: Film) -> dict[str, Any]:
        """Write the whole video; what a page shows of it."""
        facts = self._filmer.write(
            film.frames(), self._folder / "video.mp4", film.fps, film_recipe(self._request, film)
        )
        self._news.keep("poster.webp", thumbnail_bytes(facts.poster))
        shown = {"frames": facts.frames, "fps": facts.fps, "width": facts.width, "height": facts.height}
        return {**shown, "clips": self._clips, "file": "video.mp4", "poster": "poster.webp"}


@contextlib.contextmanager
def _storage_told(folder: Path) -> Iterator[None]:
    """Turn a failed write inside the block into one sentence."""
    try:
        yield
    except OSError as error:
        raise storage_error(error, "the video", folder) from error

"""What every kind of job has in common: a plan that passed all checks, news while it is made, a product."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from studio.errors import StudioError
from studio.jobs.records import JobRecord, Outcome
from studio.painter import PaintingStopped, ProgressReport
from studio.registry import ModelCard, Registry


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

    def scaled(self, pace: float) -> Forecast:
        """The same at another pace; `pace` is the factor on the seconds that earlier jobs showed."""
        return replace(self, seconds=self.seconds * pace)

    @property
    def sentence(self) -> str:
        """For instance "about 20 s, 1.2 GB, fits"."""
        verdict = "fits" if self.fits else "does not fit into this machine's memory"
        return f"about {duration(self.seconds)}, {self.memory_bytes / 1e9:.1f} GB, {verdict}"


@dataclass(frozen=True)
class Plan:
    """A request that has passed every check.

    Args:
        request: As asked, with the name that the model's alias means.
        prompt: The text to paint, style words included.
        card: The model, None when none is needed.
        forecast: Time and memory.
        unknown_words: Words the model does not know.
        warnings: Sentences the person should read.
    """

    request: Any
    prompt: str
    card: ModelCard | None
    forecast: Forecast
    unknown_words: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class News:
    """How a craft tells what it does, and hears whether to go on.

    Args:
        report: Takes progress.
        should_stop: Polled between steps and tiles.
        loading: Hears the name of a model that has to be loaded first.
        show: Takes what can be shown of an unfinished product, as plain JSON values.
        keep: Takes a small file that belongs to the job, by name.
    """

    report: Callable[[ProgressReport], None] | None = None
    should_stop: Callable[[], bool] = lambda: False
    loading: Callable[[str], None] = lambda _: None
    show: Callable[[dict[str, Any]], None] = lambda _: None
    keep: Callable[[str, bytes], None] = lambda *_: None


SILENT = News()


def loaded(
    registry: Registry, wanted: ModelCard | None, news: News, loader: Callable[[Path], Any] | None = None
) -> tuple[ModelCard, Any, float]:
    """A plan's model ready to work, and the seconds that loading took.

    Raises:
        PaintingStopped: `news.should_stop` said yes meanwhile.
        StudioError: the model can't be loaded.
    """
    began = time.monotonic()
    assert wanted is not None and wanted.ability is not None
    if not registry.is_loaded(wanted.name):
        news.loading(wanted.name)
    card, model = registry.load(wanted.name, wanted.ability, loader)
    if news.should_stop():
        raise PaintingStopped
    return card, model, time.monotonic() - began


@contextlib.contextmanager
def memory_told(doing: str, hint: str) -> Iterator[None]:
    """Turn running out of memory inside the block into one sentence.

    Raises:
        StudioError: "too_large".
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        # torch's own out-of-memory error is told by name: the studio does not import torch
        if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            raise StudioError("too_large", f"The memory ran out while {doing}.", hint) from error
        raise


class Product(Protocol):
    """Something finished, perhaps in memory only."""

    @property
    def seconds(self) -> dict[str, float]: ...  # per phase
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def peak_bytes(self) -> int: ...
    @property
    def result(self) -> dict[str, Any]: ...  # what a page shows of it, plain JSON values


class Craft(Protocol):
    """One kind of job. `check` may be called from any thread, everything else from the worker's."""

    # whether a job that was cut short goes on where it was, by itself, when the studio starts again
    resumes: bool

    def check(self, request: Any) -> Plan:
        """Everything that can be refused before work begins, refused here; the request is valid in itself.

        Raises:
            StudioError: a limit of the settings, an unknown or missing model, memory out of reach.
        """

    def make(self, record: JobRecord, plan: Plan, news: News) -> Product:
        """Do the work.

        Raises:
            PaintingStopped: `news.should_stop` said yes.
            StudioError: the model or the memory failed.
        """

    def save(self, record: JobRecord, product: Any, keep_going: Callable[[], bool]) -> None:
        """Put the product where it stays.

        Raises:
            NotPublished: `keep_going` said no; nothing appeared.
            StudioError: the disk is full or can't be written.
        """

    def recover(self, record: JobRecord) -> Outcome | None:
        """How a job ended whose process was killed after its product was whole; None when it was not."""

    def room_bytes(self, request: Any) -> int:
        """Bytes the product may take on disk."""


Crafts = Mapping[str, Craft]


def duration(seconds: float) -> str:
    """Seconds as a person says them: "8 s", "3 min", "1 h 20 min"."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    minutes = max(2, round(seconds / 60))
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"

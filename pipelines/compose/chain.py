"""One prompt through all rooms: a picture, the picture as tokens, what they say, a film that starts there.

Each step goes through the studio's own doors and leaves whole files in one folder; the next step reads them.
So a chain that was cut short goes on behind its last whole step, and one model is in memory at a time.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose import filming, painting, tokenizing
from pipelines.compose.filming import FilmRequest, folder_stamp
from pipelines.compose.painting import Cancelled
from pipelines.runtime import peak_bytes

if TYPE_CHECKING:
    from PIL import Image

SCHEMA = 1
STEPS = ("picture", "tokens", "film")
RECORD = "chain.json"
PICTURE, TOKENS, DECODED, FILM = "picture.png", "picture.fxtk", "decoded.png", "film.mp4"
CLIPS = ".clips"  # finished clips of a film that isn't whole yet
TOKEN_SECONDS = 10.0  # encoding and decoding, about, for the share of progress

__all__ = [
    "Cancelled",
    "ChainFolders",
    "ChainProgress",
    "ChainRequest",
    "check_chain",
    "forecast_chain",
    "run_chain",
]


@dataclass(frozen=True)
class ChainRequest:
    """What to make.

    Attributes:
        prompt: of the picture, and of the film unless `film_prompt` says what happens in it.
        width, height: pixels of the picture. steps: of its first stage; None for the model's own.
        seed: of all steps.
        keep: tokens that the picture becomes. Default: all that the model has.
        clips, frames, fps: of the film; its size is the model's own, in the picture's aspect.
    """

    prompt: str
    width: int = 1024
    height: int = 1024
    seed: int = 0
    steps: int | None = None
    keep: int | None = None
    film_prompt: str | None = None
    clips: int = 4
    frames: int = 8
    fps: float = 8.0

    def film(self, start: tuple[Image.Image, ...] = ()) -> FilmRequest:
        """What is asked of the film."""
        prompt = self.prompt if self.film_prompt is None else self.film_prompt
        return FilmRequest(
            prompt, clips=self.clips, frames=self.frames, fps=self.fps, seed=self.seed, start=start
        )


@dataclass(frozen=True)
class ChainFolders:
    """Model folders, by what they do."""

    picture: Path
    tokens: Path
    video: Path


@dataclass(frozen=True)
class ChainProgress:
    """What a watcher is told.

    Attributes:
        phase: step and phase of it, for instance "picture: paint".
        stage, stages: which step of how many, from 1. step, steps: done within its phase.
        fraction: share of the whole work that is done, 0 to 1.
        width, height: pixels of what is made, 0 where nobody says.
        preview: now and then, a small picture of what it will be.
    """

    phase: str
    stage: int
    stages: int
    step: int
    steps: int
    fraction: float
    width: int = 0
    height: int = 0
    preview: Image.Image | None = None


def check_chain(folders: ChainFolders, request: ChainRequest) -> str | None:
    """None, or one sentence that says why this can't be done. Quick; loads nothing."""
    for what, folder in asdict(folders).items():
        if not folder.exists():
            return f"no {what} model is installed at {folder}"
    problem = painting.check_size(request.width, request.height)
    if problem or not request.prompt.strip():
        return problem or "the prompt is empty"
    most = _most_tokens(folders.tokens)
    if request.keep is not None and not 1 <= request.keep <= most:
        return f"keep is {request.keep}; allowed: 1 to {most} tokens"
    return filming.check_film(request.film())


def forecast_chain(folders: ChainFolders, request: ChainRequest) -> tuple[float, float, float]:
    """Seconds of each step, about; loads nothing.

    Raises:
        ValueError: a folder or size that can't be worked with.
    """
    picture = painting.forecast(folders.picture, request.width, request.height, request.steps)
    film = filming.forecast_film(folders.video, request.film())
    return picture.seconds, TOKEN_SECONDS, film.seconds


def run_chain(
    folders: ChainFolders,
    request: ChainRequest,
    out: Path,
    *,
    load_painter: Callable[[Path], Any] = painting.load_model,
    on_progress: Callable[[ChainProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Make picture, tokens and film; the same request gives the same pixels on the same machine.

    Args:
        out: folder, made if needed: `picture.png`, `picture.fxtk`, `decoded.png`, `film.mp4` and the record.
        load_painter: opens the picture model's folder.
    Returns:
        The record, as JSON values (it also stands in `chain.json`): what was "asked"; for each of "steps" its
        files with their "bytes", sizes, counts, "seconds" per phase and "warnings"; "seconds" per step; all
        "warnings"; "peak_bytes" of this process.
    Raises:
        ValueError: a bad request, a model that isn't there, a folder that holds another chain.
        Cancelled: `should_stop` answered True; finished steps and clips stay, and the next run goes on there.
        OSError: the folder can't be written.
    """
    problem = check_chain(folders, request)
    if problem:
        raise ValueError(problem)
    run = _Run(folders, request, Path(out), on_progress, should_stop or (lambda: False))
    run.step("picture", lambda: run.paint(load_painter))
    run.step("tokens", run.tokenize)
    run.step("film", run.film)
    return run.finish()


class _Run:
    """One chain: its record, its share of progress, its files."""

    def __init__(
        self,
        folders: ChainFolders,
        request: ChainRequest,
        out: Path,
        on_progress: Callable[[ChainProgress], None] | None,
        should_stop: Callable[[], bool],
    ) -> None:
        self.folders, self.request, self.out = folders, request, out
        self.on_progress, self.should_stop = on_progress, should_stop
        models = {
            name: {"name": folder.name, "stamp": folder_stamp(folder)}
            for name, folder in asdict(folders).items()
        }
        self.asked = json.loads(json.dumps({"request": asdict(request), "models": models}))
        self.steps: dict[str, dict[str, Any]] = self._recorded()
        self.costs = forecast_chain(folders, request)

    def _recorded(self) -> dict[str, dict[str, Any]]:
        """Finished steps of an earlier run."""
        path = self.out / RECORD
        if not path.exists():
            return {}
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            asked, steps = record["asked"], dict(record["steps"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} can't be read as a chain's record ({error!r:.80})") from error
        if asked != self.asked:
            raise ValueError(f"{self.out} holds another chain; name another folder")
        return steps

    def step(self, name: str, make: Callable[[], dict[str, Any]]) -> None:
        """Do one step, unless its files are there already."""
        files = self.steps.get(name, {}).get("bytes", {})
        if files and all(_size(self.out / file) == size for file, size in files.items()):
            return
        if self.should_stop():
            raise Cancelled
        self.out.mkdir(parents=True, exist_ok=True)
        facts = make()
        gc.collect()  # the next model needs the room of this one
        files = {path.name: path.stat().st_size for path in facts.pop("files")}
        self.steps[name] = {"bytes": files, **facts}
        self._write_record()

    def paint(self, load: Callable[[Path], Any]) -> dict[str, Any]:
        """The picture."""
        model, seconds = _timed(load, self.folders.picture)
        request = self.request
        made = painting.paint(
            model,
            prompt=request.prompt,
            width=request.width,
            height=request.height,
            seed=request.seed,
            steps=request.steps,
            on_progress=lambda news: self._tell(0, news, (news.step, news.steps), (news.width, news.height)),
            should_stop=self.should_stop,
        )
        return {
            "files": [self._save(made.image, PICTURE)],
            "width": made.image.width,
            "height": made.image.height,
            "stages": [list(stage) for stage in made.stages],
            "backend": made.backend,
            **_told(made, {"load": seconds, **made.seconds}),
        }

    def tokenize(self) -> dict[str, Any]:
        """Tokens of the picture, and the picture that they say."""
        model, seconds = _timed(tokenizing.load_model, self.folders.tokens)
        picture = tokenizing.open_picture(self.out / PICTURE)

        def tell(news: Any) -> None:
            self._tell(1, news, (news.done, news.total))

        found = tokenizing.encode(model, picture, keep=self.request.keep, should_stop=self.should_stop)
        decoded = tokenizing.decode(
            model,
            found.data,
            seed=self.request.seed,
            full_size=False,
            on_progress=tell,
            should_stop=self.should_stop,
        )
        strip = self._whole(TOKENS, lambda part: part.write_bytes(found.data))
        return {
            "files": [strip, self._save(decoded.image, DECODED)],
            "count": found.strip.count,
            "model": found.strip.model,
            "bits_per_pixel": found.bits_per_pixel,
            "width": decoded.image.width,
            "height": decoded.image.height,
            **_told(decoded, {"load": seconds, "encode": found.seconds, **decoded.seconds}),
        }

    def film(self) -> dict[str, Any]:
        """The film that starts from what the tokens say."""
        model, seconds = _timed(filming.load_film_model, self.folders.video)
        with tokenizing.open_picture(self.out / DECODED) as start:
            asked = self.request.film(filming.read_start(start))
        store = self.out / CLIPS
        made = filming.film(
            model,
            asked,
            store=store,
            on_progress=lambda news: self._tell(2, news, (news.step, news.steps), (news.width, news.height)),
            should_stop=self.should_stop,
        )
        recipe = {"schema": SCHEMA, "kind": "chain", "request": self.asked["request"]}
        file, saving = _timed(lambda path: filming.export_film(made, path, recipe), self.out / FILM)
        shutil.rmtree(store, ignore_errors=True)
        return {
            "files": [file.path],
            "clips": asked.clips,
            "frames": file.num_frames,
            "fps": file.fps,
            "width": file.width,
            "height": file.height,
            **_told(made, {"load": seconds, **made.seconds, "save": saving}),
        }

    def finish(self) -> dict[str, Any]:
        """The whole record."""
        return json.loads((self.out / RECORD).read_text(encoding="utf-8"))

    def _write_record(self) -> None:
        warnings = [warning for facts in self.steps.values() for warning in facts["warnings"]]
        record = {
            "schema": SCHEMA,
            "asked": self.asked,
            "steps": self.steps,
            "seconds": {name: round(sum(facts["seconds"].values()), 3) for name, facts in self.steps.items()},
            "warnings": list(dict.fromkeys(warnings)),
            "peak_bytes": peak_bytes(),
        }
        text = json.dumps(record, indent=1) + "\n"
        self._whole(RECORD, lambda part: part.write_text(text, encoding="utf-8"))

    def _save(self, picture: Image.Image, name: str) -> Path:
        return self._whole(name, lambda part: picture.save(part, "PNG"))

    def _whole(self, name: str, write: Callable[[Path], Any]) -> Path:
        """Write a file beside its name, then move it there."""
        path = self.out / name
        part = path.with_name(f".{name}.part")
        try:
            write(part)
            os.replace(part, path)
        finally:
            part.unlink(missing_ok=True)
        return path

    def _tell(self, index: int, news: Any, steps: tuple[int, int], size: tuple[int, int] = (0, 0)) -> None:
        """Pass on what a door says of step `index`."""
        if self.on_progress is None:
            return
        done = sum(self.costs[:index]) + self.costs[index] * news.fraction
        told = ChainProgress(
            phase=f"{STEPS[index]}: {news.phase}",
            stage=index + 1,
            stages=len(STEPS),
            step=steps[0],
            steps=steps[1],
            fraction=min(done / sum(self.costs), 1.0),
            width=size[0],
            height=size[1],
            preview=news.preview,
        )
        self.on_progress(told)


def _timed(work: Callable[[Path], Any], path: Path) -> tuple[Any, float]:
    """What `work` gives, and the seconds it took."""
    began = time.monotonic()
    return work(path), round(time.monotonic() - began, 3)


def _told(made: Any, seconds: dict[str, float]) -> dict[str, Any]:
    """What every step says of itself."""
    return {
        "device": made.device,
        "dtype": made.dtype,
        "seconds": seconds,
        "warnings": list(made.warnings),
    }


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _most_tokens(folder: Path) -> int:
    """Longest strip of a tokenizer folder, as far as its config says."""
    try:
        config = json.loads((folder / "encoder" / "config.json").read_text(encoding="utf-8"))
        return int(config["num_registers"])
    except (OSError, ValueError, KeyError, TypeError):
        return 256

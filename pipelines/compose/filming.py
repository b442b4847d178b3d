"""The studio's door to filming: plain values in, clips of PIL frames out; progress, stops, resuming."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose.film_clips import FilmClips
from pipelines.compose.film_request import (
    GUIDANCE,
    STEPS,
    STORYBOOK_GUIDANCE,
    STORYBOOK_STEPS,
    FilmForecast,
    FilmRequest,
    check_film,
    check_request,
    count_weights,
    film_size,
    forecast_film,
    learn_film_speed,
    make_plan,
    read_start,
)
from pipelines.compose.painting import Cancelled, understood
from pipelines.runtime import choose_runtime, peak_bytes

if TYPE_CHECKING:
    from PIL import Image
    from torch import Tensor

    from pipelines.vidrd.clip_loop import Step
    from pipelines.vidrd.clip_store import ClipStore
    from pipelines.vidrd.video_files import VideoFile

PREVIEW_EVERY_S = 0.5
PREVIEW_SHARE = 0.1  # of the time that previews may take

__all__ = [
    "Cancelled",
    "Film",
    "FilmForecast",
    "FilmProgress",
    "FilmRequest",
    "check_film",
    "export_film",
    "film",
    "film_again",
    "folder_stamp",
    "forecast_film",
    "load_film_model",
    "read_start",
]


@dataclass(frozen=True)
class FilmProgress:
    """What a watcher is told.

    Attributes:
        phase: "encode", "film", "clip" (one was finished) or "smooth".
        clip, clips: which clip of how many, from 1. step, steps: done within the clip.
        fraction: share of the whole work that is done, 0 to 1.
        width, height: pixels.
        preview: now and then, a frame of what the present clip will be.
        frames: with "clip", the shown frames of the finished clip.
    """

    phase: str
    clip: int
    clips: int
    step: int
    steps: int
    fraction: float
    width: int
    height: int
    preview: Image.Image | None = None
    frames: tuple[Image.Image, ...] = ()


@dataclass(frozen=True)
class Film:
    """A finished film, and how it was made.

    Attributes:
        clips: shown frames, clip by clip (interpolated frames go to the clip before them). Where there is a
            store, each round reads them anew, so that one clip is in memory; a store that is damaged or gone
            then raises ValueError, and a stop while frames are filled in `Cancelled`.
        fps: frames per second when played.
        seconds: time of each phase: "encode", "clip 1" and further ones, "preview"; and "smooth", once the
            frames were read.
        warnings: sentences that the person should read.
        peak_bytes: largest resident size of this process so far.
    """

    clips: FilmClips
    fps: float
    width: int
    height: int
    seconds: dict[str, float]
    dtype: str
    device: str
    warnings: tuple[str, ...]
    peak_bytes: int

    @property
    def frames(self) -> list[Image.Image]:
        """All frames at once."""
        return list(self.clips.frames())


@dataclass(frozen=True)
class FilmModel:
    """A video pipeline, where it came from, and its interpolator where it has one."""

    pipeline: Any
    interpolator: Any
    folder: Path
    device: str
    dtype: str
    is_storybook: bool


def load_film_model(folder: Path) -> FilmModel:
    """Load a video model folder in the dtype that is fast here.

    Raises:
        ValueError, OSError: the folder isn't one or is damaged.
    """
    import torch
    from torch import nn

    from pipelines.compose.quiet import quiet_loading

    with quiet_loading():
        from pipelines.vidrd.pipeline_vidrd import VidRDPipeline
        from pipelines.vidrd.unet_vidrd import VidRDUNet3DModel

    runtime, folder = choose_runtime(), Path(folder)
    dtype = getattr(torch, runtime.dtype)
    interpolator = None
    with quiet_loading():
        pipeline = VidRDPipeline.from_pretrained(folder, dtype=dtype).to(runtime.device)
        if (folder / "interpolator").is_dir():
            interpolator = VidRDUNet3DModel.from_pretrained(folder / "interpolator", dtype=dtype)
            interpolator.to(runtime.device)
    pipeline.set_progress_bar_config(disable=True)
    for model in (pipeline.vae, pipeline.unet):
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.to(memory_format=torch.channels_last)
    is_storybook = folder.name.startswith("storybook")
    return FilmModel(pipeline, interpolator, folder, runtime.device, runtime.dtype, is_storybook)


def film(
    model: FilmModel,
    request: FilmRequest,
    *,
    store: Path | None = None,
    on_progress: Callable[[FilmProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Film:
    """Film; the same request gives the same pixels on the same machine.

    Args:
        store: folder that keeps finished clips; a film that was interrupted goes on behind them.
    Raises:
        Cancelled: `should_stop` answered True (asked after every step); finished clips stay in the store.
        ValueError: a bad request, a store of another film.
    """
    return _Shooting(model, request, on_progress, should_stop).film(store)


def film_again(
    model: FilmModel,
    request: FilmRequest,
    clip: int,
    *,
    store: Path,
    on_progress: Callable[[FilmProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Film:
    """Film one clip of a stored film again; the clips around it stay, and the store holds the new version.

    Args:
        request: as stored, but for the clip's own seed or prompt.
        clip: its number, from 1.
    Returns:
        The whole film as it is now.
    Raises:
        Cancelled, ValueError: as `film`; the old version then stays.
    """
    shooting = _Shooting(model, request, on_progress, should_stop)
    shooting.again(clip, store)
    return shooting.film(store)


def export_film(
    made: Film, path: Path, recipe: Mapping[str, Any] | None = None, quality: int = 90
) -> VideoFile:
    """Write a film as .mp4, .webp, .gif or (no suffix) a folder of PNG; returns the file and a poster frame.

    Raises:
        ValueError, OSError: as `pipelines.vidrd.video_files.export_video`.
    """
    from pipelines.vidrd.video_files import export_video

    return export_video(made.clips.frames(), path, made.fps, recipe, quality)


class _Shooting:
    """One run of a request: turns the pipeline's steps into progress, takes times, polls for a stop."""

    def __init__(
        self,
        model: FilmModel,
        request: FilmRequest,
        on_progress: Callable[[FilmProgress], None] | None,
        should_stop: Callable[[], bool] | None,
    ) -> None:
        self.model, self.request = model, request
        self.on_progress, self.should_stop = on_progress, should_stop or (lambda: False)
        texts, self.warnings = self._understand()
        size = film_size(request, model.pipeline.base_size)
        own = (STORYBOOK_STEPS, STORYBOOK_GUIDANCE) if model.is_storybook else (STEPS, GUIDANCE)
        self.plan = make_plan(request, texts, size, request.steps or own[0], own[1])
        self.seconds: dict[str, float] = {}
        self.mark = time.monotonic()
        self.next_preview = self.mark + PREVIEW_EVERY_S
        self.filmed = 0

    def _understand(self) -> tuple[tuple[str, tuple[tuple[int, str], ...]], tuple[str, ...]]:
        """Prompts as the model reads them, and sentences about what it doesn't know."""
        check_request(self.request)
        written = [self.request.prompt, *(text for _, text in sorted(self.request.prompts_at.items()))]
        if self.model.is_storybook:
            pairs = [understood(text) for text in written]
        else:
            pairs = [(text, ()) for text in written]
        tokenizer = self.model.pipeline.tokenizer
        remarks = [remark for _, remarks in pairs for remark in remarks]
        for text, _ in pairs:
            length, limit = len(tokenizer(text, verbose=False).input_ids), tokenizer.model_max_length
            if length > limit:
                remarks.append(f"Only the first {limit} of a prompt's {length} tokens were read.")
        texts = [text for text, _ in pairs]
        changes = tuple(zip(sorted(self.request.prompts_at), texts[1:], strict=True))
        return (texts[0], changes), tuple(dict.fromkeys(remarks))

    def film(self, folder: Path | None) -> Film:
        """Film what the store lacks, tell of each finished clip, and say where the frames are."""
        self._begin()
        start = list(self.request.start) or None
        began = time.monotonic()
        store = self._store(folder) if folder is not None else None
        lengths: list[int] = []
        kept: list[tuple[Image.Image, ...]] = []  # without a store
        for finished in self.model.pipeline.film(self.plan, start=start, store=store, report=self._on_step):
            self._spend(f"clip {finished.index + 1}")
            pictures = _pictures(finished.frames)
            lengths.append(len(pictures))
            self._tell("clip", finished.index, self.plan.num_inference_steps, frames=pictures)
            if store is None:
                kept.append(pictures)
        if self.filmed:
            learn_film_speed(
                self.plan, count_weights(self.model.folder), self.filmed, time.monotonic() - began
            )
        read = kept.__getitem__ if store is None else lambda number: _pictures(store.frames(number))
        return self._made(read, lengths)

    def again(self, number: int, folder: Path) -> None:
        self._begin()
        start = list(self.request.start) or None
        self.model.pipeline.film_again(
            self.plan, number - 1, self._store(folder), start=start, report=self._on_step
        )
        self._spend(f"clip {number}")

    def _store(self, folder: Path) -> ClipStore:
        from pipelines.vidrd.clip_store import ClipStore

        digest = hashlib.sha256()
        for picture in self.request.start:
            digest.update(repr(picture.size).encode() + picture.convert("RGB").tobytes())
        identity = {
            "model": folder_stamp(self.model.folder),
            "dtype": self.model.dtype,
            "start": digest.hexdigest(),
        }
        return ClipStore(folder, self.plan, identity)

    def _made(self, read: Callable[[int], tuple[Image.Image, ...]], lengths: Sequence[int]) -> Film:
        factor = self.request.smooth
        seconds = {name: round(value, 3) for name, value in self.seconds.items()}
        fill = None if factor == 1 else lambda frames: self._smoothed(frames, seconds)
        return Film(
            clips=FilmClips(read, lengths, fill, factor),
            fps=self.request.fps * factor,
            width=self.plan.width,
            height=self.plan.height,
            seconds=seconds,
            dtype=self.model.dtype,
            device=self.model.device,
            warnings=self.warnings,
            peak_bytes=peak_bytes(),
        )

    def _smoothed(self, frames: Iterator[Image.Image], seconds: dict[str, float]) -> Iterator[Image.Image]:
        """Frames and those in between; the time that this takes goes into `seconds`."""
        self._tell("smooth", self.plan.num_clips - 1, self.plan.num_inference_steps)
        spent, mark = 0.0, time.monotonic()
        for frame in self._filler()(self._watched(frames), self.request.smooth):
            spent += time.monotonic() - mark
            seconds["smooth"] = round(spent, 3)
            yield frame
            mark = time.monotonic()

    def _watched(self, frames: Iterator[Image.Image]) -> Iterator[Image.Image]:
        for frame in frames:
            if self.should_stop():
                raise Cancelled
            yield frame

    def _filler(self) -> Callable[[Iterator[Image.Image], int], Iterator[Image.Image]]:
        """What puts frames in between: the folder's model, or optical flow where it has none."""
        from pipelines.vidrd.interpolation import ModelInterpolator, flow_stream

        if self.model.interpolator is None:
            return flow_stream
        pipeline = self.model.pipeline
        return ModelInterpolator(
            self.model.interpolator,
            pipeline.encode_pictures,
            pipeline.decode_latents,
            pipeline.scheduler,
            pipeline.encode_prompt(""),
        ).stream

    def _begin(self) -> None:
        if self.should_stop():
            raise Cancelled
        self._tell("encode", 0, 0)

    def _on_step(self, step: Step) -> None:
        self._spend(f"clip {step.clip + 1}")
        self.filmed += step.call == 0
        if self.should_stop():
            raise Cancelled
        self._tell("film", step.clip, step.call + 1, step.calls, preview=self._preview(step))

    def _spend(self, phase: str) -> None:
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - self.mark
        self.mark = now

    def _tell(
        self,
        phase: str,
        clip: int,
        step: int,
        steps: int | None = None,
        preview: Image.Image | None = None,
        frames: tuple[Image.Image, ...] = (),
    ) -> None:
        if self.on_progress is None:
            return
        steps = steps or self.plan.num_inference_steps
        count = self.plan.num_clips
        fraction = min((clip + step / steps) / count, 1.0)
        size = (self.plan.width, self.plan.height)
        self.on_progress(FilmProgress(phase, clip + 1, count, step, steps, fraction, *size, preview, frames))

    def _preview(self, step: Step) -> Image.Image | None:
        """The middle frame of the present estimate."""
        if self.on_progress is None or self.mark < self.next_preview:
            return None
        middle = step.denoised.shape[2] // 2
        pixels = self.model.pipeline.decode_latents(step.denoised[:1, :, middle : middle + 1])[0]
        picture = self.model.pipeline.image_processor.pt_to_numpy(pixels)
        began = self.mark
        self._spend("preview")
        self.next_preview = self.mark + max(PREVIEW_EVERY_S, (self.mark - began) / PREVIEW_SHARE)
        return self.model.pipeline.image_processor.numpy_to_pil(picture)[0]


def _pictures(frames: Tensor) -> tuple[Image.Image, ...]:
    """The first video's frames, from `[B, F, H, W, 3]`."""
    from PIL import Image

    return tuple(Image.fromarray(frame) for frame in frames[0].numpy())


def folder_stamp(folder: Path) -> str:
    """Changes with any file of a model folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            facts = path.stat()
            digest.update(f"{path.relative_to(folder)} {facts.st_size} {facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()

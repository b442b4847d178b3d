"""Frames to files and back: mp4 (H.264), animated WebP and GIF, folders of PNG; the recipe rides along.

The encoder is libx264 as PyAV's wheels carry it, or libopenh264; their licences: `docs/vidrd.md`.
"""

import json
import math
import os
import shutil
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from pipelines.vidrd.film_plan import MAX_CLIP_FRAMES

FORMATS = (".mp4", ".webp", ".gif", "")  # no suffix: a folder of PNG files
ENCODERS = ("libx264", "libopenh264")
MAX_FPS = 120
GIF_FPS = 50  # its clock counts hundredths of a second, and players don't believe less than two
MAX_SIDE = 8192
RECIPE_KEY = "tessera"
_DESCRIPTION = 0x010E  # EXIF tag ImageDescription
# what Pillow and PyAV raise at damaged files; PyAV's errors also are the built-in ones of their number
UNREADABLE = (
    OSError,
    ValueError,
    EOFError,
    IndexError,
    SyntaxError,
    LookupError,
    Image.DecompressionBombError,
)


@dataclass(frozen=True)
class VideoFile:
    """A written video.

    Attributes:
        num_frames, fps, width, height, seconds: what it shows.
        encoder: name of the H.264 encoder, "" for other formats.
        poster: the frame with the most detail among the first ones.
    """

    path: Path
    num_frames: int
    fps: float
    width: int
    height: int
    encoder: str
    poster: Image.Image

    @property
    def seconds(self) -> float:
        return self.num_frames / self.fps


def export_video(
    frames: Iterable[Image.Image],
    path: str | Path,
    fps: float = 8,
    recipe: Mapping[str, Any] | None = None,
    quality: int = 90,
) -> VideoFile:
    """Write frames as a video; nothing stands under its name before it is whole.

    Args:
        frames: of one size; taken one by one.
        path: its suffix names the format: .mp4 (even sides only), .webp, .gif (which joins equal neighbours
            into one that stays longer), or none for a folder of PNG.
        fps: frames per second, above 0, at most 120 (GIF: 50). It never changes the number of frames.
        recipe: JSON values embedded in the file (mp4: comment, WebP: EXIF, GIF: comment, PNG: text chunk).
        quality: 1 to 100, of mp4 and WebP.
    Raises:
        ValueError: no frames, different or odd sizes, a rate or format that isn't allowed.
        OSError: the place can't be written, or there is no H.264 encoder.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise ValueError(
            f"the video's name ends in {path.suffix!r}; allowed: .mp4, .webp, .gif, or no ending"
        )
    check_fps(fps, GIF_FPS if suffix == ".gif" else MAX_FPS)
    if not 1 <= quality <= 100:
        raise ValueError(f"quality is {quality}; it must lie in 1 to 100")
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise ValueError("a video needs at least one frame")
    if suffix == ".mp4" and (first.width % 2 or first.height % 2):
        raise ValueError(f"mp4 needs even sides; the frames have {first.width}x{first.height} pixels")
    watched = _Watched(chain([first], stream), first.size)
    text = "" if recipe is None else json.dumps(recipe)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    encoder = ""
    try:
        if suffix == ".mp4":
            encoder = _write_mp4(watched, part, fps, text, quality)
        elif suffix:
            _write_animation(watched, part, suffix, fps, text, quality)
        else:
            _write_pictures(watched, part, text)
            shutil.rmtree(path, ignore_errors=True)
        os.replace(part, path)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        part.unlink(missing_ok=True)
    return VideoFile(path, watched.count, fps, *first.size, encoder, watched.poster)


def check_fps(fps: float, most: int = MAX_FPS) -> None:
    """Raise ValueError when there is no such rate."""
    if not (isinstance(fps, int | float) and math.isfinite(fps) and 0 < fps <= most):
        raise ValueError(f"fps is {fps!r}; it must be above 0 and at most {most}")


class _Watched:
    """Frames on their way into a file: checked, counted, and one of them kept as the poster."""

    def __init__(self, frames: Iterable[Image.Image], size: tuple[int, int]) -> None:
        self._frames, self.size = frames, size
        self.count, self._best = 0, -1.0
        self.poster = Image.new("RGB", size)

    def __iter__(self) -> Iterator[Image.Image]:
        for frame in self._frames:
            if frame.size != self.size:
                raise ValueError(f"frame {self.count} has size {frame.size}, the first one {self.size}")
            frame = frame.convert("RGB")
            if self.count < MAX_CLIP_FRAMES and (detail := _detail(frame)) > self._best:
                self.poster, self._best = frame.copy(), detail
            self.count += 1
            yield frame


def _detail(frame: Image.Image) -> float:
    """Mean absolute step between neighbouring pixels."""
    grey = np.asarray(frame.convert("L"), dtype=np.float32)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean())


def _write_mp4(frames: _Watched, part: Path, fps: float, text: str, quality: int) -> str:
    import av

    encoder = h264_encoder()
    with av.open(str(part), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        if text:
            container.metadata["comment"] = text
        stream = container.add_stream(encoder, rate=Fraction(fps).limit_denominator(1001))
        stream.width, stream.height = frames.size
        stream.pix_fmt = "yuv420p"
        if encoder == "libx264":
            stream.options = {"crf": str(round(40 - 0.28 * quality)), "preset": "medium"}
        else:
            stream.bit_rate = round(frames.size[0] * frames.size[1] * fps * quality / 300)
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709, said and done
        context.color_range = 1
        for frame in frames:
            picture = av.VideoFrame.from_image(frame).reformat(format="yuv420p", dst_colorspace="ITU709")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return encoder


def h264_encoder() -> str:
    """Name of the H.264 encoder of this installation.

    Raises:
        OSError: there is none.
    """
    import av

    for name in ENCODERS:
        try:
            av.codec.Codec(name, "w")
        except ValueError:  # av.codec.codec.UnknownCodecError
            continue
        return name
    raise OSError("this installation of PyAV has no H.264 encoder; export as .webp or .gif instead")


def _times(fps: float, unit_ms: int) -> Iterator[int]:
    """Milliseconds that each frame stays, in whole units, so that the sum never drifts."""
    shown = 0
    count = 0
    while True:
        count += 1
        end = round(count * 1000 / fps / unit_ms) * unit_ms
        yield end - shown
        shown = end


def _write_animation(frames: _Watched, part: Path, suffix: str, fps: float, text: str, quality: int) -> None:
    # Pillow asks for all durations beforehand, so the frames can't be counted on the way
    pictures = list(frames)
    clock = _times(fps, 10 if suffix == ".gif" else 1)
    options: dict[str, Any] = {"save_all": True, "append_images": pictures[1:], "loop": 0,
                               "duration": [next(clock) for _ in pictures]}  # fmt: skip
    if suffix == ".gif":
        pictures[0].save(part, "GIF", comment=text.encode(), **options)
        return
    exif = Image.Exif()
    exif[_DESCRIPTION] = text
    pictures[0].save(part, "WEBP", quality=quality, method=4, exif=exif, **options)


def _write_pictures(frames: _Watched, part: Path, text: str) -> None:
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    info = PngImagePlugin.PngInfo()
    info.add_itxt(RECIPE_KEY, text)
    for index, frame in enumerate(frames):
        frame.save(part / f"frame_{index:05}.png", pnginfo=info)


def read_recipe(path: str | Path) -> dict[str, Any] | None:
    """The recipe that `export_video` put into a file or folder; None where there is none.

    Raises:
        ValueError: the file can't be read as a video.
    """
    path = Path(path)
    try:
        if path.is_dir():
            with Image.open(min(path.glob("*.png"), default=path / "frame_00000.png")) as picture:
                text = picture.info.get(RECIPE_KEY, "")
        elif path.suffix.lower() == ".mp4":
            import av

            with av.open(str(path)) as container:
                text = container.metadata.get("comment", "")
        else:
            with Image.open(path) as picture:
                text = picture.info.get("comment") or picture.getexif().get(_DESCRIPTION) or ""
        recipe = json.loads(text) if text else None
    except UNREADABLE as error:
        raise ValueError(f"{path.name} can't be read as a video ({_reason(error)})") from error
    return recipe if isinstance(recipe, dict) else None


def read_video(source: str | Path | bytes, last: int | None = None) -> tuple[list[Image.Image], float]:
    """Frames of a video or animation, and its rate in frames per second (0 for a still picture).

    Args:
        source: a file, or its bytes.
        last: keep this many at the end; the memory for the others is given back on the way.
    Raises:
        ValueError: it can't be read, or its frames are larger than 8192 pixels.
    """
    name = "the video" if isinstance(source, bytes) else Path(source).name
    frames: deque[Image.Image] = deque(maxlen=last)
    try:
        data = BytesIO(source) if isinstance(source, bytes) else str(source)
        fps = _read_animation(data, frames)
        if fps is None:
            fps = _read_stream(BytesIO(source) if isinstance(source, bytes) else str(source), frames)
    except UNREADABLE as error:
        raise ValueError(f"{name} can't be read as a video ({_reason(error)})") from error
    if not frames:
        raise ValueError(f"{name} has no frames")
    return list(frames), fps


def _read_animation(source: Any, frames: deque[Image.Image]) -> float | None:
    """Read with Pillow; None when it isn't one of its formats."""
    try:
        picture = Image.open(source)
    except UnidentifiedImageError:
        return None
    with picture:
        _check_size(*picture.size)
        total = 0.0
        count = getattr(picture, "n_frames", 1)
        for index in range(count):
            picture.seek(index)
            picture.load()
            total += picture.info.get("duration", 0)
            frames.append(picture.convert("RGB"))
        return count * 1000 / total if total else 0.0


def _read_stream(source: Any, frames: deque[Image.Image]) -> float:
    import av

    with av.open(source) as container:
        if not container.streams.video:
            raise ValueError("it has no pictures")
        stream = container.streams.video[0]
        _check_size(stream.width, stream.height)
        for frame in container.decode(stream):
            frames.append(frame.to_image())
        return float(stream.average_rate or 0)


def _reason(error: BaseException) -> str:
    """An error without its number and without the place that only this program knows."""
    return str(getattr(error, "strerror", None) or error).strip() or type(error).__name__


def _check_size(width: int, height: int) -> None:
    if not (0 < width <= MAX_SIDE and 0 < height <= MAX_SIDE):
        raise ValueError(f"its frames have {width}x{height} pixels, allowed are {MAX_SIDE} a side")

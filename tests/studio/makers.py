"""A tokenizer and a filmer for tests: real files, real progress, real stopping; drawn with Pillow.

Beside them a tester of kernels that knows its findings beforehand.
"""

from __future__ import annotations

import hashlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from studio.crafts.reports import Report
from studio.crafts.selftests import BackendFacts, SpeedFacts
from studio.films import Film, FilmCost, Shoot, VideoFacts
from studio.painter import PaintingStopped, ProgressReport
from studio.requests import VideoRequest
from studio.tokens import Decoded, DecodeOptions, Generated, GenerateOptions, Point, Strip

SIDE = 32
CODES = 1000
STOPS = (1, 2, 4, 8, 16)
COUNT = 16


def _seconds(phase: str) -> dict[str, float]:
    return {phase: 0.01}


@dataclass
class DrawingTokenizer:
    """Sixteen ids per picture, taken from its bytes; each id paints one of sixteen fields.

    Args:
        gate: Decoding waits for it after the first stop.
        half: Drawing tokens from text waits for it after half of them, when it has shown them.
        drawn: Tokens that it draws from text unless asked for another number; 0: none.
    """

    gate: threading.Event | None = None
    half: threading.Event | None = None
    drawn: int = 4
    calls: list[str] = field(default_factory=list)

    def load(self, folder: Path) -> str:
        self.calls.append("load")
        return folder.name

    def tokens_drawn(self, folder: Path) -> int:
        return self.drawn

    def read(self, data: bytes) -> Strip:
        if data[:4] != b"FXTK" or len(data) < 12:
            raise ValueError("this is no token file: it doesn't begin with FXTK")
        width, height, count = struct.unpack("<HHH", data[4:10])
        ids = struct.unpack(f"<{count}H", data[10:])
        if any(token >= CODES for token in ids):
            raise ValueError(f"token id {max(ids)}; levels allow 0 to {CODES - 1}")
        return Strip(data, (ids,), width, height, CODES, "drawing@1")

    def kept(self, data: bytes, keep: int) -> bytes:
        strip = self.read(data)
        if keep > strip.count:
            raise ValueError(f"{keep} tokens were asked for; this picture has 1 to {strip.count}")
        return pack_ids(strip.tiles[0][:keep], strip.width, strip.height)

    def splice(self, first: bytes, second: bytes, places: Sequence[int]) -> bytes:
        one, two = self.read(first), self.read(second)
        ids = list(one.tiles[0])
        for place in places:
            if not 0 <= place < len(ids):
                raise ValueError(f"place {place}; allowed 0 to {len(ids) - 1}")
            ids[place] = two.tiles[0][place]
        return pack_ids(ids, one.width, one.height)

    def encode(
        self, model: Any, picture: Image.Image, keep: int | None, fit: str,
        on_progress: Callable[[ProgressReport], None] | None, should_stop: Callable[[], bool],
    ) -> Strip:  # fmt: skip
        self.calls.append(f"encode {fit}")
        if on_progress:
            on_progress(Report("encode", fraction=1.0))
        digest = hashlib.sha256(picture.resize((16, 16)).tobytes()).digest()
        ids = [(digest[2 * n] * 256 + digest[2 * n + 1]) % CODES for n in range(keep or COUNT)]
        return self.read(pack_ids(ids, *picture.size))

    def decode(
        self, model: Any, data: bytes, keep: int | None, options: DecodeOptions,
        on_progress: Callable[[ProgressReport], None] | None, should_stop: Callable[[], bool],
    ) -> Decoded:  # fmt: skip
        strip = self.read(data)
        image = show(strip.tiles[0][: keep or COUNT], options.seed).resize((strip.width, strip.height))
        return Decoded(image, _seconds("decode"), (), "cpu", "float32")

    def stops(
        self, model: Any, data: bytes, stops: Sequence[int] | None, options: DecodeOptions,
        should_stop: Callable[[], bool],
    ) -> Iterator[tuple[int, Image.Image]]:  # fmt: skip
        ids = self.read(data).tiles[0]
        counts = sorted({min(stop, len(ids)) for stop in stops or STOPS})
        for place, count in enumerate(counts):
            while place and self.gate and not self.gate.is_set():
                if should_stop():
                    raise PaintingStopped
                time.sleep(0.002)
            yield count, show(ids[:count], options.seed)

    def framed(self, model: Any, picture: Image.Image, fit: str) -> Image.Image:
        return picture.convert("RGB").resize((SIDE, SIDE))

    def measure(self, count: int, decoded: Image.Image, reference: Image.Image) -> Point:
        return Point(count, 10.0 + count.bit_length(), 0.3 / count)

    def generate(
        self, model: Any, prompt: str, options: GenerateOptions,
        on_progress: Callable[[ProgressReport], None] | None, should_stop: Callable[[], bool],
    ) -> Generated:  # fmt: skip
        digest = hashlib.sha512(f"{prompt}|{options.seed}|{options.temperature}".encode()).digest()
        fresh = [(digest[2 * n] * 256 + digest[2 * n + 1]) % CODES for n in range(COUNT)]
        ids = [*options.prefix, *fresh][: options.keep or COUNT]
        for count in (len(ids) // 2, len(ids)):
            while count == len(ids) and self.half and not self.half.is_set():
                if should_stop():
                    raise PaintingStopped
                time.sleep(0.002)
            if on_progress:
                preview = show(ids[:count], options.seed)
                fraction = count / len(ids)
                on_progress(
                    Report("generate", step=count, steps=len(ids), fraction=fraction, preview=preview)
                )
        strip = self.read(pack_ids(ids, SIDE, SIDE))
        return Generated(show(ids, options.seed), _seconds("generate"), ("careful",), "cpu", "float32", strip)


def pack_ids(ids: Sequence[int], width: int, height: int) -> bytes:
    return b"FXTK" + struct.pack("<HHH", width, height, len(ids)) + struct.pack(f"<{len(ids)}H", *ids)


def show(ids: Sequence[int], seed: int) -> Image.Image:
    """Sixteen fields; those without a token stay grey."""
    image = Image.new("RGB", (SIDE, SIDE), (150, 150, 150 + seed % 50))
    pen = ImageDraw.Draw(image)
    step = SIDE // 4
    for place, token in enumerate(ids[:16]):
        left, top = place % 4 * step, place // 4 * step
        colour = (token % 256, token * 7 % 256, token * 13 % 256)
        pen.rectangle((left, top, left + step - 1, top + step - 1), fill=colour)
    return image


@dataclass
class DrawingFilmer:
    """Clips of coloured frames that depend on prompt, seed and what came before; finished ones are stored.

    Args:
        gate: Filming waits for it in the middle of clip 3.
        encodes: Writes real mp4 files; else a few bytes that stand for one.
    """

    gate: threading.Event | None = None
    encodes: bool = False
    filmed: list[int] = field(default_factory=list)
    reached: threading.Event = field(default_factory=threading.Event)

    def load(self, folder: Path) -> str:
        return folder.name

    def problem(self, request: VideoRequest) -> str:
        return "frames is 13; unlucky" if request.frames == 13 else ""

    def forecast(self, folder: Path, request: VideoRequest, start: Sequence[Image.Image]) -> FilmCost:
        return FilmCost(2.0 * request.clips, 1 << 29, request.clips * request.frames)

    def film(
        self, model: Any, shoot: Shoot, on_progress: Callable[[ProgressReport], None] | None,
        on_clip: Callable[[int, Sequence[Image.Image]], None], should_stop: Callable[[], bool],
    ) -> Film:  # fmt: skip
        request = shoot.request
        clips = []
        for clip in range(1, request.clips + 1):
            note = shoot.store / f"clip{clip}.json" if shoot.store else None
            if note and note.exists() and clip != shoot.redo:
                colours = json.loads(note.read_text())
            else:
                colours = self._shoot(request, clip, on_progress, should_stop)
                if note:
                    note.parent.mkdir(exist_ok=True)
                    note.write_text(json.dumps(colours))
            frames = tuple(Image.new("RGB", (64, 48), tuple(colour)) for colour in colours)
            clips.append(frames)
            on_clip(clip, frames)
        return Film(tuple(clips), request.fps, 64, 48, _seconds("clip 1"), "float32", "cpu", (), 1 << 20)

    def _shoot(
        self, request: VideoRequest, clip: int, on_progress: Callable[[ProgressReport], None] | None,
        should_stop: Callable[[], bool],
    ) -> list[tuple[int, int, int]]:  # fmt: skip
        seed = dict(request.clip_seeds).get(clip, request.seed)
        text = dict(request.prompts_at).get(clip, request.prompt)
        for step in range(1, 4):
            if clip == 3 and step == 2:
                self.reached.set()
            while clip == 3 and step == 2 and self.gate and not self.gate.is_set():
                if should_stop():
                    raise PaintingStopped
                time.sleep(0.002)
            if on_progress:
                fraction = (clip - 1 + step / 3) / request.clips
                size = (64, 48)
                preview = Image.new("RGB", size, (40 * clip % 256, 80, 40 * step))
                on_progress(Report("film", clip, request.clips, step, 3, fraction, *size, preview))
        self.filmed.append(clip)
        digest = hashlib.sha256(f"{text}|{seed}|{clip}".encode()).digest()
        return [(digest[0], (digest[1] + 9 * frame) % 256, digest[2]) for frame in range(request.frames)]

    def write(
        self, frames: Iterable[Image.Image], path: Path, fps: float, recipe: dict[str, Any]
    ) -> VideoFacts:
        frames = list(frames)
        if self.encodes:
            from pipelines.vidrd.video_files import export_video

            export_video(frames, path, fps, recipe)
        else:
            colours = [frame.getpixel((0, 0)) for frame in frames]
            path.write_text(json.dumps({"colours": colours, "recipe": recipe}))
        return VideoFacts(len(frames), fps, *frames[0].size, frames[0])

    def read_start(self, path: Path, frames: int) -> tuple[Image.Image, ...]:
        try:
            return (Image.open(path).convert("RGB"),)
        except OSError as error:
            raise ValueError(f"{path.name} can't be read as a picture or video") from error


@dataclass
class FixedTester:
    """Two back ends; one can't run here.

    Args:
        status: What the other one does, "ran" or "failed".
        fault: What the test itself breaks with, if anything.
        gate: Testing waits for it.
    """

    status: str = "ran"
    fault: Exception | None = None
    gate: threading.Event | None = None
    asked: list[str] = field(default_factory=list)

    def device(self) -> str:
        return "cpu"

    def dtypes(self) -> tuple[str, ...]:
        return ("bfloat16", "float32")

    def backends(self, dtype: str) -> tuple[BackendFacts, ...]:
        self.asked.append(dtype)
        if self.gate is not None:
            self.gate.wait(60)
        if self.fault is not None:
            raise self.fault
        reason = "chosen by auto" if self.status == "ran" else "differs by 3.1e-02, allowed 1e-05"
        taken = BackendFacts("sdpa", self.status, reason, True, 1e-6, 2e-7, 3.5)
        return (taken, BackendFacts("triton", "refused", "no CUDA device", False, None, None, None))

    def speed(self, dtype: str) -> SpeedFacts:
        if self.status == "failed" or dtype != "float32":
            return SpeedFacts(refusal="not now.")
        return SpeedFacts(4096, 90.0, 10.0)

"""A painter for tests: real pictures, real progress, real stopping; drawn with Pillow in milliseconds."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from studio.judging import Attempt, Judgement, RelationVerdict, Search
from studio.metering import Gauge, Seams, SentenceLength
from studio.painter import PaintingStopped
from studio.scoring import SentenceVerdict
from studio.seeing import Seen, SeenObject, SeenRelation

WORLD = {
    "a",
    "red",
    "blue",
    "ball",
    "cat",
    "in",
    "meadow",
    "under",
    "night",
    "sky",
    "to",
    "the",
    "left",
    "of",
}


@dataclass(frozen=True)
class Report:
    phase: str
    stage: int
    stages: int
    step: int
    steps: int
    fraction: float
    width: int
    height: int
    preview: Image.Image | None


@dataclass(frozen=True)
class Result:
    image: Image.Image
    seconds: dict[str, float]
    stages: tuple[tuple[int, int], ...]
    backend: str = "drawing"
    dtype: str = "uint8"
    device: str = "cpu"
    warnings: tuple[str, ...] = ()
    peak_bytes: int = 1 << 20


@dataclass(frozen=True)
class Cost:
    seconds: float
    memory_bytes: int
    stages: tuple[tuple[int, int], ...]
    fits: bool


@dataclass
class DrawingPainter:
    """Paints coloured rectangles that depend on prompt, seed, size, steps and the model's bytes.

    Args:
        step_s: Seconds each of the steps takes.
        gates: phase -> event; the painter waits in that phase until it is set, or until asked to stop.
        fail: Raised in the middle of painting.
        memory_bytes: What a forecast says.
        fits: What a forecast says.
        stages: How many stages a picture takes, each twice as large as the one before, from 64 pixels on.
    """

    step_s: float = 0.0
    gates: dict[str, threading.Event] = field(default_factory=dict)
    fail: BaseException | None = None
    memory_bytes: int = 1 << 30
    fits: bool = True
    forecast_s: float = 1.0
    stages: int = 1

    def __post_init__(self) -> None:
        self.on_device = 0
        self.most_on_device = 0
        self.painted: list[tuple[str, int]] = []
        self.tenors: list[bool | None] = []
        self.loads: list[str] = []
        self.reached: dict[str, threading.Event] = {
            phase: threading.Event() for phase in ("encode", "paint", "decode")
        }
        self._count = threading.Lock()

    def load_model(self, folder: Path) -> Any:
        self.loads.append(folder.name)
        return (folder / "unet.safetensors").read_bytes()

    def paint(
        self,
        model: Any,
        *,
        prompt: str,
        width: int,
        height: int,
        seed: int,
        steps: int | None,
        on_progress: Callable[[Report], None] | None,
        should_stop: Callable[[], bool] | None,
        tenor: bool | None = None,
        cut_prompt: bool = False,
    ) -> Result:
        with self._count:
            self.on_device += 1
            self.most_on_device = max(self.most_on_device, self.on_device)
        try:
            total = steps or 4
            began = time.perf_counter()
            for phase, step, fraction in _course(total):
                self._wait(phase, should_stop)
                if self.fail is not None and phase == "paint":
                    raise self.fail
                if on_progress:
                    preview = Image.new("RGB", (64, 64), (step * 20, 90, 40)) if phase == "paint" else None
                    on_progress(Report(phase, 1, 1, step, total, fraction, width, height, preview))
            prompt = " ".join(prompt.split()[:6]) if cut_prompt else prompt
            self.painted.append((prompt, seed))
            self.tenors.append(tenor)
            image = draw(prompt, width, height, seed, total, model)
            return Result(image, {"paint": time.perf_counter() - began}, self._stages(width, height))
        finally:
            with self._count:
                self.on_device -= 1

    def _wait(self, phase: str, should_stop: Callable[[], bool] | None) -> None:
        self.reached[phase].set()
        end = time.monotonic() + self.step_s
        gate = self.gates.get(phase)
        while True:
            if should_stop and should_stop():
                raise PaintingStopped
            if time.monotonic() >= end and (gate is None or gate.is_set()):
                return
            time.sleep(0.002)

    def forecast(self, folder: Path, width: int, height: int, steps: int | None) -> Cost:
        return Cost(self.forecast_s, self.memory_bytes, self._stages(width, height), self.fits)

    def _stages(self, width: int, height: int) -> tuple[tuple[int, int], ...]:
        halved = [(width >> n, height >> n) for n in range(self.stages) if min(width, height) >> n >= 32]
        return tuple(reversed(halved))

    def check_size(self, width: int, height: int) -> str | None:
        return (
            None
            if max(width, height) <= 8 * min(width, height)
            else "sides differ by more than a factor of 8."
        )

    def default_steps(self, folder: Path) -> int:
        return 4

    def few_steps(self, folder: Path) -> int:
        return 0

    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in prompt.lower().split() if word.strip(".,") not in WORLD]

    def world_summary(self) -> str:
        return "ball, cat; red, blue; a meadow"

    def read_manifest(self, weights_dir: Path) -> Mapping[str, Any]:
        path = weights_dir / "MANIFEST.json"
        manifest: Mapping[str, Any] = json.loads(path.read_text()) if path.exists() else {"models": {}}
        return manifest

    def lenders(self, folder: Path) -> list[Path]:
        return []

    def verify_folder(self, folder: Path) -> list[str]:
        files = self.read_manifest(folder.parent)["models"].get(folder.name, {}).get("files", {})
        return [
            f"file {name} does not have the recorded contents."
            for name, facts in files.items()
            if hashlib.sha256((folder / name).read_bytes()).hexdigest() != facts["sha256"]
        ]


def _course(steps: int) -> Iterator[tuple[str, int, float]]:
    yield "encode", 0, 0.05
    for step in range(1, steps + 1):
        yield "paint", step, 0.05 + 0.85 * step / steps
    yield "decode", 1, 0.95


def draw(prompt: str, width: int, height: int, seed: int, steps: int, model: bytes) -> Image.Image:
    """A picture of 16 rectangles taken from a hash of everything that must matter."""
    image = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(image)
    digest = hashlib.sha512(f"{prompt}|{width}|{height}|{seed}|{steps}|".encode() + model).digest()
    for index in range(0, 64, 4):
        red, green, blue, place = digest[index : index + 4]
        left, top = (place % 16) * width // 16, (place // 16) * height // 16
        pen.rectangle((left, top, left + width // 4, top + height // 4), fill=(red, green, blue))
    return image


class FixedLooker:
    """Eyes that see the same two things in every picture."""

    def __init__(self) -> None:
        self.loads: list[str] = []

    def load_eyes(self, folder: Path) -> str:
        self.loads.append(folder.name)
        return folder.name

    def look(self, eyes: Any, pictures: Sequence[Image.Image]) -> list[Seen]:
        cat = SeenObject("cat", "red", "plain", (0.1, 0.4, 0.35, 0.7), 0.9)
        house = SeenObject("house", "blue", "striped", (0.55, 0.3, 0.95, 0.8), 0.8)
        relations = (SeenRelation(0, "left of", 1),)
        return [Seen("meadow", 0.99, (cat, house), relations) for _ in pictures]


@dataclass
class SeedJudge:
    """Holds pictures for right whose seed is one of `good`; knows the seed from the painter."""

    painter: DrawingPainter
    good: set[int] = field(default_factory=set)
    refusal: str = ""

    def problem(self, prompt: str) -> str:
        return self.refusal

    def judge(self, eyes: Any, prompt: str, picture: Image.Image) -> Judgement:
        passed = self.painter.painted[-1][1] in self.good
        margin, reason = (0.4, "") if passed else (None, "no")
        relation = RelationVerdict("red ball left of blue ball", passed, margin, reason)
        boxes = {0: (0.1, 0.2, 0.3, 0.4)}
        score = 0.9 if passed else 0.1
        return Judgement((relation,), ("red ball", "blue ball"), boxes, (), (), passed, score)

    def search(
        self,
        eyes: Any,
        prompt: str,
        paint: Callable[[str, int], Image.Image],
        seeds: Sequence[int],
        on_attempt: Callable[[Attempt], None],
        should_stop: Callable[[], bool],
    ) -> Search:
        attempts: list[Attempt] = []
        for seed in seeds:
            if should_stop():
                return Search(tuple(attempts), 0, "", True)
            picture = paint(prompt, seed)
            attempts.append(Attempt(seed, prompt, picture, self.judge(eyes, prompt, picture)))
            on_attempt(attempts[-1])
            if attempts[-1].judgement.passed:
                break
        best = max(range(len(attempts)), key=lambda place: attempts[place].judgement.score)
        return Search(tuple(attempts), best, "", False)


class WordScorer:
    """A sentence with "cat" in it is shown, one with "house" may be missing, others can't be told."""

    def sentences(self, eyes: Any, prompt: str, picture: Image.Image) -> list[SentenceVerdict]:
        found, start = [], 0
        for part in prompt.split("."):
            text = part.strip()
            begin, start = start + len(part) - len(part.lstrip()), start + len(part) + 1
            if text:
                shown = True if "cat" in text else False if "house" in text else None
                reason = "not found: house" if shown is False else ""
                found.append(SentenceVerdict(text, begin, begin + len(text), shown, reason))
        return found


def _words(encoder: str, limit: int, words: list[str], parts: list[str]) -> Gauge:
    left, sentences = limit - 2, []
    for part in parts:
        own = part.split()
        kept = own[: max(0, left)]
        sentences.append(SentenceLength(part, len(kept), " ".join(own[len(kept) :])))
        left -= len(own)
    dropped, lost = max(0, len(words) - limit + 2), " ".join(words[limit - 2 :])
    whole = len(words) + 2
    return Gauge(encoder, limit, whole - dropped, tuple(sentences), whole, "whole", dropped, lost)


class WordMeters:
    """Counts words as tokens: "T5" reads eight, "CLIP", which sums up, six; two of each are marks."""

    def gauges(self, folder: Path, prompt: str) -> list[Gauge]:
        words = prompt.split()
        parts = [part.strip() for part in prompt.split(".") if part.strip()]
        return [_words("T5", 8, words, parts), replace(_words("CLIP", 6, words, parts), is_summary=True)]

    def has_borders(self, width: int, height: int) -> bool:
        return max(width, height) > 512

    def seams(self, picture: Image.Image) -> Seams:
        return Seams(1.04, 1.21, column=picture.width // 2)


CLASSES = {
    "storybook-eyes": "StorybookEyes",
    "storybook-flextok": "FlexARPipeline",
    "storybook-video": "VidRDPipeline",
}


def make_weights(folder: Path, names: tuple[str, ...] = ("storybook-flux",)) -> Path:
    """A weights folder whose models `DrawingPainter` can load, with a manifest that matches."""
    models = {}
    for name in names:
        model = folder / name
        model.mkdir(parents=True)
        kind = CLASSES.get(name, "FluxPipeline")
        (model / "model_index.json").write_text(json.dumps({"_class_name": kind}))
        (model / "unet.safetensors").write_bytes(name.encode() * 100)
        files = {
            path.name: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
            for path in sorted(model.iterdir())
        }
        models[name] = {"folder": name, "class": kind, "license": "Apache-2.0", "files": files}
    (folder / "MANIFEST.json").write_text(json.dumps({"models": models}))
    return folder

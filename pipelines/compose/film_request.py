"""What a person asks to be filmed, checked before any model is loaded, and how long it will take."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.storybook.guidance import FILM_GUIDANCE
from pipelines.weights import IMAGE_MODEL, files_beside

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.vidrd.film_plan import FilmPlan

MAX_CLIPS = 200
MAX_SIDE = 1024
SIZE_MULTIPLE = 16
SMOOTH_FACTORS = (1, 2, 4)
STORYBOOK_STEPS, STORYBOOK_GUIDANCE = 20, FILM_GUIDANCE
STEPS, GUIDANCE = 50, 7.5  # of published weights
# latent cells times weights a second, assumed until this process has filmed once
FIRST_SPEED = 2.5e10

_speed = FIRST_SPEED


@dataclass(frozen=True)
class FilmRequest:
    """What to film. Clips are numbered from 1, as people count.

    Attributes:
        prompt: of the first clip, and of all that follow until it changes.
        prompts_at: clip number (2 to `clips`) -> text from there on.
        clips: 1 to 200. frames: of each clip.
        fps: frames per second when played; never changes the number of frames.
        width, height: pixels, multiples of 16; None for the model's own (of the start's aspect).
        steps: of each clip; None for the model's own.
        order: how clips continue: "chronological", or "mirror" (the paper's).
        overlap: frames that a clip shares with the one before; None for half a clip (a quarter in loops).
        is_loop: the end leads back to the beginning.
        smooth: 2 or 4 puts interpolated frames in between (and multiplies `fps`).
        start: one picture to begin with, or frames of a video to continue.
        clip_seeds: clip number -> seed of that clip alone (set when a clip is filmed again).
    """

    prompt: str
    prompts_at: Mapping[int, str] = field(default_factory=dict)
    clips: int = 4
    frames: int = 8
    fps: float = 8.0
    seed: int = 0
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    order: str = "chronological"
    overlap: int | None = None
    is_loop: bool = False
    smooth: int = 1
    start: tuple[Image.Image, ...] = ()
    clip_seeds: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class FilmForecast:
    """`seconds` and `memory_bytes` of a film, and the number of frames that will be shown."""

    seconds: float
    memory_bytes: int
    frames: int


def check_film(request: FilmRequest) -> str | None:
    """None, or one sentence that says why this can't be filmed. Quick; loads nothing."""
    try:
        make_plan(request, ("", ()), (request.width or 128, request.height or 128), 1, 1.0)
    except ValueError as error:
        return str(error)
    return None


def check_request(request: FilmRequest) -> None:
    from pipelines.vidrd.video_files import check_fps

    if not request.prompt.strip():
        raise ValueError("the prompt is empty")
    if not isinstance(request.clips, int) or not 1 <= request.clips <= MAX_CLIPS:
        raise ValueError(f"clips is {request.clips!r}; it must be a whole number from 1 to {MAX_CLIPS}")
    for name in ("prompts_at", "clip_seeds"):
        first = 2 if name == "prompts_at" else 1
        wrong = [number for number in getattr(request, name) if not first <= number <= request.clips]
        if wrong:
            raise ValueError(
                f"{name} names clip {wrong[0]}; {request.clips} clips allow {first} to {request.clips}"
            )
    if any(not text.strip() for text in request.prompts_at.values()):
        raise ValueError("a prompt of the schedule is empty")
    check_fps(request.fps)
    if request.smooth not in SMOOTH_FACTORS:
        raise ValueError(f"smooth is {request.smooth!r}; allowed: {SMOOTH_FACTORS}")
    if request.steps is not None and not 1 <= request.steps <= 1000:
        raise ValueError(f"steps is {request.steps}; it must lie in 1 to 1000")
    for name in ("width", "height"):
        value = getattr(request, name)
        if value is not None and (not 64 <= value <= MAX_SIDE or value % SIZE_MULTIPLE):
            raise ValueError(
                f"{name} is {value}; it must be a multiple of {SIZE_MULTIPLE} from 64 to {MAX_SIDE}"
            )
    if 1 < len(request.start) < request.frames:
        raise ValueError(
            f"the video to continue has {len(request.start)} frames; at least {request.frames} are needed"
        )


def make_plan(
    request: FilmRequest,
    read: tuple[str, tuple[tuple[int, str], ...]],
    size: tuple[int, int],
    steps: int,
    guidance: float,
) -> FilmPlan:
    """The plan of a request; `read` holds the prompt and its changes as the model reads them."""
    from pipelines.vidrd.film_plan import ClipSettings, FilmPlan
    from pipelines.vidrd.handover import Handover

    check_request(request)
    settings = {number - 1: ClipSettings(prompt=text) for number, text in read[1]}
    for number, seed in request.clip_seeds.items():
        settings[number - 1] = replace(settings.get(number - 1, ClipSettings()), seed=seed)
    overlap = request.overlap
    if overlap is None:  # the last clip of a loop meets two others
        overlap = max(1, request.frames // 4) if request.is_loop else request.frames // 2
    return FilmPlan(
        prompts=(read[0],),
        negative_prompts=("",),
        seeds=(request.seed,),
        height=size[1],
        width=size[0],
        num_clips=request.clips,
        num_frames=request.frames,
        num_inference_steps=steps,
        guidance_scale=guidance,
        handover=Handover(overlap, order=request.order),
        settings=settings,
        is_loop=request.is_loop,
    )


def read_start(source: Image.Image | bytes | Path, frames: int = 8) -> tuple[Image.Image, ...]:
    """What a film can start from: a picture, or the last frames of a video or animation.

    Raises:
        ValueError: it can't be read.
    """
    from PIL import Image

    from pipelines.vidrd.video_files import read_video

    if isinstance(source, Image.Image):
        return (source.convert("RGB"),)
    return tuple(read_video(source, last=frames)[0])


def forecast_film(folder: Path, request: FilmRequest) -> FilmForecast:
    """Time and memory (with a store, into mp4) from file sizes and the last measured speed; loads nothing.

    Raises:
        ValueError: a bad request or folder.
    """
    folder = Path(folder)
    width, height = film_size(request, _base_size(folder))
    plan = make_plan(request, (request.prompt, ()), (width, height), request.steps or STEPS, 2.0)
    if request.steps is None and folder.name.startswith("storybook"):
        plan = replace(plan, num_inference_steps=STORYBOOK_STEPS)
    work = _work(plan, count_weights(folder))
    latents = plan.num_frames * width * height / 64
    frames = 2 * 3 * width * height * plan.num_frames * request.smooth  # of one clip, shown and encoded
    memory = 700_000_000 + 2 * _bytes(folder) + round(latents * 40_000) + frames
    return FilmForecast(work / _speed + 1.0, memory, plan.total_frames * request.smooth)


def _bytes(folder: Path, part: str = "") -> int:
    """Bytes of all weights, or of one part's, with those of the image model that the folder lies over."""
    own = sum(path.stat().st_size for path in (folder / part).rglob("*.safetensors"))
    lent = files_beside(folder, IMAGE_MODEL).items()
    return own + sum(
        facts["bytes"] for name, facts in lent if f"/{part}" in name and name.endswith(".safetensors")
    )


def count_weights(folder: Path) -> int:
    """About how many weights the UNet has (stored in half precision)."""
    return _bytes(folder, "unet") // 2


def _work(plan: FilmPlan, weights: int) -> float:
    cells = plan.num_frames * plan.height * plan.width / 64
    passes = 2 if plan.guidance_scale > 1 else 1
    return plan.num_clips * plan.num_inference_steps * passes * cells * weights


def _base_size(folder: Path) -> int:
    try:
        config = json.loads((folder / "unet" / "config.json").read_text(encoding="utf-8"))
        return int(config.get("sample_size") or 64) * 8
    except (OSError, ValueError, TypeError) as error:
        raise ValueError(f"{folder} is not a video model folder ({error!r:.100})") from error


def film_size(request: FilmRequest, base: int) -> tuple[int, int]:
    """Pixels of the film: as asked, else about the model's base area in the start's aspect."""
    if request.width is not None and request.height is not None:
        return request.width, request.height
    if request.width is not None or request.height is not None:
        raise ValueError("give both width and height, or neither")
    aspect = request.start[0].width / request.start[0].height if request.start else 1.0
    aspect = min(max(aspect, 0.25), 4.0)
    sides = (base * math.sqrt(aspect), base / math.sqrt(aspect))
    width, height = (max(64, round(side / SIZE_MULTIPLE) * SIZE_MULTIPLE) for side in sides)
    return width, height


def learn_film_speed(plan: FilmPlan, weights: int, clips: int, seconds: float) -> None:
    """Take the speed of what was filmed into account."""
    global _speed
    if seconds > 0.3:
        _speed = 0.5 * _speed + 0.5 * _work(plan, weights) * clips / plan.num_clips / seconds

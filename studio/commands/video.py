"""`video`: a clip, then more clips that continue it, into one file."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.checks import parse_integer, parse_number, parse_size
from studio.commands.console import existing, print_json, print_warnings, progress, quiet_stdout, read_prompt
from studio.commands.painting import settings_with
from studio.crafts.craft import loaded, memory_told
from studio.crafts.films import film_recipe, plan_film
from studio.crafts.world import World
from studio.doors import filming, painting
from studio.errors import StudioError
from studio.films import Filmer, Shoot
from studio.gallery.files import check_writable, storage_error
from studio.registry import Registry
from studio.requests import VideoRequest

ENDINGS = (".mp4", ".webp", ".gif", "")


def video(arguments: argparse.Namespace) -> int:
    """Film and write; nothing appears under its name before it is complete."""
    out = Path(arguments.out)
    if out.suffix.lower() not in ENDINGS:
        raise StudioError(
            "bad_input", f"out: given {out.name!r}, allowed names ending in .mp4, .webp, .gif, or a folder."
        )
    request = _request(arguments)
    settings, name = settings_with(arguments.model)
    painter = painting.PipelinePainter()
    registry, filmer = Registry(settings, painter), filming.PipelineFilmer()
    card = registry.usable(name, "video")
    start: tuple[Any, ...] = ()
    with _refusals():
        if arguments.start:
            with quiet_stdout():
                start = filmer.read_start(existing(arguments.start, "picture or video"), request.frames)
    plan = plan_film(filmer, World(painter), card, request, start)
    check_writable(out, "the video")
    with progress(plan.forecast.seconds) as news, _refusals():
        with memory_told("filming", "Choose a smaller size or fewer frames."):
            _, model, load_seconds = loaded(registry, card, news, filmer.load)
            shoot = Shoot(plan.request, start)
            film = filmer.film(model, shoot, news.report, lambda *_: None, news.should_stop)
        began = time.monotonic()
        facts = _write(filmer, film, out, plan.request)
    seconds = {**film.seconds, "save": time.monotonic() - began, "load": load_seconds}
    warnings = list(dict.fromkeys((*plan.warnings, *film.warnings)))
    print_warnings(warnings)
    size = f"{facts.width}x{facts.height}"
    if arguments.json:
        print_json({
            "file": str(out), "seed": request.seed, "size": size, "frames": facts.frames,
            "width": facts.width, "height": facts.height, "fps": facts.fps,
            "clips": request.clips, "prompt": request.prompt,
            "seconds": {phase: round(value, 3) for phase, value in seconds.items()}, "model": card.name,
            "device": film.device, "dtype": film.dtype, "peak_bytes": film.peak_bytes, "warnings": warnings,
            "unknown_words": list(plan.unknown_words),
        })  # fmt: skip
    else:
        print(f"{out}  {size}  {facts.frames} frames  {sum(seconds.values()):.1f} s")
    return 0


def _request(arguments: argparse.Namespace) -> VideoRequest:
    width, height = parse_size(arguments.size) if arguments.size else (None, None)
    return VideoRequest(
        prompt=read_prompt(arguments.prompt, arguments.prompt_file),
        prompts_at=tuple((parse_integer("prompt-at", clip), text) for clip, text in arguments.prompt_at),
        clips=parse_integer("clips", arguments.clips),
        frames=parse_integer("frames", arguments.frames),
        fps=parse_number("fps", arguments.fps),
        seed=parse_integer("seed", arguments.seed),
        width=width,
        height=height,
        steps=None if arguments.steps is None else parse_integer("steps", arguments.steps),
        order=arguments.order,
        is_loop=arguments.loop,
        smooth=parse_integer("smooth", arguments.smooth),
    )


def _write(filmer: Filmer, film: Any, out: Path, request: VideoRequest) -> Any:
    try:
        return filmer.write(film.frames(), out, film.fps, film_recipe(request, film))
    except OSError as error:
        raise storage_error(error, "the video", out.parent) from error


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what the other side refuses inside the block into one sentence."""
    try:
        yield
    except ValueError as error:
        raise StudioError("bad_input", f"video: {str(error).rstrip('.')}.") from error

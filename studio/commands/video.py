"""`video`: a clip, then more clips that continue it, into one file."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from studio.checks import check_integer, parse_integer, parse_number, parse_size
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
from studio.requests.video import MAX_VIDEO_SIDE

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
    shoot = Shoot(plan.request, start, *_store(arguments, out))
    memory = memory_told("filming", "Choose a smaller size or fewer frames.")
    kept = _kept(shoot, arguments.keep_clips)
    with kept, progress(plan.forecast.seconds) as news, _refusals(), memory:
        _, model, load_seconds = loaded(registry, card, news, filmer.load)
        film = filmer.film(model, shoot, news.report, lambda *_: None, news.should_stop)
        began = time.monotonic()
        facts = _write(filmer, film, out, plan.request)
    seconds = film.all_seconds(load_seconds, time.monotonic() - began)
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
    width, height = parse_size(arguments.size, MAX_VIDEO_SIDE) if arguments.size else (None, None)
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
        clip_seeds=tuple(
            (parse_integer("clip-seed", clip), parse_integer("clip-seed", seed))
            for clip, seed in arguments.clip_seed
        ),
    )


def _store(arguments: argparse.Namespace, out: Path) -> tuple[Path, int]:
    """Where finished clips are kept, beside the video, and the clip to film again (0 for none).

    Raises:
        StudioError: one is to be filmed again, but the clips are not kept.
    """
    store = out.with_name(f".{out.name[:200]}.clips")
    if arguments.again is None:
        return store, 0
    clip = parse_integer("again", arguments.again)
    check_integer("again", clip, 1, parse_integer("clips", arguments.clips))
    if not store.is_dir():
        raise StudioError("not_found", f"The clips of {str(out)!r} are not here.", "Film with --keep-clips.")
    return store, clip


@contextlib.contextmanager
def _kept(shoot: Shoot, keep: bool) -> Iterator[None]:
    """Keep clips of a film that isn't whole: the same command goes on behind them. Afterwards they go."""
    assert shoot.store is not None
    try:
        yield
    except BaseException as error:
        if not any(shoot.store.glob("clip*")):
            shutil.rmtree(shoot.store, ignore_errors=True)
        elif isinstance(error, KeyboardInterrupt):
            told = f"Stopped; the same command goes on behind the clips in {str(shoot.store)!r}."
            raise StudioError("interrupted", told) from error
        raise
    if not keep and not shoot.redo:
        shutil.rmtree(shoot.store, ignore_errors=True)


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

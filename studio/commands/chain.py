"""`chain`: a prompt to a picture, to tokens, to what they say, to a film that starts there."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from studio.checks import parse_integer, parse_number, parse_size
from studio.commands.console import print_json, print_warnings, progress, quiet_stdout, read_prompt
from studio.commands.painting import picture_maker, settings_with
from studio.crafts.craft import memory_told
from studio.doors import painting
from studio.errors import StudioError
from studio.gallery.files import check_writable, storage_error
from studio.registry import Ability, Registry
from studio.requests import ImageRequest, TokenGenerateRequest, VideoRequest
from studio.settings import Settings


def chain(arguments: argparse.Namespace) -> int:
    """Make all of it in one folder; steps that are whole stay, and the same command goes on behind them."""
    out = Path(arguments.out)
    picture, keep, video = _asked(arguments)
    settings, picture, models = _models(arguments, picture)
    registry = Registry(settings, painting.PipelinePainter())
    wanted: dict[str, Ability] = {"picture": "picture", "tokens": "tokens", "video": "video"}
    folders = {name: registry.usable(models[name], ability).folder for name, ability in wanted.items()}
    plan = picture_maker(settings).check(picture)
    check_writable(out / "trial" if out.is_dir() else out, "the files")
    with quiet_stdout():
        from pipelines.compose.chain import (
            ChainFolders,
            ChainRequest,
            check_chain,
            forecast_chain,
            run_chain,
        )
    request = ChainRequest(
        prompt=picture.prompt,
        width=picture.width,
        height=picture.height,
        seed=picture.seed,
        steps=picture.steps,
        keep=keep,
        film_prompt=None if arguments.film_prompt is None else video.prompt,
        clips=video.clips,
        frames=video.frames,
        fps=video.fps,
    )
    places, load = ChainFolders(**folders), painting.PipelinePainter().load_model
    memory = memory_told("making the files", "Choose a smaller size.")
    try:
        problem = check_chain(places, request)
        if problem:
            raise ValueError(problem)
        with progress(sum(forecast_chain(places, request))) as news, memory:
            record = run_chain(places, request, out, load_painter=load, on_progress=news.report)
    except ValueError as error:
        raise StudioError("bad_input", f"chain: {str(error).rstrip('.')}.") from error
    except OSError as error:
        raise storage_error(error, "the files", out.parent) from error
    except KeyboardInterrupt as error:
        told = f"Stopped; the same command goes on behind what is in {str(out)!r}."
        raise StudioError("interrupted", told) from error
    print_warnings(list(dict.fromkeys((*plan.warnings, *record["warnings"]))))
    _tell(arguments, out, record)
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[ImageRequest, int | None, VideoRequest]:
    """What is wanted of each step, within the bounds that hold for every way to ask."""
    width, height = parse_size(arguments.size)
    picture = ImageRequest(
        prompt=read_prompt(arguments.prompt, arguments.prompt_file),
        width=width,
        height=height,
        seed=parse_integer("seed", arguments.seed),
        steps=None if arguments.steps is None else parse_integer("steps", arguments.steps),
    )
    keep = None if arguments.keep is None else parse_integer("keep", arguments.keep)
    TokenGenerateRequest("x", keep=keep)
    video = VideoRequest(
        prompt=picture.prompt if arguments.film_prompt is None else arguments.film_prompt,
        clips=parse_integer("clips", arguments.clips),
        frames=parse_integer("frames", arguments.frames),
        fps=parse_number("fps", arguments.fps),
    )
    return picture, keep, video


def _models(
    arguments: argparse.Namespace, picture: ImageRequest
) -> tuple[Settings, ImageRequest, dict[str, str]]:
    """Settings that know all folders that were given as models, and the models' names."""
    given = {
        "picture": arguments.model,
        "tokens": arguments.tokens_model,
        "video": arguments.video_model,
    }
    names, extra = {}, []
    for what, model in given.items():
        settings, names[what] = settings_with(model)
        extra += [folder for folder in settings.model_dirs[:1] if folder.name == names[what]]
    settings = Settings.from_env()
    settings = replace(settings, model_dirs=(*extra, *settings.model_dirs))
    return settings, replace(picture, model=names["picture"]), names


def _tell(arguments: argparse.Namespace, out: Path, record: dict[str, Any]) -> None:
    if arguments.json:
        print_json({"folder": str(out), **record})
        return
    picture, tokens, film = (record["steps"][name] for name in ("picture", "tokens", "film"))
    size = f"{picture['width']}x{picture['height']}"
    took = sum(record["seconds"].values())
    print(f"{out}  {size}  {tokens['count']} tokens  {film['frames']} frames  {took:.1f} s")

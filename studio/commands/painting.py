"""`image` and `replay`: pictures into files, and the same pictures again."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ImageChops

from studio.checks import parse_integer, parse_size
from studio.commands.console import print_json, print_warnings, progress, read_prompt
from studio.crafts.craft import Plan
from studio.crafts.pictures import Painted, PictureMaker
from studio.crafts.verifying import Verifier
from studio.doors import painting
from studio.doors.doors import Doors
from studio.gallery.encoding import picture_format, write_picture
from studio.gallery.files import check_writable, storage_error, write_whole
from studio.recipes import Recipe, open_picture, read_recipe, versions
from studio.registry import Registry
from studio.requests import ImageRequest
from studio.seeing import Eyes
from studio.settings import Settings
from studio.styles import load_styles


def image(arguments: argparse.Namespace) -> int:
    """Paint one picture into a file; nothing appears under its name before it is complete."""
    out = Path(arguments.out)
    kind = picture_format(out)
    settings, model = settings_with(arguments.model)
    width, height = parse_size(arguments.size)
    request = ImageRequest(
        prompt=read_prompt(arguments.prompt, arguments.prompt_file),
        width=width,
        height=height,
        seed=parse_integer("seed", arguments.seed),
        steps=None if arguments.steps is None else parse_integer("steps", arguments.steps),
        model=model,
        style=arguments.style,
        verify=parse_integer("verify", arguments.verify),
        tenor=arguments.tenor,
        cut_prompt=arguments.cut_prompt,
    )
    check_writable(out)
    maker = picture_maker(settings)
    painted = _paint(maker, maker.check(request))
    lost = _write(out, painted, kind)
    warnings = [*painted.recipe.warnings, *([lost] if lost else [])]
    print_warnings(warnings)
    if arguments.json:
        print_json(_image_facts(out, painted, warnings))
    else:
        took = sum(painted.recipe.seconds.values())
        print(f"{out}  {request.size}  seed {request.seed}  {took:.1f} s")
    return 0


def replay(arguments: argparse.Namespace) -> int:
    """Paint a picture again from its recipe: 0 when every pixel is the same, 1 when not."""
    path = Path(arguments.file)
    out = Path(arguments.out) if arguments.out is not None else None
    kind = picture_format(out) if out else ""
    recipe = read_recipe(path)
    if out:
        check_writable(out)
    maker = picture_maker(Settings.from_env())
    painted = _paint(maker, maker.check(replace(recipe.request, prompt=recipe.prompt, style=None)))
    if out:
        _write(out, painted, kind)
    same = painted.recipe.pixels_sha256 == recipe.pixels_sha256
    changed = [] if same else _differences(recipe, painted)
    if arguments.json:
        facts = {"file": str(path), "identical": same, "changed": changed, "seed": recipe.request.seed}
        hashes = {"pixels_sha256": painted.recipe.pixels_sha256, "recorded_sha256": recipe.pixels_sha256}
        written = {"out": str(out)} if out else {}
        print_json({**facts, **hashes, **written, "pixels": _compare(path, painted)})
    elif same:
        print(f"{path}: identical")
    else:
        print(
            f"{path}: differs: {_compare(path, painted)}; {'; '.join(changed) or 'nothing known has changed'}"
        )
    return 0 if same else 1


def settings_with(model: str) -> tuple[Settings, str]:
    """Settings of the environment, and the model's name; a folder given as the model becomes known."""
    settings = Settings.from_env()
    folder = Path(model)
    if (folder / "model_index.json").is_file():
        folder = folder.absolute()
        return replace(settings, model_dirs=(folder, *settings.model_dirs)), folder.name
    return settings, model


def picture_maker(settings: Settings) -> PictureMaker:
    """What checks and paints pictures in a shell."""
    painter, doors = painting.PipelinePainter(), Doors()
    registry = Registry(settings, painter)
    verifier = Verifier(registry, Eyes(registry, doors.looker), doors.judge)
    return PictureMaker(settings, registry, painter, verifier, load_styles(settings.presets_dir))


def _paint(maker: PictureMaker, plan: Plan) -> Painted:
    with progress(plan.forecast.seconds) as news:
        return maker.paint(plan, news)


def _write(out: Path, painted: Painted, kind: str) -> str:
    lost = ""

    def write(file: BinaryIO) -> None:
        nonlocal lost
        lost = write_picture(painted.image, painted.recipe, file, kind)

    try:
        write_whole(out, write)
    except OSError as error:
        raise storage_error(error, "the picture", out.parent) from error
    return lost


def _image_facts(out: Path, painted: Painted, warnings: list[str]) -> dict[str, Any]:
    recipe = painted.recipe
    return {
        "file": str(out),
        "seed": recipe.request.seed,
        "size": recipe.request.size,
        "width": recipe.request.width,
        "height": recipe.request.height,
        "steps": recipe.steps,
        "stages": [list(stage) for stage in recipe.stages],
        "prompt": recipe.prompt,
        "seconds": {phase: round(seconds, 3) for phase, seconds in recipe.seconds.items()},
        "seconds_total": round(sum(recipe.seconds.values()), 3),
        "model": recipe.request.model,
        "backend": recipe.backend,
        "dtype": recipe.dtype,
        "device": recipe.device,
        "peak_bytes": painted.peak_bytes,
        "pixels_sha256": recipe.pixels_sha256,
        "warnings": warnings,
        "unknown_words": list(recipe.unknown_words),
        **({"verify": painted.result} if painted.search else {}),
    }


def _compare(path: Path, painted: Painted) -> str:
    """How the file's pixels relate to the repainted ones, in words."""
    with open_picture(path) as picture:
        if picture.format == "JPEG":
            return "a JPEG file does not keep every pixel"
        if picture.size != painted.image.size or picture.mode != "RGB":
            return "the file was cropped, resized or converted"
        difference = ImageChops.difference(picture, painted.image)
    if difference.getbbox() is None:
        return "the file's pixels are the same"
    return f"the file's pixels differ by up to {max(difference.tobytes())} of 255"


def _differences(recipe: Recipe, painted: Painted) -> list[str]:
    """What has changed since the recipe was written, as far as it is known."""
    now = versions()
    found = [
        f"{name} {recorded} then, {now.get(name, 'none')} now"
        for name, recorded in recipe.versions.items()
        if now.get(name) != recorded
    ]
    if recipe.model_sha256 != painted.recipe.model_sha256:
        found.append("the model's weights are others")
    for name in ("backend", "dtype", "device"):
        then, today = getattr(recipe, name), getattr(painted.recipe, name)
        if then != today:
            found.append(f"{name} {then} then, {today} now")
    return found

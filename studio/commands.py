"""What the shell's commands do; `studio.cli` has their arguments."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import ImageChops

from studio.checks import parse_integer, parse_size
from studio.crafts.craft import News, Plan
from studio.crafts.pictures import Painted, PictureMaker
from studio.doors.painting import PipelinePainter
from studio.errors import StudioError
from studio.gallery.encoding import picture_format, write_picture
from studio.gallery.files import check_writable, storage_error, write_whole
from studio.recipes import Recipe, open_picture, read_recipe, versions
from studio.registry import ModelCard, Registry
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.styles import load_styles
from studio.terminal import ProgressLine

_MAX_PROMPT_BYTES = 16 << 20


@dataclass(frozen=True)
class ImageArguments:
    """The words given to `image`, as typed."""

    prompt: str | None
    prompt_file: str | None
    size: str
    seed: str
    steps: str | None
    model: str
    style: str | None
    out: str
    as_json: bool


def serve(host: str | None, port: str | None) -> int:
    """Start the web studio and stay until it is stopped."""
    settings = Settings.from_env()
    if host:
        settings = replace(settings, host=host)
    if port is not None:
        settings = replace(settings, port=_port(port))
    from studio.ui.page import serve as serve_page

    serve_page(settings)
    return 0


def _port(text: str) -> int:
    port = parse_integer("port", text)
    if not 1 <= port <= 65_535:
        raise StudioError("bad_input", f"port: given {port}, allowed whole numbers from 1 to 65535.")
    return port


def image(arguments: ImageArguments) -> int:
    """Paint one picture into a file; nothing appears under its name before it is complete."""
    out = Path(arguments.out)
    kind = picture_format(out)
    settings, model = _settings_with(arguments.model)
    width, height = parse_size(arguments.size)
    request = ImageRequest(
        prompt=_prompt(arguments.prompt, arguments.prompt_file),
        width=width,
        height=height,
        seed=parse_integer("seed", arguments.seed),
        steps=None if arguments.steps is None else parse_integer("steps", arguments.steps),
        model=model,
        style=arguments.style,
    )
    check_writable(out)
    maker = _maker(settings)
    painted = _paint(maker, maker.check(request))
    lost = _write(out, painted, kind)
    warnings = [*painted.recipe.warnings, *([lost] if lost else [])]
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if arguments.as_json:
        _print_json(_image_facts(out, painted, warnings))
    else:
        took = sum(painted.recipe.seconds.values())
        print(f"{out}  {request.size}  seed {request.seed}  {took:.1f} s")
    return 0


def replay(file: str, *, as_json: bool) -> int:
    """Paint a picture again from its recipe: 0 when every pixel is the same, 1 when not."""
    path = Path(file)
    recipe = read_recipe(path)
    settings = Settings.from_env()
    maker = _maker(settings)
    painted = _paint(maker, maker.check(replace(recipe.request, prompt=recipe.prompt, style=None)))
    same = painted.recipe.pixels_sha256 == recipe.pixels_sha256
    changed = [] if same else _differences(recipe, painted)
    if as_json:
        facts = {"file": str(path), "identical": same, "changed": changed, "seed": recipe.request.seed}
        hashes = {"pixels_sha256": painted.recipe.pixels_sha256, "recorded_sha256": recipe.pixels_sha256}
        _print_json({**facts, **hashes, "pixels": _compare(path, painted)})
    elif same:
        print(f"{path}: identical")
    else:
        print(
            f"{path}: differs: {_compare(path, painted)}; {'; '.join(changed) or 'nothing known has changed'}"
        )
    return 0 if same else 1


def list_models(*, as_json: bool) -> int:
    """Print every known model."""
    cards = _registry(Settings.from_env()).cards()
    if as_json:
        _print_json({"models": [_card_facts(card) for card in cards]})
        return 0
    if not cards:
        print("No models found.")
    for card in cards:
        also = f" (also: {', '.join(card.aliases)})" if card.aliases else ""
        size = f"{card.size_bytes / 1e6:.1f} MB"
        print(f"{card.name:24} {card.state:8} {size:>10}  {card.family}  {card.license}{also}")
    return 0


def verify_models(names: Sequence[str], *, as_json: bool) -> int:
    """Read the models' files: 0 when all are whole, 1 when not."""
    registry = _registry(Settings.from_env())
    cards = [registry.card(name, verify=True) for name in names] if names else registry.cards(verify=True)
    if as_json:
        _print_json({"models": [_card_facts(card) for card in cards]})
    elif not cards:
        print("No models found.")
    else:
        for card in cards:
            print(f"{card.name}: {card.state}")
            for problem in card.problems:
                print(f"  {problem}")
    return 0 if cards and all(card.state == "ok" for card in cards) else 1


def _settings_with(model: str) -> tuple[Settings, str]:
    """Settings of the environment, and the model's name; a folder given as the model becomes known."""
    settings = Settings.from_env()
    folder = Path(model)
    if (folder / "model_index.json").is_file():
        folder = folder.absolute()
        return replace(settings, model_dirs=(folder, *settings.model_dirs)), folder.name
    return settings, model


def _registry(settings: Settings) -> Registry:
    return Registry(settings, PipelinePainter())


def _maker(settings: Settings) -> PictureMaker:
    painter = PipelinePainter()
    return PictureMaker(settings, Registry(settings, painter), painter, load_styles(settings.presets_dir))


def _prompt(prompt: str | None, prompt_file: str | None) -> str:
    if (prompt is None) == (prompt_file is None):
        raise StudioError("bad_input", "prompt: give either PROMPT (or - for stdin) or --prompt-file.")
    if prompt_file is not None:
        try:
            with open(prompt_file, "rb") as file:
                return _read_text(file)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise StudioError("bad_input", f"prompt-file: can't read {prompt_file!r} ({reason}).") from error
    if prompt == "-":
        return _read_text(sys.stdin.buffer)
    return prompt or ""


def _read_text(file: BinaryIO) -> str:
    data = file.read(_MAX_PROMPT_BYTES + 1)
    if len(data) > _MAX_PROMPT_BYTES:
        raise StudioError("too_long", f"prompt: given more than {_MAX_PROMPT_BYTES >> 20} MB of text.")
    return data.decode("utf-8-sig", "replace")


def _paint(maker: PictureMaker, plan: Plan) -> Painted:
    line = ProgressLine(plan.forecast.seconds)
    try:
        with _quiet_stdout():
            return maker.paint(plan, News(report=line.report, loading=line.loading))
    finally:
        line.close()


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Stdout belongs to the result: what libraries print while painting goes to stderr."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


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
    }


def _card_facts(card: ModelCard) -> dict[str, Any]:
    return {
        "name": card.name,
        "aliases": list(card.aliases),
        "state": card.state,
        "problems": list(card.problems),
        "class": card.family,
        "license": card.license,
        "bytes": card.size_bytes,
        "paints": card.paints,
        "folder": str(card.folder),
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


def _print_json(facts: dict[str, Any]) -> None:
    print(json.dumps(facts, allow_nan=False))

"""`tokens encode`, `decode` and `generate`: pictures as ordered tokens, and back."""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from studio.checks import parse_integer, parse_number
from studio.commands.console import existing, print_json, print_warnings, progress, read_prompt
from studio.commands.painting import settings_with
from studio.crafts.craft import News, Plan, loaded, memory_told
from studio.crafts.tokens import TokenRequest, plan_tokens, read_strip
from studio.crafts.world import World
from studio.doors import painting, tokenizing
from studio.errors import StudioError
from studio.gallery.encoding import picture_format, write_plain
from studio.gallery.files import check_writable, storage_error, write_whole
from studio.gallery.sources import loaded as loaded_picture
from studio.registry import Registry
from studio.requests import TokenDecodeRequest, TokenGenerateRequest
from studio.requests.tokens import FITS
from studio.tokens import DecodeOptions, GenerateOptions, Strip, Tokenizer, pack

_MAX_FILE_BYTES = 1 << 20


def encode(arguments: argparse.Namespace) -> int:
    """Turn a picture into a token file."""
    out = _token_file(arguments.out)
    keep = None if arguments.keep is None else parse_integer("keep", arguments.keep)
    TokenGenerateRequest("x", keep=keep)  # the same bounds for every way to ask
    if arguments.fit not in FITS:
        raise StudioError("bad_input", f"fit: given {arguments.fit!r}, allowed {', '.join(FITS)}.")
    picture = loaded_picture(existing(arguments.image, "picture"))
    check_writable(out, "the tokens")
    room = _Room(arguments.model)
    with progress(8.0) as news, _told("encoding"):
        model, load_seconds = room.loaded(news)
        began = time.monotonic()
        strip = room.tokenizer.encode(model, picture, keep, arguments.fit, news.report, news.should_stop)
        seconds = {"load": load_seconds, "encode": time.monotonic() - began}
    _write(out, lambda file: file.write(strip.data))
    facts = {**_strip_facts(strip), "file": str(out), "seconds": _rounded(seconds), "model": room.name}
    if arguments.json:
        print_json({**facts, "fit": arguments.fit, "warnings": []})
    else:
        bits = facts["bits_per_pixel"]
        print(f"{out}  {strip.count} tokens, {strip.payload_bytes} bytes, {bits} bits a pixel")
    return 0


def decode(arguments: argparse.Namespace) -> int:
    """Turn a token file into a picture."""
    out = Path(arguments.out)
    kind = picture_format(out)
    path = existing(arguments.file, "token file")
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise StudioError("bad_input", f"strip: {path.name!r} is too large for a token file.")
    data = path.read_bytes()
    keep = None if arguments.keep is None else parse_integer("keep", arguments.keep)
    seed, steps = parse_integer("seed", arguments.seed), _steps(arguments)
    TokenDecodeRequest(pack(b"checked below"), keep, seed, steps)  # the same bounds for every way to ask
    room = _Room(arguments.model)
    strip = read_strip(room.tokenizer, data, keep)
    check_writable(out)
    with progress(8.0) as news, _told("decoding"):
        model, load_seconds = room.loaded(news)
        options = DecodeOptions(seed, steps)
        found = room.tokenizer.decode(model, strip.data, None, options, news.report, news.should_stop)
    _write(out, lambda file: write_plain(found.image, file, kind))
    print_warnings(list(found.warnings))
    seconds = {**found.seconds, "load": load_seconds}
    _tell_picture(arguments, out, found.image, {
        "seed": seed, "seconds": _rounded(seconds), "model": room.name, "device": found.device,
        "dtype": found.dtype, "tokens": strip.count, "warnings": list(found.warnings),
    })  # fmt: skip
    return 0


def generate(arguments: argparse.Namespace) -> int:
    """Draw tokens from text and write their picture, and the tokens when asked to."""
    out = Path(arguments.out)
    kind = picture_format(out)
    tokens_out = None if arguments.tokens_out is None else _token_file(arguments.tokens_out)
    request = TokenGenerateRequest(
        prompt=read_prompt(arguments.prompt, arguments.prompt_file),
        keep=None if arguments.keep is None else parse_integer("keep", arguments.keep),
        seed=parse_integer("seed", arguments.seed),
        temperature=parse_number("temperature", arguments.temperature),
        top_k=parse_integer("top_k", arguments.top_k),
        top_p=parse_number("top_p", arguments.top_p),
        steps=_steps(arguments),
    )
    for path in filter(None, (out, tokens_out)):
        check_writable(path)
    room = _Room(arguments.model)
    plan = room.check(request)
    with progress(plan.forecast.seconds) as news, _told("drawing tokens"):
        model, load_seconds = room.loaded(news)
        options = GenerateOptions(
            request.keep, request.seed, request.temperature, request.top_k, request.top_p, request.steps
        )
        found = room.tokenizer.generate(model, request.prompt, options, news.report, news.should_stop)
    _write(out, lambda file: write_plain(found.image, file, kind))
    if tokens_out is not None:
        _write(tokens_out, lambda file: file.write(found.strip.data))
    warnings = list(dict.fromkeys((*plan.warnings, *found.warnings)))
    print_warnings(warnings)
    seconds = {**found.seconds, "load": load_seconds}
    _tell_picture(arguments, out, found.image, {
        "seed": request.seed, "seconds": _rounded(seconds), "model": room.name, "device": found.device,
        "dtype": found.dtype, "tokens": found.strip.count, "warnings": warnings, "prompt": request.prompt,
        "unknown_words": list(plan.unknown_words), "tokens_file": str(tokens_out) if tokens_out else None,
    })  # fmt: skip
    return 0


class _Room:
    """The model that was asked for, and who works with it.

    Args:
        model: As typed.
    """

    def __init__(self, model: str) -> None:
        settings, self.model = settings_with(model)
        painter = painting.PipelinePainter()
        self._registry, self._world = Registry(settings, painter), World(painter)
        self.tokenizer: Tokenizer = tokenizing.PipelineTokenizer()
        self._card = self._registry.usable(self.model, "tokens")
        self.name = self._card.name

    def check(self, request: TokenRequest) -> Plan:
        """See `plan_tokens`."""
        return plan_tokens(self._registry, self.tokenizer, self._world, replace(request, model=self.model))

    def loaded(self, news: News) -> tuple[Any, float]:
        """The model, and the seconds that loading took."""
        _, model, seconds = loaded(self._registry, self._card, news, self.tokenizer.load)
        return model, seconds


@contextlib.contextmanager
def _told(doing: str) -> Iterator[None]:
    """Turn what the other side refuses inside the block into one sentence."""
    try:
        with memory_told(doing, "Let other programs go, then try again."):
            yield
    except ValueError as error:
        raise StudioError("bad_input", f"tokens: {str(error).rstrip('.')}.") from error


def _token_file(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() != ".fxtk":
        raise StudioError("bad_input", f"out: given {path.name!r}, allowed names ending in .fxtk.")
    return path


def _steps(arguments: argparse.Namespace) -> int | None:
    return None if arguments.steps is None else parse_integer("steps", arguments.steps)


def _write(out: Path, write: Any) -> None:
    def into(file: BinaryIO) -> None:
        write(file)

    try:
        write_whole(out, into)
    except OSError as error:
        raise storage_error(error, "the result", out.parent) from error


def _strip_facts(strip: Strip) -> dict[str, Any]:
    facts = strip.to_json()
    del facts["tokens"]
    return {**facts, "size": f"{strip.width}x{strip.height}"}


def _tell_picture(
    arguments: argparse.Namespace, out: Path, image: Image.Image, facts: dict[str, Any]
) -> None:
    size = f"{image.width}x{image.height}"
    if arguments.json:
        sides = {"width": image.width, "height": image.height}
        print_json({"file": str(out), "size": size, **sides, **facts})
    else:
        print(f"{out}  {size}  {facts['tokens']} tokens  {sum(facts['seconds'].values()):.1f} s")


def _rounded(seconds: dict[str, float]) -> dict[str, float]:
    return {phase: round(value, 3) for phase, value in seconds.items()}

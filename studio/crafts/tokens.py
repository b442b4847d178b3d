"""Token jobs: pictures into tokens, tokens into pictures, text into tokens; prefixes shown as they come."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from PIL import Image

from studio.crafts.craft import Forecast, News, Plan, loaded, memory_told
from studio.crafts.reports import Report
from studio.crafts.world import World
from studio.errors import StudioError
from studio.gallery.gallery import Gallery
from studio.gallery.sources import Sources
from studio.gallery.sources import loaded as loaded_picture
from studio.jobs.records import JobRecord, Outcome
from studio.painter import PaintingStopped, ProgressReport
from studio.registry import Registry
from studio.requests import TokenDecodeRequest, TokenEncodeRequest, TokenGenerateRequest, split_source
from studio.tokens import DecodeOptions, GenerateOptions, Point, Strip, Tokenizer, unpack

TokenRequest = TokenEncodeRequest | TokenDecodeRequest | TokenGenerateRequest
# until a job like it has run here
_FIRST_SECONDS = 12.0
_ROOM_BYTES = 4 << 20


@dataclass
class Tokenised:
    """A token strip and pictures of its prefixes; it fulfils `Product`. Files are kept as they come."""

    result: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    peak_bytes: int = 0

    def spend(self, phase: str, since: float) -> float:
        """Count the time since `since` for a phase; the time now."""
        now = time.monotonic()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since
        return now


class TokenCraft:
    """Answers the three kinds of token requests; it fulfils `Craft`.

    Args:
        registry: Models.
        tokenizer: Does the work.
        world: Words of the embedded world.
        gallery, sources: Where pictures to encode come from.
    """

    resumes = False

    def __init__(
        self, registry: Registry, tokenizer: Tokenizer, world: World, gallery: Gallery, sources: Sources
    ) -> None:
        self._registry = registry
        self._tokenizer = tokenizer
        self._world = world
        self._gallery = gallery
        self._sources = sources

    def check(self, request: TokenRequest) -> Plan:
        """Refuse unknown models, strips that can't be read, sources that are gone."""
        plan = plan_tokens(self._registry, self._tokenizer, self._world, request)
        if isinstance(request, TokenDecodeRequest):
            self._read(request)
        elif isinstance(request, TokenEncodeRequest):
            self._source(request).close()
        return plan

    def make(self, record: JobRecord, plan: Plan, news: News) -> Tokenised:
        """Encode or generate, then decode prefixes from the coarsest on."""
        made = Tokenised(warnings=plan.warnings)
        _, model, load_seconds = loaded(self._registry, plan.card, news, self._tokenizer.load)
        made.seconds["load"] = load_seconds
        request = plan.request
        with memory_told("working on tokens", "Let other programs go, then retry."):
            if isinstance(request, TokenEncodeRequest):
                self._encode(model, request, made, news)
            elif isinstance(request, TokenGenerateRequest):
                self._generate(model, request, made, news)
            else:
                self._show_prefixes(model, self._read(request), None, request, made, news)
        return made

    def save(self, record: JobRecord, product: Tokenised, keep_going: Callable[[], bool]) -> None:
        """Everything was kept while it came."""

    def recover(self, record: JobRecord) -> Outcome | None:
        """Made again on retry: it takes seconds."""
        return None

    def room_bytes(self, request: TokenRequest) -> int:
        """Bytes of strip and pictures."""
        return _ROOM_BYTES

    def _encode(self, model: Any, request: TokenEncodeRequest, made: Tokenised, news: News) -> None:
        picture, began = self._source(request), time.monotonic()
        strip = self._tokenizer.encode(
            model, picture, request.keep, request.fit, _part(news, 0.0, 0.3), news.should_stop
        )
        made.spend("encode", began)
        reference = self._tokenizer.framed(model, picture, request.fit)
        news.keep("original.png", png_bytes(reference))
        self._show_prefixes(model, strip, reference, request, made, news)

    def _generate(self, model: Any, request: TokenGenerateRequest, made: Tokenised, news: News) -> None:
        options = GenerateOptions(
            request.keep,
            request.seed,
            request.temperature,
            request.top_k,
            request.top_p,
            request.steps,
            request.prefix,
        )
        found = self._tokenizer.generate(
            model, request.prompt, options, _part(news, 0.0, 0.7), news.should_stop
        )
        made.seconds.update(found.seconds)
        made.warnings = tuple(dict.fromkeys((*made.warnings, *found.warnings)))
        self._show_prefixes(model, found.strip, None, request, made, news)

    def _show_prefixes(
        self,
        model: Any,
        strip: Strip,
        reference: Image.Image | None,
        request: TokenRequest,
        made: Tokenised,
        news: News,
    ) -> None:
        """Keep the strip, then a picture of each prefix, coarse ones first; tell of each."""
        news.keep("strip.fxtk", strip.data)
        made.result = {**strip.to_json(), "stops": [], "points": [], "has_original": reference is not None}
        news.show(dict(made.result))
        options = DecodeOptions(request.seed, request.steps)
        began = time.monotonic()
        if len(strip.tiles) > 1:
            # prefixes of a mosaic of tiles are shown whole only
            found = self._tokenizer.decode(
                model, strip.data, None, options, _part(news, 0.3, 0.7), news.should_stop
            )
            made.warnings = tuple(dict.fromkeys((*made.warnings, *found.warnings)))
            self._keep(strip.count, found.image, None, made, news)
        else:
            self._tell(news, strip, 0)
            for count, image in self._tokenizer.stops(model, strip.data, None, options, news.should_stop):
                point = self._tokenizer.measure(count, image, reference) if reference else None
                self._keep(count, image, point, made, news)
                self._tell(news, strip, count)
        made.spend("decode", began)

    def _keep(self, count: int, image: Image.Image, point: Point | None, made: Tokenised, news: News) -> None:
        news.keep(f"k-{count:03d}.png", png_bytes(image))
        made.result["stops"] = [*made.result["stops"], count]
        if point is not None:
            facts = {"count": count, "psnr": round(min(point.psnr, 99.0), 2), "error": round(point.error, 4)}
            made.result["points"] = [*made.result["points"], facts]
        news.show(dict(made.result))

    def _tell(self, news: News, strip: Strip, count: int) -> None:
        if news.report:
            # each stop takes about the same time, and there are as many as doublings
            done = count.bit_length() / (strip.count.bit_length() + 1)
            news.report(Report("decode", step=count, steps=strip.count, fraction=0.3 + 0.7 * min(1.0, done)))

    def _read(self, request: TokenDecodeRequest) -> Strip:
        return read_strip(self._tokenizer, unpack(request.strip), request.keep)

    def _source(self, request: TokenEncodeRequest) -> Image.Image:
        kind, name = split_source(request.source)
        if kind == "upload":
            return self._sources.open(name)
        return loaded_picture(self._gallery.get(name).path)


def plan_tokens(registry: Registry, tokenizer: Tokenizer, world: World, request: TokenRequest) -> Plan:
    """The plan of a request whose model is there.

    Raises:
        StudioError: no such model, or one that can't draw tokens from text where that is wanted.
    """
    card = registry.usable(request.model, "tokens")
    unknown: tuple[str, ...] = ()
    named = replace(request, model=card.name)
    if isinstance(named, TokenGenerateRequest):
        drawn = tokenizer.tokens_drawn(card.folder)
        if not drawn:
            raise StudioError(
                "not_installed", f"The model {card.name} makes no tokens from text: it has no generator."
            )
        unknown = world.unknown_words(card, named.prompt)
        if named.keep is None and len(named.prefix) < drawn:
            named = replace(named, keep=drawn)  # what is recorded, foretold and done again later
    forecast = Forecast(_FIRST_SECONDS, 600_000_000 + 4 * card.size_bytes, (), True)
    remark = world.sentence(unknown)
    return Plan(named, request.title, card, forecast, unknown, (remark,) if remark else ())


def read_strip(tokenizer: Tokenizer, data: bytes, keep: int | None = None) -> Strip:
    """A token file's content, or its first `keep` tokens.

    Raises:
        StudioError: "bad_input": it is none, damaged, or has fewer tokens.
    """
    try:
        strip = tokenizer.read(data)
        return tokenizer.read(tokenizer.kept(data, keep)) if keep is not None else strip
    except ValueError as error:
        raise StudioError("bad_input", f"strip: {error}.") from error


def png_bytes(image: Image.Image) -> bytes:
    """A small picture as a lossless file."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _part(news: News, start: float, length: float) -> Callable[[ProgressReport], None]:
    """Takes reports of one part of the job; also polls, where the other side can't."""

    def tell(inner: ProgressReport) -> None:
        if news.should_stop():
            raise PaintingStopped
        if news.report:
            fraction = start + length * inner.fraction
            told = Report(
                inner.phase, step=inner.step, steps=inner.steps, fraction=fraction, preview=inner.preview
            )
            news.report(told)

    return tell

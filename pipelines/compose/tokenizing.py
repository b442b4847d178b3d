"""The studio's door to tokens: pictures, bytes and plain values in and out; progress, previews, stops."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose.painting import Cancelled, understood
from pipelines.compose.token_progress import TokenProgress, Watcher
from pipelines.flextok import strips
from pipelines.flextok.token_file import TokenPicture
from pipelines.runtime import choose_runtime

if TYPE_CHECKING:
    from PIL import Image

    from pipelines.flextok.measures import RatePoint

STOP_BATCH = 4
CACHED_PICTURES = 128
MAX_SEED = 2**32 - 1

__all__ = [
    "Cancelled",
    "Decoded",
    "Encoded",
    "Generated",
    "LoadedTokenizer",
    "TokenProgress",
    "curve",
    "decode",
    "decode_stops",
    "describe",
    "encode",
    "find_budget",
    "generate",
    "load_model",
    "mix",
    "open_picture",
    "plan_time",
    "reroll",
    "splice",
]


@dataclass(frozen=True)
class Encoded:
    """A picture as tokens.

    Attributes:
        data: content of an `.fxtk` file. strip: the same, readable.
        bits_per_pixel: of the ids, over the picture's pixels.
        seconds: the whole time.
    """

    data: bytes
    strip: TokenPicture
    bits_per_pixel: float
    seconds: float


@dataclass(frozen=True)
class Decoded:
    """A picture from tokens.

    Attributes:
        count: tokens used (per tile).
        seconds: time of each phase. warnings: sentences that the person should read.
    """

    image: Image.Image
    count: int
    steps: int
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    device: str
    dtype: str


@dataclass(frozen=True)
class Generated:
    """A picture from text, with its tokens.

    Attributes:
        data, strip: as in `Encoded`. is_whole: False when it was finished early.
    """

    image: Image.Image
    data: bytes
    strip: TokenPicture
    is_whole: bool
    seconds: dict[str, float]
    warnings: tuple[str, ...]
    device: str
    dtype: str


@dataclass(frozen=True)
class LoadedTokenizer:
    """A tokenizer, with its generator where it has one, and what it has decoded lately.

    Attributes:
        name: written into files: the folder's name and a fingerprint of the weights.
        side: pixels of its square. num_tokens: longest strip.
    """

    flextok: Any
    generator: Any | None
    folder: Path
    name: str
    device: str
    dtype: str
    is_storybook: bool
    cache: OrderedDict[tuple[object, ...], Any] = field(default_factory=OrderedDict)

    @property
    def side(self) -> int:
        return int(self.flextok.side)

    @property
    def num_tokens(self) -> int:
        return int(self.flextok.num_tokens)

    @property
    def default_steps(self) -> int:
        return int(self.flextok.config.default_steps)

    @property
    def can_generate(self) -> bool:
        return self.generator is not None


def load_model(folder: Path) -> LoadedTokenizer:
    """Load a tokenizer folder (ours or a published one) or a published file; the decoder in the fast dtype.

    Raises:
        ValueError, OSError: it isn't a tokenizer or is damaged.
    """
    import json

    import torch

    from pipelines.compose.quiet import quiet_loading

    with quiet_loading():
        from pipelines.flextok.checkpoint import fingerprint
        from pipelines.flextok.pipeline_flexar import FlexARPipeline
        from pipelines.flextok.pipeline_flextok import FlexTokPipeline

    runtime, folder = choose_runtime(), Path(folder)
    if not folder.exists():
        raise FileNotFoundError(f"there is no model at {folder}")
    index = folder / "model_index.json"
    is_generator = index.is_file() and json.loads(index.read_text()).get("_class_name") == "FlexARPipeline"
    with quiet_loading():
        generator = FlexARPipeline.from_pretrained(folder) if is_generator else None
        flextok = generator.flextok if generator else FlexTokPipeline.from_pretrained(folder)
    name = f"{folder.stem}@{fingerprint(flextok.encoder)}"
    # ids depend on every digit of the encoder: only the decoder leaves float32
    torch.nn.Module.to(flextok.decoder, dtype=getattr(torch, runtime.dtype))
    for part in (flextok.vae, flextok.encoder, flextok.decoder):
        torch.nn.Module.to(part, device=runtime.device)
    if generator is not None:
        generator.to(runtime.device)
        generator.set_progress_bar_config(disable=True)
    flextok.set_progress_bar_config(disable=True)
    is_storybook = folder.name.startswith("storybook")
    return LoadedTokenizer(flextok, generator, folder, name, runtime.device, runtime.dtype, is_storybook)


def open_picture(path: str | Path) -> Image.Image:
    """An RGB picture from a file, upright; its size is checked before its pixels are read.

    Raises:
        ValueError: no picture, a damaged one, or one that is too large or too narrow. OSError: not readable.
    """
    from pipelines.flextok.framing import open_picture as read

    return read(path)


def describe(data: bytes) -> TokenPicture:
    """What a token file holds.

    Raises:
        ValueError: it is none, or damaged.
    """
    return TokenPicture.from_bytes(data)


def encode(
    model: LoadedTokenizer,
    picture: Image.Image,
    *,
    keep: int | None = None,
    fit: str = "letterbox",
    on_progress: Callable[[TokenProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Encoded:
    """Turn a picture of any size into tokens.

    Args:
        keep: tokens (per tile), 1 to the model's most. Default: all.
        fit: "letterbox" (the whole picture in one square), "crop" (its middle square) or "tiles" (as many
            squares as it takes at its own resolution, up to 64).
    Raises:
        ValueError: a bad picture, count or fit. Cancelled: `should_stop` answered True.
    """
    from pipelines.flextok.strip_coding import encode_strip

    began, watcher = time.monotonic(), Watcher(on_progress, should_stop)

    def on_tiles(done: int, tiles: int) -> None:
        watcher.poll()
        watcher.tell(TokenProgress("encode", done, tiles, done / tiles))

    count = _checked_count(model, keep)
    strip = encode_strip(model.flextok, picture, count, fit, model.name, on_tiles)
    bits = 8 * strip.payload_bytes / (strip.width * strip.height)
    return Encoded(strip.to_bytes(), strip, bits, round(time.monotonic() - began, 3))


def decode(
    model: LoadedTokenizer,
    data: bytes,
    *,
    keep: int | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    full_size: bool = True,
    on_progress: Callable[[TokenProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Decoded:
    """Turn the content of an `.fxtk` file into its picture; same arguments, same pixels on the same machine.

    Args:
        keep: use only the first so many tokens. Default: all there are.
        steps, guidance_scale: Default: the model's own.
        full_size: at the size of the encoded picture, else as the model makes it.
    Raises:
        ValueError: damaged data, tokens of another kind of model, bad values.
        Cancelled: `should_stop` answered True (asked at every step).
    """
    strip = _own_strip(model, describe(data))
    strip = strip if keep is None else strip.keep(keep)
    watcher = Watcher(on_progress, should_stop)
    image = _decode_strip(model, strip, _options(model, steps, guidance_scale), seed, full_size, watcher)
    return Decoded(
        image=image,
        count=strip.count,
        steps=steps or model.default_steps,
        seconds=watcher.seconds,
        warnings=_origin_warnings(model, strip),
        device=model.device,
        dtype=model.dtype,
    )


def decode_stops(
    model: LoadedTokenizer,
    data: bytes,
    *,
    stops: Sequence[int] | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[int, Image.Image]]:
    """Pictures of growing prefixes, coarse ones first, from the same noise; decoded ones are remembered.

    Args:
        stops: token counts. Default: 1, 2, 4, ... up to all.
    Yields:
        (count, square picture as the model makes it).
    Raises:
        ValueError: as `decode`, or a tiled picture. Cancelled: `should_stop` answered True.
    """
    import torch

    from pipelines.flextok.measures import stops_up_to

    strip = _own_strip(model, describe(data))
    if len(strip.tiles) != 1:
        raise ValueError(f"this picture has {len(strip.tiles)} tiles; prefixes are shown of whole pictures")
    ids, options = strip.tiles[0], _options(model, steps, guidance_scale)
    wanted = sorted({strip.keep(stop).count for stop in (stops or stops_up_to(strip.count))})
    _check_seed(seed)

    def key(count: int) -> tuple[object, ...]:
        digest = hashlib.sha256(repr(ids[:count]).encode()).hexdigest()
        return digest, count, options.steps, options.guidance_scale, seed

    watcher = Watcher(None, should_stop)
    missing = [count for count in wanted if key(count) not in model.cache]
    fresh = model.flextok.decode_stops(
        torch.tensor(ids), missing, seed, options, STOP_BATCH, watcher.on_quiet_step
    )
    for count in wanted:
        watcher.poll()
        if count in missing:
            found = next(fresh, None)
            if found is None:
                raise Cancelled
            model.cache[key(count)] = found[1]
        model.cache.move_to_end(key(count))
        while len(model.cache) > CACHED_PICTURES:
            model.cache.popitem(last=False)
        yield count, model.cache[key(count)]


def generate(
    model: LoadedTokenizer,
    prompt: str,
    *,
    keep: int | None = None,
    seed: int = 0,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 0.0,
    guidance_scale: float | None = None,
    steps: int | None = None,
    prefix: Sequence[int] = (),
    on_progress: Callable[[TokenProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    should_finish: Callable[[], bool] | None = None,
) -> Generated:
    """Make tokens from text, one after another, and the picture they show.

    Args:
        keep: tokens. Default: the model's own number. temperature, top_k, top_p: see `TokenSampling`.
        guidance_scale: of the tokens. Default: 3. steps: of the decoder. Default: the model's own.
        prefix: ids to go on from.
        on_progress: is shown the growing prefix, decoded, as often as a tenth of the time allows.
        should_finish: True ends generation; what is there is decoded and returned.
    Raises:
        ValueError: a model without generator, or a bad value. Cancelled: `should_stop` answered True.
    """
    import torch

    from pipelines.flextok.token_sampling import TokenSampling

    if model.generator is None:
        raise ValueError(f"{model.folder.name} can't make tokens from text: it has no generator")
    count, options = model.generator.tokens_wanted(keep, len(prefix)), _options(model, steps, None)
    _check_seed(seed)
    sampling = TokenSampling(3.0 if guidance_scale is None else guidance_scale, temperature, top_k, top_p)
    text, warnings = understood(prompt) if model.is_storybook else (prompt, ())
    watcher = Watcher(on_progress, should_stop)
    ids: tuple[int, ...] = ()

    def quick_look(ids: tuple[int, ...]) -> Image.Image:
        few = _options(model, min(4, options.steps), None)
        noise = torch.Generator().manual_seed(seed)
        return model.flextok.postprocess(model.flextok.sample_latents([list(ids)], None, few, noise))[0]

    source = torch.Generator().manual_seed(seed)
    stream = model.generator.stream(
        text, keep=count, sampling=sampling, prefix=list(prefix) if prefix else None, generator=source
    )
    for row in stream:
        ids = tuple(row[0].tolist())
        watcher.on_token(ids, count, quick_look)
        if should_finish is not None and should_finish():
            break
    watcher.spend("generate")
    watcher.before = 0.5
    strip = TokenPicture((ids,), model.flextok.levels, model.side, model.side, model.name)
    image = _decode_strip(model, strip, options, seed, True, watcher)
    return Generated(
        image,
        strip.to_bytes(),
        strip,
        len(ids) == count,
        watcher.seconds,
        warnings,
        model.device,
        model.dtype,
    )


def reroll(
    model: LoadedTokenizer, data: bytes, prompt: str, *, start: int, keep: int | None = None, **options: Any
) -> Generated:
    """Keep a picture's first `start` tokens and draw the rest anew.

    Args:
        prompt: what the picture shows; it leads the new tokens.
        keep: tokens of the result. Default: as many as there were. options: as for `generate`.
    Raises:
        ValueError: tiles, no token to draw, or what `generate` refuses. Cancelled: `should_stop` says so.
    """
    strip = _own_strip(model, describe(data))
    count = strip.count if keep is None else keep
    if len(strip.tiles) != 1:
        raise ValueError(f"this picture has {len(strip.tiles)} tiles; only whole pictures are drawn anew")
    if not 0 <= start < count or start > strip.count:
        raise ValueError(f"start is {start}; allowed: 0 to {min(strip.count, count - 1)}")
    return generate(model, prompt, keep=count, prefix=strip.tiles[0][:start], **options)


def splice(first: bytes, second: bytes, cut: int) -> bytes:
    """An `.fxtk` file with the first `cut` tokens of one picture and the later ones of another.

    Raises:
        ValueError: damaged data, strips that don't fit together, or a cut outside of them.
    """
    return strips.splice(describe(first), describe(second), cut).to_bytes()


def mix(first: bytes, second: bytes, places: Iterable[int]) -> bytes:
    """An `.fxtk` file of the first picture with the tokens at `places` (from 0) taken from the second.

    Raises:
        ValueError: damaged data, strips that don't fit together, or places outside of them.
    """
    return strips.mix(describe(first), describe(second), places).to_bytes()


def curve(
    model: LoadedTokenizer,
    picture: Image.Image,
    *,
    stops: Sequence[int] | None = None,
    seed: int = 0,
    steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> Iterator[tuple[RatePoint, Image.Image]]:
    """Rate and distortion of a picture's prefixes against the picture in the model's square, coarse first.

    Yields:
        (figures, decoded picture).
    """
    from pipelines.flextok.framing import to_square
    from pipelines.flextok.measures import rate_point

    data = encode(model, picture, should_stop=should_stop).data
    reference = to_square(picture, model.side)
    found = decode_stops(model, data, stops=stops, seed=seed, steps=steps, should_stop=should_stop)
    for count, image in found:
        yield rate_point(count, image, reference), image


def find_budget(
    model: LoadedTokenizer,
    picture: Image.Image,
    target_db: float,
    *,
    seed: int = 0,
    steps: int | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> RatePoint | None:
    """The fewest tokens (of 1, 2, 4, ...) that come within `target_db` PSNR of a picture; None: none do.

    Decoded prefixes are remembered, so asking for other targets is quick.
    """
    from pipelines.flextok.framing import to_square
    from pipelines.flextok.measures import smallest_count, stops_up_to

    data = encode(model, picture, should_stop=should_stop).data
    options = {"seed": seed, "steps": steps, "should_stop": should_stop}

    def decoded(count: int) -> Image.Image:
        return next(iter(decode_stops(model, data, stops=(count,), **options)))[1]  # type: ignore[arg-type]

    return smallest_count(decoded, to_square(picture, model.side), target_db, stops_up_to(model.num_tokens))


def plan_time(model: LoadedTokenizer, seconds: float) -> tuple[int, int]:
    """(tokens, steps) that decode within so many seconds here, from one measured step per token count.

    Raises:
        ValueError: not even one token in four steps fits.
    """
    from pipelines.flextok.measures import plan_for_time, stops_up_to

    measured: dict[int, float] = {}

    def step_seconds(count: int) -> float:
        if count not in measured:
            options = _options(model, 1, None)
            began = time.monotonic()
            model.flextok.sample_latents([[0] * count], None, options)
            measured[count] = time.monotonic() - began
        return measured[count]

    step_seconds(1)  # the first call warms up
    measured.clear()
    return plan_for_time(seconds, step_seconds, stops_up_to(model.num_tokens), (4, model.default_steps))


def _options(model: LoadedTokenizer, steps: int | None, guidance_scale: float | None) -> Any:
    return model.flextok.flow_options(steps, guidance_scale)


def _checked_count(model: LoadedTokenizer, keep: int | None) -> int:
    count = model.num_tokens if keep is None else keep
    if type(count) is not int or not 1 <= count <= model.num_tokens:
        raise ValueError(f"keep is {keep!r}; allowed: 1 to {model.num_tokens} tokens")
    return count


def _check_seed(seed: int) -> None:
    if type(seed) is not int or not 0 <= seed <= MAX_SEED:
        raise ValueError(f"seed is {seed!r}; allowed: 0 to {MAX_SEED}")


def _own_strip(model: LoadedTokenizer, strip: TokenPicture) -> TokenPicture:
    """The strip, when this model's ids have the same meaning as its.

    Raises:
        ValueError: other levels, or more tokens than the model reads.
    """
    if strip.levels != model.flextok.levels or strip.count > model.num_tokens:
        raise ValueError(
            f"these tokens (levels {list(strip.levels)}, {strip.count} of them) are of another kind than "
            f"{model.folder.name}'s (levels {list(model.flextok.levels)}, up to {model.num_tokens})"
        )
    return strip


def _origin_warnings(model: LoadedTokenizer, strip: TokenPicture) -> tuple[str, ...]:
    if strip.model == model.name:
        return ()
    return (f"These tokens were made by {strip.model or 'an unnamed model'}, not by {model.name}.",)


def _decode_strip(
    model: LoadedTokenizer, strip: TokenPicture, options: Any, seed: int, full_size: bool, watcher: Watcher
) -> Image.Image:
    from pipelines.flextok.strip_coding import decode_strip

    _check_seed(seed)
    image = decode_strip(
        model.flextok, strip, options, seed, full_size, watcher.batch_watcher(options.steps), watcher.on_step
    )
    if image is None:
        raise Cancelled
    watcher.spend("decode")
    return image

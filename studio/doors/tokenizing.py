"""The door to tokens, imported when first needed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from studio.crafts.reports import Report
from studio.painter import PaintingStopped
from studio.tokens import (
    Decoded,
    DecodeOptions,
    Generated,
    GenerateOptions,
    OnProgress,
    Point,
    ShouldStop,
    Strip,
)

if TYPE_CHECKING:
    from pipelines.compose.token_progress import TokenProgress


class PipelineTokenizer:
    """The real `Tokenizer`."""

    def load(self, folder: Path) -> Any:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        return tokenizing.load_model(folder)

    def tokens_drawn(self, folder: Path) -> int:
        """See `Tokenizer`."""
        try:
            index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
            if index["_class_name"] != "FlexARPipeline":
                return 0
            config = json.loads((folder / "transformer" / "config.json").read_text(encoding="utf-8"))
            return int(index.get("default_keep") or config["num_tokens"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    def read(self, data: bytes) -> Strip:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        found = tokenizing.describe(data)
        codes = math.prod(found.levels)
        return Strip(data, found.tiles, found.width, found.height, codes, found.model)

    def kept(self, data: bytes, keep: int) -> bytes:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        shorter: bytes = tokenizing.describe(data).keep(keep).to_bytes()
        return shorter

    def splice(self, first: bytes, second: bytes, places: Sequence[int]) -> bytes:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        mixed: bytes = tokenizing.mix(first, second, places)
        return mixed

    def encode(
        self,
        model: Any,
        picture: Image.Image,
        keep: int | None,
        fit: str,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Strip:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        with _stops():
            found = tokenizing.encode(
                model, picture, keep=keep, fit=fit, on_progress=_told(on_progress), should_stop=should_stop
            )
        return self.read(found.data)

    def decode(
        self,
        model: Any,
        data: bytes,
        keep: int | None,
        options: DecodeOptions,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Decoded:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        with _stops():
            found = tokenizing.decode(
                model,
                data,
                keep=keep,
                seed=options.seed,
                steps=options.steps,
                on_progress=_told(on_progress),
                should_stop=should_stop,
            )
        return Decoded(found.image, found.seconds, found.warnings, found.device, found.dtype)

    def stops(
        self,
        model: Any,
        data: bytes,
        stops: Sequence[int] | None,
        options: DecodeOptions,
        should_stop: ShouldStop,
    ) -> Iterator[tuple[int, Image.Image]]:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        with _stops():
            yield from tokenizing.decode_stops(
                model, data, stops=stops, seed=options.seed, steps=options.steps, should_stop=should_stop
            )

    def framed(self, model: Any, picture: Image.Image, fit: str) -> Image.Image:
        """See `Tokenizer`."""
        from pipelines.flextok.framing import to_square

        framed: Image.Image = picture if fit == "tiles" else to_square(picture, model.side, fit)
        return framed

    def measure(self, count: int, decoded: Image.Image, reference: Image.Image) -> Point:
        """See `Tokenizer`."""
        from pipelines.flextok.measures import rate_point

        found = rate_point(count, decoded, reference)
        return Point(count, found.psnr, found.error)

    def generate(
        self,
        model: Any,
        prompt: str,
        options: GenerateOptions,
        on_progress: OnProgress,
        should_stop: ShouldStop,
    ) -> Generated:
        """See `Tokenizer`."""
        from pipelines.compose import tokenizing

        with _stops():
            found = tokenizing.generate(
                model,
                prompt,
                keep=options.keep,
                seed=options.seed,
                temperature=options.temperature,
                top_k=options.top_k,
                top_p=options.top_p,
                steps=options.steps,
                prefix=options.prefix,
                on_progress=_told(on_progress),
                should_stop=should_stop,
            )
        strip = self.read(found.data)
        return Generated(found.image, found.seconds, found.warnings, found.device, found.dtype, strip)


@contextmanager
def _stops() -> Iterator[None]:
    from pipelines.compose.painting import Cancelled

    try:
        yield
    except Cancelled as error:
        raise PaintingStopped from error


def _told(on_progress: OnProgress) -> Callable[[TokenProgress], None] | None:
    if on_progress is None:
        return None

    def tell(news: TokenProgress) -> None:
        on_progress(Report(news.phase, 0, 0, news.done, news.total, news.fraction, preview=news.preview))

    return tell

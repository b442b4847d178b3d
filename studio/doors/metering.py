"""The door to tokenizers and to the seam meter, imported when first needed."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from studio.metering import Gauge, Seams

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# what encoders read where the tokenizer's own limit says nothing ("very large")
_LIMITS = {"T5": 512, "CLIP": 77}
_LARGEST_LIMIT = 4096
_PARTS = ("tokenizer_2", "tokenizer")


class PipelineMeters:
    """The real `Meters`."""

    def gauges(self, folder: Path, prompt: str) -> list[Gauge]:
        """See `Meters`."""
        from pipelines.compose.sketching import LONGEST_TEXT

        text = _as_painted(folder, prompt)
        starts = _sentence_starts(text)
        found: list[Gauge] = []
        for part in _PARTS:
            path = folder / part / "tokenizer.json"
            if not path.is_file():
                continue
            encoder, limit = _encoder(folder / part)
            # the stronger encoder of two reads the words, the other one sums them up; alone it reads them
            most = 0 if found else LONGEST_TEXT
            tokenizer = _tokenizer(path, path.stat().st_mtime_ns)
            found.append(_gauge(tokenizer, encoder, limit, text, starts, bool(found), most))
        return found

    def has_borders(self, width: int, height: int) -> bool:
        """See `Meters`."""
        from pipelines.scale_dit.tiles import count_tiles

        return count_tiles(height // 8, width // 8) > 1

    def seams(self, picture: Image.Image) -> Seams:
        """See `Meters`."""
        from pipelines.scale_dit.seams import measure_seams

        found = measure_seams(picture)
        return Seams(found.ratio, found.worst, found.column, found.row)


def _as_painted(folder: Path, prompt: str) -> str:
    """The text that reaches the tokenizers: the embedded models are told it in their world's own words."""
    if not folder.name.startswith("storybook"):
        return prompt
    from pipelines.storybook.vocabulary import canonical_prompt

    return str(canonical_prompt(prompt)).lower()


def _sentence_starts(text: str) -> list[int]:
    from pipelines.longalign.source_text import SourceText
    from pipelines.longalign.split import split_prompt

    return [piece.span[0] for piece in split_prompt(SourceText.plain(text), "smart")] or [0]


def _encoder(part: Path) -> tuple[str, int]:
    """Kind of a tokenizer's encoder, and the tokens it reads at once."""
    path = part / "tokenizer_config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    name = next((known for known in _LIMITS if kind.startswith(known)), kind or "Text")
    limit = config.get("model_max_length")
    fits = type(limit) is int and 2 < limit <= _LARGEST_LIMIT
    return name, limit if fits else _LIMITS.get(name, 512)


@lru_cache(maxsize=8)
def _tokenizer(path: Path, changed_ns: int) -> Tokenizer:
    """The tokenizer in a file; read again when the file has changed."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    # a file may have been saved with the settings of one call
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _gauge(
    tokenizer: Tokenizer,
    encoder: str,
    limit: int,
    text: str,
    starts: list[int],
    is_summary: bool,
    most: int,
) -> Gauge:
    encoding = tokenizer.encode(text)
    spans = [
        span
        for span, is_mark in zip(encoding.offsets, encoding.special_tokens_mask, strict=True)
        if not is_mark
    ]
    marks = len(encoding.ids) - len(spans)
    counts = Counter(max(0, bisect_right(starts, start) - 1) for start, _ in spans)
    beyond = spans[max(0, max(limit, most) - marks) :]
    return Gauge(
        encoder=encoder,
        limit=limit,
        marks=marks,
        sentences=tuple(counts[place] for place in range(len(starts))),
        lost=text[beyond[0][0] : beyond[-1][1]] if beyond else "",
        is_summary=is_summary,
        most=most,
    )

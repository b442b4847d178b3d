"""How long a prompt is for a model's text encoders, sentence by sentence, and which words nobody reads.

Counted are the rows of the plan that painting would make, not bare tokens: a page's sentences each take a row
for their start, weights and `BREAK` none. Needs the tokenizers' files alone: no model is loaded, nor torch.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.compose.sketching import ALIGNED, LONGEST_TEXT, sketches
from pipelines.longalign.parts import LongAlignParts, t5_folder
from pipelines.longalign.plan import WHERE_MEANT, Cut, PromptPlan, PromptSettings
from pipelines.longalign.planner import SegmentPlanner, WholePlanner, block_rows, read_syntax
from pipelines.longalign.prompt_weights import rewrite_words, uses_syntax
from pipelines.longalign.source_text import SourceText
from pipelines.longalign.split import split_prompt
from pipelines.longalign.tokens import TokenReader
from pipelines.storybook.vocabulary import canonical_prompt

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# what encoders read where the tokenizer's own limit says nothing ("very large")
_LIMITS = {"T5": 512, "CLIP": 77}
_LARGEST_LIMIT = 4096
_MOST_LOST = 2000  # characters of lost words that are told
_READINGS = ("whole", "sentences")


@dataclass(frozen=True)
class SentenceLength:
    """One sentence of a prompt.

    Attributes:
        text: as the encoder is told it. lost: its end, as far as nobody reads it.
        rows: that it takes.
    """

    text: str
    rows: int
    lost: str = ""


@dataclass(frozen=True)
class PromptLength:
    """A prompt as one text encoder takes it.

    Attributes:
        encoder: "T5" or "CLIP".
        limit: tokens that it reads at once, marks included.
        rows: of the conditioning that hold words and marks.
        sentences: in order; their rows and one for each mark around the text are `rows`.
        whole: tokens of the text in one piece, marks included.
        reading: "whole", "blocks" of several sentences, or "sentences" one by one.
        dropped: tokens that it doesn't read. lost: their words.
        is_summary: whether it only gives one vector for the whole text, so that a cut loses no detail.
    """

    encoder: str
    limit: int
    rows: int
    sentences: tuple[SentenceLength, ...]
    whole: int
    reading: str = "whole"
    dropped: int = 0
    lost: str = ""
    is_summary: bool = False


class _FileTokenizer:
    """As much of a transformers tokenizer as `TokenReader` asks for, from its file alone."""

    is_fast = True
    pad_token_id = 0  # plans are not padded

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        marks = tokenizer.encode("").ids
        self.bos_token_id = marks[0] if len(marks) > 1 else None
        self.eos_token_id = marks[-1] if marks else -1

    def __call__(self, texts: Any, add_special_tokens: bool = True, **options: Any) -> Any:
        if isinstance(texts, str):
            return _Answer(self.tokenizer.encode(texts).ids)
        found = self.tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        return _Answer([one.ids for one in found], [one.offsets for one in found])


@dataclass(frozen=True)
class _Answer:
    input_ids: Any
    offset_mapping: Any = None


@dataclass(frozen=True)
class Encoder:
    """A text encoder by its tokenizer: name, tokens that it reads at once, reader."""

    name: str
    limit: int
    reader: TokenReader


def measure_prompt(folder: Path, prompt: str) -> list[PromptLength]:
    """A prompt as each text encoder of a model folder takes it, the one that decides first.

    Empty where the folder has no tokenizer that can be read.
    """
    text = prompt
    if folder.name.startswith("storybook"):
        text = rewrite_words(prompt, lambda words: canonical_prompt(words).lower())
    t5, clip = (_encoder(folder / part) for part in ("tokenizer_2", "tokenizer"))
    if t5 is not None and not sketches(folder):
        first = _in_blocks(t5, text)
        return [first] if clip is None else [first, _summed_up(clip, text, first)]
    return [] if clip is None else _by_sentences(folder, clip, text)


def _in_blocks(encoder: Encoder, text: str) -> PromptLength:
    """T5 of FLUX.1: one pass up to its window, blocks of whole sentences beyond it."""
    reader = encoder.reader
    settings = PromptSettings(weights=WHERE_MEANT, rows=reader.window, max_rows=LONGEST_TEXT)
    planner = WholePlanner(reader, settings)
    draft = planner.draft(text, reader.room)
    plan = planner.place(draft, block_rows(planner.needed_rows(draft), settings))
    return _length(encoder, plan, settings, "whole" if len(draft.segments) == 1 else "blocks")


def _summed_up(encoder: Encoder, text: str, first: PromptLength) -> PromptLength:
    """CLIP of FLUX.1: one vector, of what it reads at once, or of all sentences of pages and emphasis."""
    reader, settings = encoder.reader, PromptSettings(weights=WHERE_MEANT)
    planner = WholePlanner(reader, settings)
    draft = planner.draft(text)
    needed = planner.needed_rows(draft)
    reads_all = first.reading == "blocks" or uses_syntax(text)
    # its plan counts no start mark
    plan = planner.place(draft, needed if reads_all else reader.window - len(reader.prefix))
    is_divided = reads_all and needed + len(reader.prefix) > reader.window
    return replace(_length(encoder, plan, settings, "whole"), is_summary=True, reading=_READINGS[is_divided])


def _by_sentences(folder: Path, encoder: Encoder, text: str) -> list[PromptLength]:
    """CLIP of Stable Diffusion: at once as in training, or by sentences."""
    settings = PromptSettings(weights=WHERE_MEANT, max_rows=LONGEST_TEXT)
    whole = WholePlanner(encoder.reader, settings)
    draft = whole.draft(text)
    fits = len(draft.segments[0].runs[0]) <= encoder.reader.room
    if fits and not uses_syntax(text):
        return [_length(encoder, whole.place(draft, encoder.reader.window), settings, "whole")]
    settings = _aligned_settings(folder / ALIGNED, settings) or settings
    planner = SegmentPlanner([encoder.reader], settings)
    segments = planner.draft(text)
    needed = [planner.needed_rows(segments)]
    t5 = _aligned_t5(folder / ALIGNED, settings.max_rows)
    beside = None
    if t5 is not None and (folder / ALIGNED / "adapter").is_dir():
        beside = WholePlanner(t5.reader, settings)
        needed.append(beside.needed_rows(beside.draft(text)))
    rows = block_rows(max(needed), settings)
    found = [_length(encoder, planner.place(segments, rows), settings, "sentences")]
    if t5 is not None and beside is not None:
        found.append(_length(t5, beside.place(beside.draft(text), rows), settings, "whole"))
    return found


def _aligned_settings(folder: Path, settings: PromptSettings) -> PromptSettings | None:
    """How LongAlign's weights in a folder want prompts read; None where there are none."""
    try:
        parts = LongAlignParts.read(folder)
    except ValueError:
        return None
    overflow = "truncate" if parts.mode == "official" else "grow"
    return replace(settings, mode=parts.mode, rows=parts.rows, overflow=overflow)


def _aligned_t5(folder: Path, window: int) -> Encoder | None:
    """T5 of LongAlign's weights, theirs or a lent one; None where they have none, or it isn't there."""
    try:
        source = t5_folder(folder)
    except ValueError:
        return None
    return None if source is None else _encoder(source / "tokenizer_2", window)


def _length(encoder: Encoder, plan: PromptPlan, settings: PromptSettings, reading: str) -> PromptLength:
    """A plan, told sentence by sentence."""
    reader = encoder.reader
    parts, _ = read_syntax(plan.prompt, settings)
    joined = SourceText.join(parts)
    pieces = [piece for part in parts for piece in split_prompt(part, settings.mode)] or [joined]
    starts = [piece.span[0] for piece in pieces]
    rows = [0] * len(pieces)
    for segment in plan.segments:
        if reading == "sentences":
            rows[_place(starts, segment.start)] += segment.num_rows
        else:
            for start in segment.runs[0].starts:
                rows[_place(starts, start)] += 1
    texts = zip(pieces, rows, strict=True)
    outside = 0 if reading == "sentences" else len(reader.prefix)
    return PromptLength(
        encoder=encoder.name,
        limit=encoder.limit,
        rows=plan.used + outside,
        sentences=tuple(
            SentenceLength(piece.text.strip(), own, _lost(piece, plan.cuts)) for piece, own in texts
        ),
        whole=len(reader.read([joined])[0]) + len(reader.prefix) + len(reader.suffix),
        reading=reading,
        dropped=plan.dropped_tokens,
        lost=" ".join(cut.text for cut in plan.cuts)[:_MOST_LOST],
    )


def _place(starts: Sequence[int], character: int) -> int:
    return max(0, bisect_right(starts, character) - 1)


def _lost(piece: SourceText, cuts: Sequence[Cut]) -> str:
    """The end of a sentence from its first character that nobody reads."""
    first = next((i for i, at in enumerate(piece.starts) if any(c.start <= at < c.end for c in cuts)), None)
    return "" if first is None else piece.text[first:].strip()


def _encoder(part: Path, window: int | None = None) -> Encoder | None:
    """The encoder that a tokenizer's folder belongs to; None where there is no such file.

    Args:
        window: tokens that it reads at once. Default: as its files say, or as is usual for its kind.
    """
    path = part / "tokenizer.json"
    if not path.is_file():
        return None
    try:
        config = json.loads((part / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    kind = str(config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    name = next((known for known in _LIMITS if kind.startswith(known)), kind or "Text")
    limit = config.get("model_max_length")
    fits = type(limit) is int and 2 < limit <= _LARGEST_LIMIT
    limit = window or (limit if fits else _LIMITS.get(name, 512))
    return Encoder(name, limit, TokenReader(_tokenizer(path, path.stat().st_mtime_ns), limit))


@lru_cache(maxsize=8)
def _tokenizer(path: Path, changed_ns: int) -> _FileTokenizer:
    """The tokenizer in a file; read again when the file has changed."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(path))
    # a file may have been saved with the settings of one call
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _FileTokenizer(tokenizer)

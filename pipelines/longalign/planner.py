"""Prompts into plans: segments for CLIP, whole texts or blocks for T5, rows for each."""

import math
from collections.abc import Sequence
from dataclasses import replace

from pipelines.longalign.plan import Cut, Draft, PromptPlan, PromptSettings, Segment
from pipelines.longalign.prompt_weights import parse_weights, split_at_breaks
from pipelines.longalign.source_text import SourceText, clean_up
from pipelines.longalign.split import sentence_ends, split_prompt
from pipelines.longalign.tokens import TokenReader, TokenRun

ROW_STEP = 80
LARGEST_WEIGHT = 10.0


def read_syntax(prompt: str, settings: PromptSettings) -> tuple[list[SourceText], tuple[str, ...]]:
    """The prompt's parts between `BREAK`s with their weights, and warnings.

    Weights beyond 10 (deep nesting, slips of the pen) are limited to it, with a warning.
    """
    has_syntax = settings.has_syntax(prompt)
    text = parse_weights(prompt) if has_syntax else SourceText.plain(prompt)
    text = text.strip() if settings.strip else text
    if not has_syntax:
        return [text], ()
    worst = max(text.weights, key=abs, default=1.0)
    warnings: tuple[str, ...] = ()
    if abs(worst) > LARGEST_WEIGHT:
        warnings = (f"a weight of {worst:.4g} is limited to {math.copysign(LARGEST_WEIGHT, worst):g}",)
        limited = tuple(min(max(weight, -LARGEST_WEIGHT), LARGEST_WEIGHT) for weight in text.weights)
        text = replace(text, weights=limited)
    return split_at_breaks(text), warnings


class SegmentPlanner:
    """Plans of CLIP segments.

    Args:
        readers: one for each CLIP encoder (SDXL: two); segments have the same limits in all of them.
    """

    def __init__(self, readers: Sequence[TokenReader], settings: PromptSettings) -> None:
        self.readers, self.settings = tuple(readers), settings
        self._stops = [reader.read([SourceText.plain(".")])[0] for reader in readers]

    def draft(self, prompt: str) -> Draft:
        """Cut a prompt into segments that each fit the encoders' windows."""
        parts, warnings = read_syntax(prompt, self.settings)
        pieces = [piece for part in parts for piece in split_prompt(part, self.settings.mode)]
        texts = [_with_stop(piece) for piece in pieces] or [SourceText.join(parts)]
        read = [clean_up(text) for text in texts]
        runs = zip(*(reader.read(read) for reader in self.readers), strict=True)
        segments: list[Segment] = []
        cuts: list[Cut] = []
        for text, own in zip(texts if self.settings.mode == "official" else read, runs, strict=True):
            if all(len(run) <= reader.room for run, reader in zip(own, self.readers, strict=True)):
                segments.append(Segment(text.text, *text.span, own))
            elif self.settings.mode == "official":
                segments.append(self._truncated(prompt, text, own, cuts))
            else:
                segments.extend(self._divided(prompt, text, cuts))
        return Draft(prompt, tuple(segments), tuple(cuts), warnings)

    def _truncated(self, prompt: str, text: SourceText, runs: Sequence[TokenRun], cuts: list[Cut]) -> Segment:
        fitting = tuple(run.part(0, reader.room) for run, reader in zip(runs, self.readers, strict=True))
        lost = max((run.part(len(kept), len(run)) for run, kept in zip(runs, fitting, strict=True)), key=len)
        room = min(reader.room for reader in self.readers)
        cuts.extend(_cut(prompt, lost, f"the sentence has more than {room} tokens"))
        return Segment(text.text, *text.span, fitting)

    def _divided(self, prompt: str, text: SourceText, cuts: list[Cut]) -> list[Segment]:
        """Parts of a long sentence, each with a stop of its own."""
        first, *others = self.readers
        room = min(reader.room - len(stop) for reader, stop in zip(self.readers, self._stops, strict=True))
        has_stop = text.starts[-1] == text.ends[-1]
        body = text.part(0, len(text.text) - has_stop)
        segments = []
        for piece, run in first.divide(body, room):
            stripped = len(piece.text.rstrip(" ,;:、，"))
            inner = piece.part(0, stripped) if stripped else piece
            keep = sum(end <= inner.ends[-1] for end in run.ends) if stripped else len(run)
            closed = _with_stop(inner)
            runs = [TokenRun.join([run.part(0, keep), _at(self._stops[0], inner.span[1])])]
            runs += [reader.read([closed])[0] for reader in others]
            if all(len(run) <= reader.room for run, reader in zip(runs, self.readers, strict=True)):
                segments.append(Segment(closed.text, *closed.span, tuple(runs)))
            else:  # the encoders' vocabularies differ and one of them needs more tokens for this part
                segments.append(self._truncated(prompt, closed, runs, cuts))
        return segments

    def needed_rows(self, draft: Draft) -> int:
        return sum(self._num_rows(segment) for segment in draft.segments)

    def _num_rows(self, segment: Segment) -> int:
        pairs = zip(segment.runs, self.readers, strict=True)
        return max(len(reader.kept(run)) for run, reader in pairs)

    def place(self, draft: Draft, rows: int) -> PromptPlan:
        """Give rows to the segments of a draft; what doesn't fit is cut."""
        segments = list(draft.segments)
        if self.settings.overflow == "merge":
            segments = self._merged(segments, rows)
        placed, cuts, used = [], list(draft.cuts), 0
        for segment in segments:
            needed = self._num_rows(segment)
            given = min(needed, rows - used)
            if given:
                placed.append(replace(segment, first_row=used, num_rows=given))
            if given < needed:
                run, reader = segment.runs[0], self.readers[0]
                kept = reader.kept(run)[given:]
                lost = [place - len(reader.prefix) for place in kept if place >= len(reader.prefix)]
                if lost:
                    reason = f"the block of {rows} rows is full"
                    cuts.extend(_cut(draft.prompt, run.part(lost[0], lost[-1] + 1), reason))
            used += given
        return _plan("clip", draft, placed, cuts, rows, used)

    def _merged(self, segments: list[Segment], rows: int) -> list[Segment]:
        """Join neighbours from the front until the block's rows suffice."""
        excess = sum(map(self._num_rows, segments)) - rows
        merged: list[Segment] = []
        for segment in segments:
            before = merged[-1] if merged else None
            fits = before is not None and all(
                len(a) + len(b) <= reader.room
                for a, b, reader in zip(before.runs, segment.runs, self.readers, strict=True)
            )
            if excess > 0 and before is not None and fits:
                runs = tuple(TokenRun.join(pair) for pair in zip(before.runs, segment.runs, strict=True))
                joined = Segment(f"{before.text} {segment.text.strip()}", before.start, segment.end, runs)
                excess -= self._num_rows(before) + self._num_rows(segment) - self._num_rows(joined)
                merged[-1] = joined
            else:
                merged.append(segment)
        return merged


class WholePlanner:
    """Plans of texts that T5 reads whole, or in parts of its window where that is allowed."""

    def __init__(self, reader: TokenReader, settings: PromptSettings) -> None:
        self.reader, self.settings = reader, settings

    def draft(self, prompt: str, room: int | None = None) -> Draft:
        """One segment with all tokens, or several of at most `room` tokens, cut behind sentences."""
        parts, warnings = read_syntax(prompt, self.settings)
        text = SourceText.join(parts)
        (run,) = self.reader.read([text])
        pieces = [(text, run)]
        if room is not None and len(run) > room:
            pieces = self.reader.divide(text, room, (end for _, end in sentence_ends(text.text)))
        segments = tuple(Segment(piece.text, *piece.span, (own,)) for piece, own in pieces)
        return Draft(prompt, segments, (), warnings)

    def needed_rows(self, draft: Draft) -> int:
        return sum(len(segment.runs[0]) for segment in draft.segments) + len(self.reader.suffix)

    def place(self, draft: Draft, rows: int) -> PromptPlan:
        """Give rows to the segments; the end mark stands behind the last token that fits."""
        placed, cuts, used = [], [], 0
        space = rows - len(self.reader.suffix)
        for segment in draft.segments:
            (run,) = segment.runs
            given = min(len(run), space - used)
            if given or len(draft.segments) == 1:
                fitting = replace(segment, runs=(run.part(0, given),), first_row=used, num_rows=given)
                placed.append(fitting)
            if given < len(run):
                lost = run.part(given, len(run))
                cuts.extend(_cut(draft.prompt, lost, f"the encoder reads {rows} tokens"))
            used += given
        return _plan("t5", draft, placed, cuts, rows, used + len(self.reader.suffix))


def block_rows(needed: int, settings: PromptSettings) -> int:
    """Rows of a block for texts that need `needed`: `rows`, or grown by steps of 80 up to `max_rows`."""
    if settings.overflow != "grow" or needed <= settings.rows:
        return settings.rows
    return min(math.ceil(needed / ROW_STEP) * ROW_STEP, settings.max_rows)


def _plan(
    encoder: str, draft: Draft, segments: list[Segment], cuts: list[Cut], rows: int, used: int
) -> PromptPlan:
    """The plan, with neighbouring cuts of one reason as one cut."""
    joined: list[Cut] = []
    for cut in sorted(cuts, key=lambda cut: cut.start):
        last = joined[-1] if joined else None
        if last and last.reason == cut.reason and not draft.prompt[last.end : cut.start].strip(" .!?;\n"):
            text, tokens = draft.prompt[last.start : cut.end], last.tokens + cut.tokens
            joined[-1] = Cut(last.start, cut.end, text, tokens, cut.reason)
        else:
            joined.append(cut)
    warnings = draft.warnings
    if joined:
        warnings += (f"{sum(cut.tokens for cut in joined)} tokens are dropped",)
    return PromptPlan(encoder, draft.prompt, tuple(segments), rows, used, tuple(joined), warnings)


def _with_stop(text: SourceText) -> SourceText:
    return SourceText.join([text, _stop_at(text.span[1])])


def _stop_at(place: int) -> SourceText:
    return SourceText(".", (place,), (place,), (1.0,))


def _at(stop: TokenRun, place: int) -> TokenRun:
    return replace(stop, starts=(place,) * len(stop), ends=(place,) * len(stop))


def _cut(prompt: str, lost: TokenRun, reason: str) -> list[Cut]:
    """The cut as a list; an added stop alone is no loss."""
    tokens = sum(first < last for first, last in zip(lost.starts, lost.ends, strict=True))
    if not tokens:
        return []
    start, end = lost.starts[0], max(lost.ends)
    return [Cut(start, end, prompt[start:end], tokens, reason)]

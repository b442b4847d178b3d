"""How long a text encoder takes for twelve sentences: in one call, each in its own, padded to the window."""

import time
from collections.abc import Callable
from typing import Any

import torch

from pipelines.longalign.conditioning import clip_window
from pipelines.longalign.plan import PromptSettings
from pipelines.longalign.planner import SegmentPlanner
from pipelines.longalign.text_encoders import CachedTextEncoder
from pipelines.longalign.tokens import TokenReader

SENTENCES = 12
REPEATS = 5


def measure_encoding(text_encoder: Any, tokenizer: Any) -> dict[str, float]:
    """Seconds, the shortest of five, of each way to encode twelve different sentences."""
    reader = TokenReader(tokenizer, clip_window(text_encoder, tokenizer))
    encoder = CachedTextEncoder(text_encoder, reader)
    names = (
        "first",
        "second",
        "third",
        "other",
        "upper",
        "lower",
        "left",
        "right",
        "small",
        "large",
        "red",
        "blue",
    )
    page = " ".join(
        f"The {name} thing on this page is a cat to the left of a house in a meadow." for name in names
    )
    draft = SegmentPlanner([reader], PromptSettings()).draft(page)
    texts = [reader.wrap(segment.runs[0]) for segment in draft.segments]
    assert len(set(texts)) == SENTENCES

    def one_call() -> None:
        encoder.encode(texts)

    def each_alone() -> None:
        for text in texts:
            encoder.encode([text])

    def each_padded() -> None:
        for text in texts:
            encoder.encode([text], reader.window)

    def edited() -> None:
        encoder.encode([*texts[1:], (*texts[0][:-1], texts[1][1], *reader.suffix)])

    times = {"12 sentences, one call": _shortest(encoder, one_call)}
    times["12 sentences, 12 calls"] = _shortest(encoder, each_alone)
    times["12 calls padded to the window"] = _shortest(encoder, each_padded)
    times["one of 12 edited"] = _shortest(encoder, edited, one_call)
    return times


@torch.no_grad()
def _shortest(
    encoder: CachedTextEncoder, run: Callable[[], None], before: Callable[[], None] = lambda: None
) -> float:
    """Seconds of a run with an empty memory, or with what `before` left in it."""
    found = []
    for _ in range(REPEATS):
        encoder.forget()
        before()
        start = time.perf_counter()
        run()
        found.append(time.perf_counter() - start)
    return min(found)

"""Which words of a prompt go into which rows of the conditioning, and which don't fit and why."""

from dataclasses import asdict, dataclass
from typing import Any

from pipelines.longalign.prompt_weights import uses_syntax
from pipelines.longalign.split import MODES
from pipelines.longalign.tokens import TokenRun

POLICIES = ("truncate", "grow", "merge")
WHERE_MEANT = "where meant"


@dataclass(frozen=True)
class PromptSettings:
    """How prompts become conditioning.

    Attributes:
        mode: how sentences are cut, "official" or "smart" (see `split.split_prompt`).
        overflow: when a prompt needs more rows than `rows`. "truncate" drops what is behind them, as the
            authors do; "grow" makes the block longer, in steps of 80 rows, for prompt and negative prompt
            alike; "merge" joins neighbouring sentences while they fit one window, which saves a row each.
        rows: rows of a block (240 in the paper).
        max_rows: where "grow" ends.
        weights: whether `(word:1.3)` and `BREAK` are syntax; `WHERE_MEANT`: in prompts that have one of the
            two, so that brackets without a number stay text elsewhere. Default: only in smart mode.
        strip: whether whitespace around the prompt is removed first, as the authors' sampling script does.
        alone: encode one segment at a time, not all new ones in one call: the same prompt then gives the same
            bits whatever was encoded before.
        pooled: SDXL and FLUX: the pooled vector is the "mean" over the segments or that of the "first".
    """

    mode: str = "smart"
    overflow: str = "grow"
    rows: int = 240
    max_rows: int = 4800
    weights: bool | str | None = None
    strip: bool = True
    alone: bool = False
    pooled: str = "mean"

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("mode", self.mode, MODES),
            ("overflow", self.overflow, POLICIES),
            ("pooled", self.pooled, ("mean", "first")),
            ("weights", self.weights, (True, False, None, WHERE_MEANT)),
        ):
            if value not in allowed:
                raise ValueError(f"{name} is {value!r}; it must be one of {allowed}")
        if not 8 <= self.rows <= self.max_rows:
            raise ValueError(f"rows is {self.rows}; it must lie between 8 and max_rows ({self.max_rows})")

    def has_syntax(self, prompt: str) -> bool:
        """Whether emphasis and `BREAK` are syntax in this prompt."""
        if self.weights == WHERE_MEANT:
            return uses_syntax(prompt)
        return self.mode == "smart" if self.weights is None else bool(self.weights)


OFFICIAL = PromptSettings(mode="official", overflow="truncate")


@dataclass(frozen=True)
class Cut:
    """Words that the encoder never sees: range and text in the prompt, number of tokens, and why."""

    start: int
    end: int
    text: str
    tokens: int
    reason: str


@dataclass(frozen=True)
class Segment:
    """A piece of a prompt that is encoded on its own.

    Attributes:
        text: as the tokenizer reads it.
        start, end: range in the prompt.
        runs: its tokens, for each encoder.
        first_row, num_rows: where its rows lie in the block; fewer than it has when the block is full.
    """

    text: str
    start: int
    end: int
    runs: tuple[TokenRun, ...]
    first_row: int = 0
    num_rows: int = 0


@dataclass(frozen=True)
class PromptPlan:
    """What becomes of one prompt in one block of the conditioning.

    Attributes:
        encoder: "clip" or "t5".
        prompt: as it was typed.
        segments: in order; ranges, ids and rows.
        rows: length of the block. used: rows that hold words; the rest is padding.
        cuts: what is lost, in order.
        warnings: sentences for a person.
    """

    encoder: str
    prompt: str
    segments: tuple[Segment, ...]
    rows: int
    used: int
    cuts: tuple[Cut, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def dropped_tokens(self) -> int:
        return sum(cut.tokens for cut in self.cuts)

    @property
    def summary(self) -> str:
        """One line: rows in use and what is dropped."""
        meter = f"{self.encoder}: {self.used}/{self.rows} rows, {len(self.segments)} segments"
        if not self.cuts:
            return f"{meter}, 0 tokens dropped"
        words = " ".join(" ".join(cut.text[:200].split()) for cut in self.cuts[:100])
        words = "".join(letter if letter.isprintable() else " " for letter in words)
        words = words if len(words) <= 120 else f"{words[:117]}..."
        return f'{meter}, {self.dropped_tokens} tokens dropped: "{words}"'

    def as_dict(self) -> dict[str, Any]:
        """For JSON: ranges, ids, rows, cuts, warnings and the summary."""
        segments = [
            {
                "text": segment.text, "start": segment.start, "end": segment.end,
                "ids": [list(run.ids) for run in segment.runs],
                "first_row": segment.first_row, "num_rows": segment.num_rows,
            }
            for segment in self.segments
        ]  # fmt: skip
        return {
            "encoder": self.encoder, "rows": self.rows, "used": self.used, "segments": segments,
            "cuts": [asdict(cut) for cut in self.cuts], "dropped_tokens": self.dropped_tokens,
            "warnings": list(self.warnings), "summary": self.summary,
        }  # fmt: skip


@dataclass(frozen=True)
class Draft:
    """A prompt's segments before rows are given out."""

    prompt: str
    segments: tuple[Segment, ...]
    cuts: tuple[Cut, ...] = ()
    warnings: tuple[str, ...] = ()

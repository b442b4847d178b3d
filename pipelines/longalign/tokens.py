"""Texts into tokens with their places in the prompt, and where to cut those that are too long."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from pipelines.longalign.source_text import SourceText

Offsets = Sequence[tuple[int, int]]

_COMMAS = frozenset(",;:、，；：")
# how good a place before a token is for a cut
INSIDE, CHARACTER, WORD, CLAUSE, SENTENCE = range(5)


@dataclass(frozen=True)
class TokenRun:
    """Tokens without the encoder's start and end marks.

    Attributes:
        ids: numbers in the vocabulary.
        starts, ends: the characters of the prompt that each token was made from.
        weights: of each token; 1 is normal.
    """

    ids: tuple[int, ...]
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    weights: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, end: int) -> "TokenRun":
        """Tokens `start ... end - 1`."""
        cut = slice(start, end)
        return TokenRun(self.ids[cut], self.starts[cut], self.ends[cut], self.weights[cut])

    @classmethod
    def join(cls, runs: "Iterable[TokenRun]") -> "TokenRun":
        """The runs one after the other."""
        fields = zip(*((run.ids, run.starts, run.ends, run.weights) for run in runs), strict=True)
        return cls(*(tuple(chain.from_iterable(field)) for field in fields))


class TokenReader:
    """A tokenizer of CLIP or T5 with the window of its encoder.

    Args:
        tokenizer: a fast tokenizer of transformers (it must give offsets).
        window: tokens that the encoder reads at once, marks included.
    Attributes:
        prefix, suffix: ids that the encoder expects around a text (CLIP: start and end; T5: end).
        room: tokens of a text that fit into the window.
    """

    def __init__(self, tokenizer: Any, window: int) -> None:
        if not getattr(tokenizer, "is_fast", False):
            raise ValueError(f"{type(tokenizer).__name__} gives no offsets; a fast tokenizer is needed")
        self.tokenizer, self.window = tokenizer, window
        marks = tuple(tokenizer("", verbose=False).input_ids)
        begins = bool(marks) and tokenizer.bos_token_id is not None and marks[0] == tokenizer.bos_token_id
        self.prefix, self.suffix = (marks[:1], marks[1:]) if begins else ((), marks)
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id
        self.room = window - len(marks)
        if self.room < 2:
            raise ValueError(f"a window of {window} tokens leaves no room for text")

    def _encode(self, texts: list[str]) -> tuple[list[list[int]], list[Offsets]]:
        answer = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return answer.input_ids, answer.offset_mapping

    def read(self, texts: Sequence[SourceText]) -> list[TokenRun]:
        """All tokens of each text, in one call of the tokenizer."""
        if not texts:
            return []
        answers = zip(texts, *self._encode([text.text for text in texts]), strict=True)
        return [_run(text, ids, offsets) for text, ids, offsets in answers]

    def divide(
        self, text: SourceText, room: int, sentences: Iterable[int] = ()
    ) -> list[tuple[SourceText, TokenRun]]:
        """Cut a text into parts of at most `room` tokens, as few and as natural as can be had in one pass.

        Args:
            sentences: characters of the text before which a sentence ends: the best places for a cut. Then
                come commas in the second half of a part, word limits, character limits.
        """
        (ids,), (offsets,) = self._encode([text.text])
        run = _run(text, ids, offsets)
        parts, done = [], 0
        for end in cut_points(text.text, offsets, room, sentences):
            piece = text.part(offsets[done][0], max(offsets[i][1] for i in range(done, end)))
            parts.append((piece, run.part(done, end)))
            done = end
        return parts

    def wrap(self, run: TokenRun) -> tuple[int, ...]:
        """What the encoder reads: the run between its marks."""
        return (*self.prefix, *run.ids, *self.suffix)

    def kept(self, run: TokenRun) -> list[int]:
        """Positions of the wrapped run whose rows are used: all but end marks, typed ones included."""
        wrapped = (*self.prefix, *run.ids)
        return [place for place, token in enumerate(wrapped) if token != self.end_id]


def _run(text: SourceText, ids: Sequence[int], offsets: Offsets) -> TokenRun:
    if not ids:
        return TokenRun((), (), (), ())
    first = [min(start, len(text.text) - 1) for start, _ in offsets]
    last = [max(end - 1, start) for start, (_, end) in zip(first, offsets, strict=True)]
    return TokenRun(
        tuple(ids),
        tuple(text.starts[place] for place in first),
        tuple(text.ends[place] for place in last),
        tuple(text.weights[place] for place in first),
    )


def cut_points(text: str, offsets: Offsets, room: int, sentences: Iterable[int] = ()) -> list[int]:
    """Numbers of the tokens at which the parts of a long text end (the last is the number of tokens).

    Args:
        offsets: characters of each token.
        room: tokens that a part may have.
        sentences: characters before which a sentence ends, ascending.
    """
    count, points = len(offsets), []
    levels = _levels(text, offsets, sentences)
    begin = 0
    while count - begin > room:
        choices = ((SENTENCE, room // 4), (CLAUSE, room // 2), (WORD, 1), (CHARACTER, 1))
        begin = next(
            (
                place
                for level, least in choices
                for place in range(begin + room, begin + max(least, 1) - 1, -1)
                if levels[place] >= level
            ),
            begin + room,
        )
        points.append(begin)
    return [*points, count] if count > begin or not points else points


def _levels(text: str, offsets: Offsets, sentences: Iterable[int]) -> list[int]:
    """How good a cut before each token is."""
    levels = [INSIDE] * len(offsets)
    ends = iter(sentences)
    boundary = next(ends, None)
    for place in range(1, len(offsets)):
        (before, stop), (start, _) = offsets[place - 1], offsets[place]
        while boundary is not None and boundary <= before:
            boundary = next(ends, None)
        if boundary is not None and boundary <= start:
            levels[place] = SENTENCE
        elif start <= before:  # two tokens of one character
            levels[place] = INSIDE
        elif stop > 0 and text[stop - 1] in _COMMAS:
            levels[place] = CLAUSE
        else:
            levels[place] = WORD if start > stop or text[start - 1 : start].isspace() else CHARACTER
    return levels

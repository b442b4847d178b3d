"""A frozen CLIP or T5 encoder that encodes many texts in one call and remembers them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipelines.longalign.tokens import TokenReader

PAD_POSITIONS = 60  # of the empty text's encoding: their mean is the one padding vector
LARGEST_CALL = 16_384  # token positions that go through the encoder at once


@dataclass(frozen=True)
class EncodedText:
    """`hidden` states `[tokens, C]` and, where the encoder has one, the `pooled` vector `[P]`."""

    hidden: torch.Tensor
    pooled: torch.Tensor | None


class CachedTextEncoder:
    """What a text encoder says about texts, each text encoded once.

    CLIP attends to earlier tokens only, so the states of a segment depend neither on its neighbours in the
    batch nor on padding (up to rounding, about 2e-6): editing one sentence of a page encodes one segment.

    Args:
        model: `CLIPTextModel`, `CLIPTextModelWithProjection` or `T5EncoderModel`.
        reader: its tokenizer and window.
        skip: layers left out at the end; 0 gives the last hidden state (after the final norm).
        normed: whether the final norm follows when layers are skipped (Stable Diffusion: yes, SDXL: no).
        device: where ids go. Default: the model's device.
        cache_rows: states that are remembered, the least recently used ones forgotten first.
        alone: run the model on one text at a time. States then depend, to the last bit, on nothing but their
            text, whatever else was encoded with it or remembered before.
    Attributes:
        calls, encoded: how often the model ran, and on how many texts.
    """

    def __init__(
        self,
        model: nn.Module,
        reader: TokenReader,
        *,
        skip: int = 0,
        normed: bool = True,
        device: Callable[[], torch.device] | None = None,
        cache_rows: int = 16_384,
        alone: bool = False,
    ) -> None:
        self.model, self.reader, self.skip, self.normed = model, reader, skip, normed
        self.cache_rows, self.alone = cache_rows, alone
        self.calls = self.encoded = 0
        self._device = device or (lambda: next(model.parameters()).device)
        self._cache: OrderedDict[Any, EncodedText] = OrderedDict()
        self._rows = 0
        self._stamp: Any = None

    def forget(self) -> None:
        """Empty the memory. Changed weights are noticed; other changes (a LoRA's scale) must be told."""
        self._cache.clear()
        self._rows = 0

    def encode(
        self, texts: Sequence[tuple[int, ...]], width: int | None = None, masked: bool = False
    ) -> list[EncodedText]:
        """Encode texts given as ids with their marks, all new ones in one call (see `alone`).

        Args:
            width: pad every text to so many tokens and return the states of the padding too. Default: pad to
                the longest and return each text's own states.
            masked: keep attention away from padding (T5; CLIP doesn't need it).
        """
        self._check_stamp()
        keys = [(ids, width, masked) for ids in texts]
        # taken out first: remembering the new ones may push them out
        states = {key: self._cache[key] for key in keys if key in self._cache}
        new = list(dict.fromkeys(key for key in keys if key not in states))
        states |= zip(new, self._run([ids for ids, *_ in new], width, masked), strict=True)
        for key in keys:
            self._remember(key, states[key])
        return [states[key] for key in keys]

    def blank(self, width: int | None = None) -> torch.Tensor:
        """States `[width, C]` of the empty text, padded to `width` (default: the window)."""
        marks = (*self.reader.prefix, *self.reader.suffix)
        return self.encode([marks], width or self.reader.window)[0].hidden

    def padding(self, width: int | None = None) -> torch.Tensor:
        """The vector `[C]` that fills a block: the mean of the empty text's last 60 positions."""
        blank = self.blank(width)
        return blank[max(1, len(blank) - PAD_POSITIONS) :].mean(0)

    def _check_stamp(self) -> None:
        parameters = list(self.model.parameters())
        stamp = (
            parameters[0].dtype,
            self._device(),
            hash(tuple((id(p), 0 if p.is_inference() else p._version) for p in parameters)),
        )
        if stamp != self._stamp:
            self.forget()
            self._stamp = stamp

    def _remember(self, key: Any, answer: EncodedText) -> None:
        if key not in self._cache:
            self._cache[key] = answer
            self._rows += len(answer.hidden)
        self._cache.move_to_end(key)
        while self._rows > self.cache_rows and len(self._cache) > 1:
            self._rows -= len(self._cache.popitem(last=False)[1].hidden)

    @torch.no_grad()
    def _run(self, texts: list[tuple[int, ...]], width: int | None, masked: bool) -> list[EncodedText]:
        answers: list[EncodedText] = []
        longest = width or max(map(len, texts), default=1)
        step = 1 if self.alone else max(1, LARGEST_CALL // longest)
        for first in range(0, len(texts), step):
            part = texts[first : first + step]
            longest = width or max(map(len, part))
            ids = torch.full((len(part), longest), self.reader.pad_id)
            for row, own in enumerate(part):
                ids[row, : len(own)] = torch.tensor(own)
            mask = None
            if masked:
                lengths = torch.tensor([len(own) for own in part])
                mask = (torch.arange(longest) < lengths[:, None]).long().to(self._device())
            hidden, pooled = self._call(ids.to(self._device()), mask)
            self.calls += 1
            self.encoded += len(part)
            for row, own in enumerate(part):
                states = hidden[row, : width or len(own)].clone()  # a view would keep the whole batch alive
                answers.append(EncodedText(states, None if pooled is None else pooled[row].clone()))
        return answers

    def _call(self, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
        output = self.model(input_ids=ids, attention_mask=mask, output_hidden_states=self.skip > 0)
        pooled = getattr(output, "text_embeds", None)
        if pooled is None:
            pooled = getattr(output, "pooler_output", None)
        if not self.skip:
            return output.last_hidden_state, pooled
        hidden = output.hidden_states[-(self.skip + 1)]
        if self.normed:
            inner = getattr(self.model, "text_model", self.model)
            hidden = inner.final_layer_norm(hidden)
        return hidden, pooled

"""Softmax over key sets one after the other, by explicit scores in a buffer that stays in the cache.

Sums are kept unnormalised until the last set. When queries and keys are so short that no score can overflow an
exponential, the running maximum is not needed at all, which saves two passes over the scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

# exp(60) times a hundred thousand keys and values of that size stay far inside of fp32, and exp(-60) is normal.
_SAFE_EXPONENT = 60.0


def is_bounded(query: Tensor, key: Tensor, scale: float) -> bool:
    """Whether no score can exceed 60 in size: by the Cauchy-Schwarz inequality, over whole tensors.

    NaN or infinite numbers give False.
    """
    if not query.numel() or not key.numel():
        return True
    longest = [torch.linalg.vector_norm(x, dim=-1).amax() for x in (query, key)]
    return bool(abs(scale) * longest[0] * longest[1] <= _SAFE_EXPONENT)


class Scratch:
    """One buffer for scores, reused by every call: fresh pages cost more than what is written to them."""

    def __init__(self, like: Tensor) -> None:
        self.buffer = like.new_empty(0)

    def take(self, *shape: int) -> Tensor:
        size = torch.Size(shape).numel()
        if self.buffer.numel() < size:
            self.buffer = self.buffer.new_empty(size)
        return self.buffer[:size].view(shape)


class OnlineSoftmax:
    """Attention of `[N, Q, D]` queries, already scaled, to key sets that arrive one by one.

    Args:
        query: `[N, Q, D]`.
        bounded: no score can overflow (`is_bounded`).
    """

    def __init__(self, query: Tensor, bounded: bool, scratch: Scratch) -> None:
        self.query, self.bounded, self.scratch = query, bounded, scratch
        self.output: Tensor | None = None
        self.total = query.new_zeros(*query.shape[:2], 1)
        self.top = query.new_full((*query.shape[:2], 1), float("-inf"))

    def absorb(self, key: Tensor, value: Tensor, visible: Tensor | None = None) -> None:
        """Add keys and values `[N, K, D]`, of which each query sees all, or those of `visible` `[Q, K]`.

        `visible` is a mask in the dtype of the query: 1 visible, 0 hidden.
        """
        scores = self.scratch.take(*self.query.shape[:2], key.shape[1])
        torch.bmm(self.query, key.transpose(1, 2), out=scores)
        shrink = None if self.bounded else self._shift(scores, visible)
        scores.exp_()
        if visible is not None and self.bounded:
            scores.mul_(visible)
        if self.output is None:
            self.output = torch.bmm(scores, value)
            self.total = scores.sum(-1, keepdim=True)
            return
        if shrink is not None:
            self.output.mul_(shrink)
            self.total.mul_(shrink)
        self.output.baddbmm_(scores, value)
        self.total.add_(scores.sum(-1, keepdim=True))

    def _shift(self, scores: Tensor, visible: Tensor | None) -> Tensor:
        """Subtract the running maximum; returns the factor for what was summed under the old one."""
        if visible is not None:
            scores.masked_fill_(visible == 0, float("-inf"))
        top = torch.maximum(self.top, scores.amax(-1, keepdim=True))
        finite = top.masked_fill(top == float("-inf"), 0.0)
        scores.sub_(finite)
        shrink = torch.exp(self.top - finite)
        self.top = top
        return shrink

    def finish(self) -> tuple[Tensor, Tensor]:
        """Output `[N, Q, D]` and log-sum-exp `[N, Q]`; a query that saw nothing gets 0 and -inf."""
        assert self.output is not None
        empty = self.total == 0
        output = self.output.div_(self.total.masked_fill(empty, 1.0))
        lse = torch.log(self.total)
        if not self.bounded:
            lse = lse + self.top.masked_fill(empty, 0.0)
        return output, lse.squeeze(-1)

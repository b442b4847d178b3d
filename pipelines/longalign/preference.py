"""How well a picture fits a text, split into what the text decides and what it doesn't.

A CLIP-like preference score is <c, f>, the product of text and picture embedding. Text embeddings crowd
around one direction V, whatever they say; c = c_perp + eta V with eta = <c, V>. So the score is the sum of
<c_perp, f>, the text-relevant part, and eta <V, f>, the same wish for every text (taste, photographic look).
Training on the sum drifts towards the second part; weighing it by w keeps alignment the goal.

Shape letters: S segments, B captions or pictures, E embedding width.
Source: arXiv 2410.11817, section on decomposed preference optimisation; forms as in its loss code.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

DEFAULT_WEIGHT = 0.3


def caption_embeddings(segments: Tensor, index: Tensor, count: int) -> Tensor:
    """Means `[B, E]` of the unit embeddings of each caption's segments, not normalised again.

    Args:
        segments: `[S, E]`, of any length each.
        index: `[S]`, the caption that each segment belongs to, 0 to `count` - 1; each has at least one.
    """
    unit = F.normalize(segments, dim=-1)
    totals = unit.new_zeros(count, unit.shape[-1]).index_add(0, index, unit)
    return totals / torch.bincount(index, minlength=count).to(totals)[:, None]


def common_direction(captions: Tensor) -> Tensor:
    """V `[E]`: the unit mean direction of caption embeddings `[B, E]`, B of a thousand or more.

    Raises:
        ValueError: a single caption, whose own direction V would be.
    """
    if len(captions) < 2:
        raise ValueError(f"the common direction needs several captions, got {len(captions)}")
    return F.normalize(captions.mean(0), dim=0)


@dataclass(frozen=True)
class Decomposition:
    """`perpendicular` `[B, E]` and `eta` `[B]` of caption embeddings along `direction` `[E]`."""

    perpendicular: Tensor
    eta: Tensor
    direction: Tensor

    def reweighted(self, weight: float) -> Tensor:
        """c_perp + w eta V `[B, E]`."""
        return self.perpendicular + weight * self.eta[:, None] * self.direction

    def relevant(self, pictures: Tensor) -> Tensor:
        """The text-relevant scores `[B]` of unit picture embeddings `[B, E]`."""
        return (self.perpendicular * pictures).sum(-1)

    def irrelevant(self, pictures: Tensor) -> Tensor:
        """The scores `[B]` along the common direction."""
        return self.eta * (pictures @ self.direction)


def decompose(captions: Tensor, direction: Tensor) -> Decomposition:
    """Split caption embeddings `[B, E]` along the unit vector `direction` `[E]`."""
    eta = captions @ direction
    return Decomposition(captions - eta[:, None] * direction, eta, direction)


def preference_logits(
    captions: Tensor, pictures: Tensor, direction: Tensor | None = None, weight: float = 1.0
) -> Tensor:
    """Scores `[B, P]` of every caption with every picture; the diagonal is the score of pairs.

    Args:
        captions: `[B, E]`, see `caption_embeddings`. No gradient reaches them.
        pictures: `[P, E]`, normalised here.
        direction: V; without it the plain score.
        weight: w of the common direction's share: 1 is the plain score, 0 alignment alone.
    """
    captions = captions.detach()
    if direction is not None:
        captions = decompose(captions, direction).reweighted(weight)
    return captions @ F.normalize(pictures, dim=-1).T


def preference_loss(scores: Tensor, weight: float) -> Tensor:
    """`0.5 (1 - mean score) - 0.09 (1 - w)`; the constant keeps curves of different w comparable."""
    return 0.5 * (1 - scores.mean()) - 0.09 * (1 - weight)

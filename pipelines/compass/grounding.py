"""Attention losses of the UNet recipe: words of an object should look where the object is.

Two terms per group of cross-attention maps, taken over by CoMPaSS from TokenCompose (arXiv 2312.03626): the
token term asks for a word's attention to fall on its object, the pixel term compares the attention of all the
object's words with its mask.
"""

# Shape letters: B batch, H heads, R side of a map, L text tokens, K objects.

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

TOKEN_WEIGHT = 1e-3
PIXEL_WEIGHT = 5e-5


class AttentionRecorder:
    """Keeps the cross-attention maps of a UNet's forward pass, with their gradients.

    The layers compute explicit probabilities from now on (`AttnProcessor`); `remove` brings the old
    processors back. Maps are kept between `start` and `take` only: gradient checkpointing runs the forward
    pass again during the backward pass, and those maps must not count.
    """

    def __init__(self, unet: nn.Module) -> None:
        from diffusers.models.attention_processor import Attention, AttnProcessor

        self._maps: defaultdict[str, list[Tensor]] | None = None
        self._layers: list[tuple[Any, Any]] = []
        for name, module in unet.named_modules():
            place = name.split("_", 1)[0]
            if isinstance(module, Attention) and module.is_cross_attention and place in ("down", "mid", "up"):
                self._layers.append((module, module.processor))
                module.set_processor(AttnProcessor())
                module.get_attention_scores = self._recording(module.get_attention_scores, place)
        if not self._layers:
            raise ValueError(f"{type(unet).__name__} has no cross-attention to record")

    def _recording(self, scores: Any, place: str) -> Any:
        def recorded(query: Tensor, key: Tensor, mask: Tensor | None = None) -> Tensor:
            probabilities = scores(query, key, mask)
            if self._maps is not None:
                side = round(probabilities.shape[1] ** 0.5)
                if side * side != probabilities.shape[1]:
                    raise ValueError(
                        f"{probabilities.shape[1]} positions are no square: train on square pictures"
                    )
                self._maps[f"{place}_{side}"].append(probabilities.unflatten(1, (side, side)))
            return probabilities

        return recorded

    def start(self) -> None:
        """Keep the maps of the next forward pass."""
        self._maps = defaultdict(list)

    def take(self) -> dict[str, list[Tensor]]:
        """Maps `[B * H, R, R, L]` by group ("down_16", "mid_8", ...), in the order of the layers."""
        maps, self._maps = self._maps, None
        return dict(maps or {})

    def remove(self) -> None:
        """Give every layer its own processor back."""
        for module, processor in self._layers:
            del module.get_attention_scores  # the instance's attribute: the class's method shows again
            module.set_processor(processor)
        self._layers = []


def training_groups(side_px: int, maps: dict[str, list[Tensor]]) -> list[str]:
    """Groups that the loss sums over: the middle and all upward ones of the recorded resolutions.

    For 512 px and Stable Diffusion's UNet these are mid_8, up_16, up_32 and up_64.
    """
    sides = {side_px * share // 512 for share in (64, 32, 16)}
    return [name for name in maps if name.startswith("mid_") or _up_side(name) in sides]


def _up_side(group: str) -> int | None:
    place, side = group.rsplit("_", 1)
    return int(side) if place == "up" else None


def attention_mask(masks: Tensor, side: int) -> Tensor:
    """Object masks `[K, h, w]` in [0, 1] as {0, 1} masks `[K, R, R]`: every cell that an object touches."""
    small = F.interpolate(masks[None].float(), (side, side), mode="bilinear", antialias=True)[0]
    return (small > 0).float()


def token_loss(maps: Sequence[Tensor], masks: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Share of each word's attention that misses its object, squared; summed over maps, mean over objects.

    Args:
        maps: of one group and one sample, `[H, R, R, L]` each.
        masks: `[K, R, R]` of zeros and ones.
        tokens: for each object, the positions of its words in the text.
    """
    total = masks.new_zeros(())
    for probabilities in maps:
        for mask, words in zip(masks, tokens, strict=True):
            chosen = probabilities[..., list(words)].float()  # [H, R, R, words]
            inside = (chosen * mask[None, :, :, None]).sum((1, 2)) / chosen.sum((1, 2))
            total = total + (1 - inside.mean(0)).square().mean()
    return total / len(masks)


def pixel_loss(maps: Sequence[Tensor], masks: Tensor, tokens: Sequence[Sequence[int]]) -> Tensor:
    """Binary cross-entropy between the attention of an object's words and its mask; mean over objects.

    Args: as of `token_loss`. Maps are averaged over heads and then over the group.
    """
    mean = torch.stack([probabilities.float().mean(0) for probabilities in maps]).mean(0)  # [R, R, L]
    losses = [
        F.binary_cross_entropy(mean[..., list(words)].sum(-1).clamp(max=1.0), mask)
        for mask, words in zip(masks, tokens, strict=True)
    ]
    return torch.stack(losses).mean()


@dataclass(frozen=True)
class GroundingLoss:
    """Sums over the groups of one sample, before their weights."""

    token: Tensor
    pixel: Tensor

    @property
    def weighted(self) -> Tensor:
        return TOKEN_WEIGHT * self.token + PIXEL_WEIGHT * self.pixel


def grounding_loss(
    maps: dict[str, list[Tensor]],
    masks: Tensor,
    tokens: Sequence[Sequence[int]],
    side_px: int,
) -> GroundingLoss:
    """Both terms of one sample.

    Args:
        maps: of that sample alone, `[H, R, R, L]` by group.
        masks: `[K, h, w]` in [0, 1], at any resolution.
        tokens: for each object, the positions of its words in the text.
        side_px: side of the training pictures, which decides the groups that count.
    Raises:
        ValueError: no recorded group counts, or masks and words disagree in number.
    """
    groups = training_groups(side_px, maps)
    if not groups:
        raise ValueError(f"none of the groups {sorted(maps)} counts for pictures of {side_px} px")
    if len(masks) != len(tokens) or any(not words for words in tokens):
        raise ValueError(f"{len(masks)} masks were given with words {list(map(len, tokens))}")
    token, pixel = masks.new_zeros(()), masks.new_zeros(())
    for name in groups:
        small = attention_mask(masks, maps[name][0].shape[1]).to(maps[name][0].device)
        token = token + token_loss(maps[name], small, tokens)
        pixel = pixel + pixel_loss(maps[name], small, tokens)
    return GroundingLoss(token, pixel)


def find_words(text: Sequence[int], words: Sequence[int], start: int = 0) -> list[int]:
    """Positions of the first occurrence of a token sequence, at or after `start`.

    The first occurrence from 0 is what CoMPaSS trains with: in "a teddy bear above a bear" it takes the bear
    for the teddy bear. With `start` behind the words of the first object it finds the right one.

    Args:
        text: token ids of the whole text, with its first special token.
        words: token ids of the words alone, without special tokens.
    Raises:
        ValueError: the text doesn't hold them.
    """
    count = len(words)
    for first in range(start, len(text) - count + 1):
        if count and list(text[first : first + count]) == list(words):
            return list(range(first, first + count))
    raise ValueError(f"the tokens {list(words)} do not occur in the text from position {start} on")

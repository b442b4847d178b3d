"""What the tiled back ends share: chunks that fit the cache, ranges of shared keys, exact merging."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .plan import Range, TileGroup


def tiles_per_chunk(group: TileGroup, bytes_per_tile: int, budget: int) -> int:
    """How many tiles keep a chunk's working set near `budget` bytes; at least one, at most all."""
    return min(max(1, budget // max(bytes_per_tile, 1)), group.queries.shape[0])


def tile_chunks(group: TileGroup, step: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Runs of `step` tiles: pairs of (queries, keys), `[tiles, n]` each."""
    for start in range(0, group.queries.shape[0], step):
        yield group.queries[start : start + step], group.keys[start : start + step]


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """The mask as a bias of the scores, in the dtype and on the device of `like`: 0 visible, -inf hidden."""
    return like.new_zeros(mask.shape).masked_fill_(~mask.to(like.device), float("-inf"))


def shared_rows(tokens: Tensor, ranges: tuple[Range, ...], dim: int = 0) -> Tensor:
    """Rows of all ranges along `dim`; a view when there is only one range."""
    parts = [tokens.narrow(dim, start, stop - start) for start, stop in ranges]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def merge(first: Tensor, first_lse: Tensor, second: Tensor, second_lse: Tensor) -> tuple[Tensor, Tensor]:
    """Attention over the union of two disjoint key sets, from the attention over each.

    Args:
        first, second: outputs `[..., D]`; first_lse, second_lse: fp32 log-sum-exp `[...]`, -inf for no key.

    Returns:
        output in the dtype of `first`, and its log-sum-exp. Weights are computed in fp32.
    """
    # Both -inf (no key at all) gives NaN here; the weight is then irrelevant, both outputs are zero.
    weight = torch.sigmoid(first_lse - second_lse).nan_to_num_(0.0).unsqueeze(-1)
    output = torch.lerp(second.float(), first.float(), weight)
    return output.to(first.dtype), torch.logaddexp(first_lse, second_lse)

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


class TileReader:
    """Gathers the tiles of a group chunk by chunk, or views them where they already lie together.

    Args:
        tensors: query `[Q, H, D]`, key and value `[S, H, D]`.
        step: largest number of tiles per chunk.
    """

    def __init__(self, tensors: tuple[Tensor, Tensor, Tensor], group: TileGroup, step: int) -> None:
        self.tensors, self.group = tensors, group
        self.shape = (step, group.keys.shape[1], *tensors[0].shape[1:])
        self.buffers: list[Tensor] = []

    def read(self, queries: Tensor, keys: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries `[tiles, q, H, D]`, keys and values `[tiles, k, H, D]`, valid until the next chunk."""
        run = self._run(queries)
        if run is not None:
            parts = [x[run].unflatten(0, queries.shape) for x in self.tensors]
            return parts[0], parts[1], parts[2]
        query, *sources = self.tensors
        if not self.buffers:  # fresh pages cost more than the copy itself: all chunks share these
            self.buffers = [query.new_empty(self.shape) for _ in sources]
        rows, columns = (x.reshape(-1).to(query.device) for x in (queries, keys))
        near = [buffer[: keys.shape[0]] for buffer in self.buffers]
        for source, buffer in zip(sources, near, strict=True):
            torch.index_select(source, 0, columns, out=buffer.flatten(0, 1))
        return query.index_select(0, rows).unflatten(0, queries.shape), near[0], near[1]

    def write(self, target: Tensor, queries: Tensor, result: Tensor) -> None:
        """Put rows `[tiles * q, ...]` of one chunk where its queries are in `target` `[Q, ...]`."""
        run = self._run(queries)
        if run is not None:
            target[run] = result
        else:
            target.index_copy_(0, queries.reshape(-1).long().to(target.device), result)

    def _run(self, queries: Tensor) -> slice | None:
        if not self.group.is_own:
            return None
        first, last = int(queries[0, 0]), int(queries[-1, -1])
        return slice(first, last + 1) if last + 1 - first == queries.numel() else None


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
        output in the dtype of `first`, and its log-sum-exp. Weights are computed and applied in fp32:
        rounded to bf16, a weight of 0.98 would misjudge the other part by up to a tenth of itself.
    """
    # Both -inf (no key at all) gives NaN here; the weight is then irrelevant, both outputs are zero.
    weight = torch.sigmoid(first_lse - second_lse).nan_to_num_(0.0).unsqueeze(-1)
    output = second.to(torch.float32, copy=True).lerp_(first.float(), weight)
    return output.to(first.dtype), torch.logaddexp(first_lse, second_lse)

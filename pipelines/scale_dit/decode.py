"""Tiled decoding with linear blending, tile by tile so that it can be watched and stopped."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

TILE, OVERLAP = 64, 8  # latents; 512 px and 64 px for an f8 autoencoder


def tile_starts(length: int, tile: int = TILE, overlap: int = OVERLAP) -> list[int]:
    """First latents of evenly spread tiles that cover `length` with at least `overlap` in common."""
    if length <= tile:
        return [0]
    count = math.ceil((length - overlap) / (tile - overlap))
    return [round(index * (length - tile) / (count - 1)) for index in range(count)]


def count_tiles(height: int, width: int) -> int:
    """Tiles of a latent map of that size."""
    return len(tile_starts(height)) * len(tile_starts(width))


@torch.no_grad()
def decode_tiled(
    vae: nn.Module, latents: Tensor, on_tile: Callable[[int, int], bool] | None = None
) -> Tensor | None:
    """Decode a latent map in tiles.

    Args:
        vae: `AutoencoderKL`, f8.
        latents: `[B, C, h, w]`, in the autoencoder's own scale.
        on_tile: called with (tiles done, tiles) after each tile; True stops.
    Returns:
        `[B, 3, 8h, 8w]` float32 in [-1, 1], or None when it was stopped.
    """
    parameter = next(vae.parameters())
    batch, _, height, width = latents.shape
    tall, wide = min(TILE, height), min(TILE, width)
    rows, columns = tile_starts(height), tile_starts(width)
    if len(rows) * len(columns) == 1:
        picture = vae.decode(latents.to(parameter.device, parameter.dtype)).sample.float().clamp_(-1, 1)
        stopped = on_tile is not None and on_tile(1, 1)
        return None if stopped else picture
    out = torch.zeros(batch, 3, height * 8, width * 8)
    weights = torch.zeros(1, 1, height * 8, width * 8)
    for done, (top, left) in enumerate(_walk(rows, columns), start=1):
        part = latents[:, :, top : top + tall, left : left + wide].to(parameter.device, parameter.dtype)
        pixels = (
            vae.decode(part.contiguous(memory_format=torch.channels_last)).sample.float().clamp_(-1, 1).cpu()
        )
        ramp = _ramp(top, tall, height)[:, None] * _ramp(left, wide, width)[None]
        window = (
            slice(None),
            slice(None),
            slice(top * 8, (top + tall) * 8),
            slice(left * 8, (left + wide) * 8),
        )
        out[window] += pixels * ramp
        weights[window] += ramp
        if on_tile is not None and on_tile(done, len(rows) * len(columns)):
            return None
    return out.div_(weights)


def _walk(rows: list[int], columns: list[int]) -> Iterator[tuple[int, int]]:
    for top in rows:
        for left in columns:
            yield top, left


def _ramp(start: int, tile: int, length: int) -> Tensor:
    """Weights of one axis in pixels: 1 inside, falling towards borders that have a neighbour."""
    size, blend = tile * 8, OVERLAP * 8
    position = torch.arange(size, dtype=torch.float32) + 0.5
    ramp = torch.ones(size)
    if start > 0:
        ramp = torch.minimum(ramp, position / blend)
    if start + tile < length:
        ramp = torch.minimum(ramp, (size - position) / blend)
    return ramp.clamp_min(1e-3)

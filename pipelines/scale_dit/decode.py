"""Tiled decoding with linear blending, tile by tile so that it can be watched and stopped."""

from collections.abc import Callable
from contextlib import nullcontext
from itertools import product

import torch
from torch import Tensor, nn

from pipelines.scale_dit.shared_norm import shared_statistics
from pipelines.scale_dit.tiles import OVERLAP, TILE, tile_starts


@torch.no_grad()
def decode_tiled(
    vae: nn.Module, latents: Tensor, on_tile: Callable[[int, int], bool] | None = None
) -> Tensor | None:
    """Decode a latent map in tiles that share the whole map's norm statistics.

    Args:
        vae: `AutoencoderKL`, f8.
        latents: `[B, C, h, w]`, in the autoencoder's own scale, on the device it runs on.
        on_tile: called with (tiles done, tiles) after each tile; True stops.
    Returns:
        `[B, 3, 8h, 8w]` float32 in [-1, 1] on the device of `latents`, or None when it was stopped.
    """
    batch, _, height, width = latents.shape
    tall, wide = min(TILE, height), min(TILE, width)
    corners = list(product(tile_starts(height), tile_starts(width)))
    out = torch.zeros(batch, 3, height * 8, width * 8, device=latents.device)
    weights = torch.zeros(1, 1, height * 8, width * 8, device=latents.device)
    with shared_statistics(vae, latents) if len(corners) > 1 else nullcontext():
        for done, (top, left) in enumerate(corners, start=1):
            part = latents[:, :, top : top + tall, left : left + wide].to(vae.dtype)
            pixels = (
                vae.decode(part.contiguous(memory_format=torch.channels_last)).sample.float().clamp_(-1, 1)
            )
            ramp = _ramp(top, tall, height)[:, None] * _ramp(left, wide, width)[None]
            ramp = ramp.to(latents.device)
            rows, columns = slice(top * 8, (top + tall) * 8), slice(left * 8, (left + wide) * 8)
            out[:, :, rows, columns] += pixels * ramp
            weights[:, :, rows, columns] += ramp
            if on_tile is not None and on_tile(done, len(corners)):
                return None
    return out.div_(weights)


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

"""Tiled decoding and encoding with linear blending, tile by tile so that it can be watched and stopped."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.scale_dit.shared_norm import shared_encoder_statistics, shared_statistics
from pipelines.scale_dit.tiles import OVERLAP, TILE, tile_starts

OnTile = Callable[[int, int], bool]  # (tiles done, tiles) -> whether to stop


@torch.no_grad()
def decode_tiled(vae: nn.Module, latents: Tensor, on_tile: OnTile | None = None) -> Tensor | None:
    """Decode a latent map in tiles that share the whole map's norm statistics.

    Args:
        vae: `AutoencoderKL` or `AutoencoderKLFlux2`, f8.
        latents: `[B, C, h, w]`, in the autoencoder's own scale, on the device it runs on.
        on_tile: called with (tiles done, tiles) after each tile; True stops.
    Returns:
        `[B, 3, 8h, 8w]` float32 in [-1, 1] on the device of `latents`, or None when it was stopped.
    """
    tiles = list(_tiles(latents.shape[-2], latents.shape[-1]))
    size = (latents.shape[-2] * 8, latents.shape[-1] * 8)
    out = torch.zeros(latents.shape[0], 3, *size, device=latents.device)
    weights = torch.zeros(1, 1, *size, device=latents.device)
    with shared_statistics(vae, latents) if len(tiles) > 1 else nullcontext():
        for done, (rows, columns) in enumerate(tiles, start=1):
            part = latents[:, :, rows, columns].to(vae.dtype)
            pixels = (
                vae.decode(part.contiguous(memory_format=torch.channels_last)).sample.float().clamp_(-1, 1)
            )
            place = (..., _scaled(rows, 8), _scaled(columns, 8))
            ramp = _weight(place[1], size[0], 8)[:, None] * _weight(place[2], size[1], 8)[None]
            out[place] += pixels * ramp.to(latents.device)
            weights[place] += ramp.to(latents.device)
            if on_tile is not None and on_tile(done, len(tiles)):
                return None
    return out.div_(weights)


@torch.no_grad()
def encode_tiled(vae: nn.Module, pictures: Tensor, on_tile: OnTile | None = None) -> Tensor | None:
    """The mean of the posterior, in tiles as large as those of `decode_tiled`.

    Args:
        pictures: `[B, 3, H, W]` in [-1, 1], sides in multiples of 8, on the device the autoencoder runs on.
        vae, on_tile: as in `decode_tiled`.
    Returns:
        `[B, C, H / 8, W / 8]` float32 in the autoencoder's own scale, or None when it was stopped.
    """
    size = (pictures.shape[-2] // 8, pictures.shape[-1] // 8)
    tiles = list(_tiles(*size))
    channels = vae.config.latent_channels
    out = torch.zeros(pictures.shape[0], channels, *size, device=pictures.device)
    weights = torch.zeros(1, 1, *size, device=pictures.device)
    with shared_encoder_statistics(vae, pictures) if len(tiles) > 1 else nullcontext():
        for done, (rows, columns) in enumerate(tiles, start=1):
            part = pictures[:, :, _scaled(rows, 8), _scaled(columns, 8)].to(vae.dtype)
            means = vae.encode(part.contiguous(memory_format=torch.channels_last)).latent_dist.mode()
            ramp = _weight(rows, size[0], 1)[:, None] * _weight(columns, size[1], 1)[None]
            out[..., rows, columns] += means.float() * ramp.to(pictures.device)
            weights[..., rows, columns] += ramp.to(pictures.device)
            if on_tile is not None and on_tile(done, len(tiles)):
                return None
    return out.div_(weights)


def enlarge_pixels(pictures: Tensor, size: tuple[int, int], sharpen: bool = False) -> Tensor:
    """Bicubic enlargement of `[B, 3, h, w]` in [-1, 1].

    Args:
        sharpen: then add what a 3 x 3 Gaussian blur of deviation 1 takes away (the authors draw its
            deviation anew for every picture, from 0.1 to 2).
    """
    large = F.interpolate(pictures, size=size, mode="bicubic", align_corners=False)
    if sharpen:
        line = torch.exp(-0.5 * torch.arange(-1.0, 2.0) ** 2).to(large)
        line = (line / line.sum()).expand(large.shape[1], 1, 1, 3)
        padded = F.pad(large, (1, 1, 1, 1), mode="replicate")
        across = F.conv2d(padded, line, groups=large.shape[1])
        large = 2 * large - F.conv2d(across, line.transpose(2, 3), groups=large.shape[1])
    return large.clamp(-1, 1)


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of each tile of a latent map."""
    tall, wide = min(TILE, height), min(TILE, width)
    for top, left in product(tile_starts(height), tile_starts(width)):
        yield slice(top, top + tall), slice(left, left + wide)


def _scaled(part: slice, factor: int) -> slice:
    return slice(part.start * factor, part.stop * factor)


def _weight(part: slice, length: int, factor: int) -> Tensor:
    """Weights of one axis of a tile: 1 inside, falling towards borders that have a neighbour.

    Args:
        part: the tile, and `length`: of the whole axis, both in units of which a latent has `factor`.
    """
    size, blend = part.stop - part.start, OVERLAP * factor
    position = torch.arange(size, dtype=torch.float32) + 0.5
    ramp = torch.ones(size)
    if part.start > 0:
        ramp = torch.minimum(ramp, position / blend)
    if part.stop < length:
        ramp = torch.minimum(ramp, (size - position) / blend)
    return ramp.clamp_min(1e-3)

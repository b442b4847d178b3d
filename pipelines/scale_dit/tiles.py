"""Where the tiles of a large decode lie. Free of torch: forecasts count them without loading it."""

import math

TILE, OVERLAP = 64, 8  # latents; 512 px and 64 px for an f8 autoencoder


def tile_starts(length: int, tile: int = TILE, overlap: int = OVERLAP) -> list[int]:
    """First latents of evenly spread tiles that cover `length` with at least `overlap` in common."""
    last = _count(length, tile, overlap) - 1
    return [round(index * (length - tile) / last) for index in range(last + 1)] if last else [0]


def count_tiles(height: int, width: int) -> int:
    """Tiles of a latent map of that size."""
    return _count(height, TILE, OVERLAP) * _count(width, TILE, OVERLAP)


def _count(length: int, tile: int, overlap: int) -> int:
    return max(1, math.ceil((length - overlap) / (tile - overlap)))

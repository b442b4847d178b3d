"""Where the tiles of a large decode lie. Free of torch: forecasts count them without loading it."""

import math

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

"""Pictures of any size to token strips and back, tile batch by tile batch."""

from collections.abc import Callable
from typing import Any

import torch
from PIL import Image

from pipelines.flextok.flow_sampler import FlowOptions
from pipelines.flextok.framing import (
    FITS,
    check_picture,
    cut_tiles,
    from_square,
    join_tiles,
    tile_grid,
)
from pipelines.flextok.pipeline_flextok import FlexTokPipeline, StepCallback
from pipelines.flextok.token_file import TokenPicture

BATCH = 8  # tiles at a time


def encode_strip(
    pipeline: FlexTokPipeline,
    picture: Image.Image,
    count: int,
    fit: str,
    model: str,
    on_tiles: Callable[[int, int], None] = lambda done, tiles: None,
) -> TokenPicture:
    """Tokens of a picture.

    Args:
        count: tokens per tile.
        fit: "letterbox" (the whole picture in one square), "crop" (its middle square) or "tiles" (as many
            squares as it takes at its own resolution, up to 64).
        model: name to note in the strip.
        on_tiles: called with (tiles done, tiles) before each batch and at the end.
    Raises:
        ValueError: a bad picture, count or fit.
    """
    if fit not in FITS:
        raise ValueError(f"fit is {fit!r}; allowed: {', '.join(FITS)}")
    check_picture(picture)
    size = (min(picture.size),) * 2 if fit == "crop" else picture.size
    grid = tile_grid(size, pipeline.side) if fit == "tiles" else None
    squares = cut_tiles(picture, grid) if grid else [picture]
    tiles: list[tuple[int, ...]] = []
    for first in range(0, len(squares), BATCH):
        on_tiles(first, len(squares))
        rows = pipeline.encode(squares[first : first + BATCH], count, "letterbox" if grid else fit)
        tiles += [tuple(row.tolist()) for row in rows]
    on_tiles(len(squares), len(squares))
    shape = (grid.columns, grid.rows) if grid else (1, 1)
    return TokenPicture(tuple(tiles), pipeline.levels, size[0], size[1], model, shape)


def decode_strip(
    pipeline: FlexTokPipeline,
    strip: TokenPicture,
    options: FlowOptions,
    seed: int = 0,
    full_size: bool = True,
    on_batch: Callable[[int, int, int], None] = lambda first, count, tiles: None,
    callback_on_step_end: StepCallback | None = None,
) -> Image.Image | None:
    """The picture of a strip; tile i has the noise of seed + i. None after a stop.

    Args:
        full_size: at the size of the encoded picture, else as the model makes it.
        on_batch: called with (first tile, tiles in the batch, tiles) before each batch.
        callback_on_step_end: as in `FlexTokPipeline.decode`.
    Raises:
        ValueError: tokens of another kind than this model's.
    """
    if strip.levels != pipeline.levels or strip.count > pipeline.num_tokens:
        raise ValueError(
            f"tokens of another kind (levels {list(strip.levels)}, {strip.count} per tile) than this model's "
            f"(levels {list(pipeline.levels)}, up to {pipeline.num_tokens})"
        )
    size, is_tiled = (strip.width, strip.height), strip.grid != (1, 1)
    grid = tile_grid(size, pipeline.side)
    if is_tiled and strip.grid != (grid.columns, grid.rows):
        raise ValueError(
            f"a picture of {size[0]}x{size[1]} has {grid.columns}x{grid.rows} tiles with this model; "
            f"the file has {strip.grid[0]}x{strip.grid[1]}"
        )
    squares: list[Any] = []
    for first in range(0, len(strip.tiles), BATCH):
        part = strip.tiles[first : first + BATCH]
        on_batch(first, len(part), len(strip.tiles))
        generators = [torch.Generator().manual_seed(seed + first + i) for i in range(len(part))]
        rows = [list(ids) for ids in part]
        latents = pipeline.sample_latents(rows, None, options, generators, None, callback_on_step_end)
        if pipeline.interrupt:
            return None
        squares += pipeline.postprocess(latents)
    return (
        join_tiles(squares, grid, size, full_size) if is_tiled else from_square(squares[0], size, full_size)
    )

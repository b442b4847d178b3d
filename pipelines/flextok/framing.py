"""Pictures of any size in a model's square: letterbox, crop, or a grid of tiles, and back.

All follows from the picture's size and the model's side alone, so a token file needs to keep only these.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

FITS = ("letterbox", "crop", "tiles")
MAX_PIXELS = 1 << 26  # 8192 x 8192
MAX_TILES = 64
MAX_ASPECT = 16  # a longer strip would leave a line of a few pixels


@dataclass(frozen=True)
class Box:
    """Part of a picture, in pixels."""

    left: int
    top: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """(left, top, right, bottom), as Pillow takes it."""
        return self.left, self.top, self.left + self.width, self.top + self.height


def check_picture(image: Image.Image) -> None:
    """Refuse pictures that are too large or too narrow; nothing is decoded for that.

    Raises:
        ValueError: says the size and what is allowed.
    """
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"the picture has {width}x{height} pixels; at most {MAX_PIXELS} (8192x8192) are allowed"
        )
    if not 1 / MAX_ASPECT <= width / max(height, 1) <= MAX_ASPECT:
        raise ValueError(f"the picture has {width}x{height} pixels; sides may differ by {MAX_ASPECT} times")


def open_picture(path: str | Path) -> Image.Image:
    """An RGB picture from a file, upright; its size is checked before its pixels are read.

    Raises:
        ValueError: no picture, a damaged one, or one that is too large or too narrow. OSError: not readable.
    """
    path = Path(path)
    try:
        with Image.open(path) as image:
            check_picture(image)
            return ImageOps.exif_transpose(image).convert("RGB")
    except (UnidentifiedImageError, SyntaxError) as error:
        raise ValueError(f"{path.name} is no picture that can be read") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path.name} has too many pixels: {error}") from error
    except (FileNotFoundError, PermissionError, IsADirectoryError):
        raise
    except OSError as error:
        raise ValueError(f"{path.name} is damaged: {error}") from error


def letterbox_box(size: tuple[int, int], side: int) -> Box:
    """Where a picture of `size` (width, height) lies in the square: as large as fits, in the middle."""
    scale = side / max(size)
    width, height = (max(1, round(value * scale)) for value in size)
    return Box((side - width) // 2, (side - height) // 2, width, height)


def to_square(image: Image.Image, side: int, fit: str = "letterbox") -> Image.Image:
    """An RGB square of `side` pixels.

    Args:
        fit: "letterbox" keeps everything and continues the border pixels into the bars; "crop" takes the
            middle square, as the published tokenizers were trained.
    """
    image = image.convert("RGB")
    if fit == "crop":
        short = min(image.size)
        left, top = (image.width - short) // 2, (image.height - short) // 2
        return _resized(image.crop((left, top, left + short, top + short)), (side, side))
    if fit != "letterbox":
        raise ValueError(f"fit is {fit!r}; one square is made by letterbox or crop")
    box = letterbox_box(image.size, side)
    inner = np.asarray(_resized(image, (box.width, box.height)))
    before = (box.top, box.left)
    after = (side - box.top - box.height, side - box.left - box.width)
    pads = [(first, last) for first, last in zip(before, after, strict=True)]
    return Image.fromarray(np.pad(inner, (*pads, (0, 0)), mode="edge"))


def from_square(square: Image.Image, size: tuple[int, int], full_size: bool = True) -> Image.Image:
    """The picture inside a letterboxed square, at its own size or as the model made it."""
    inner = square.crop(letterbox_box(size, square.width).corners)
    return _resized(inner, size) if full_size else inner


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    grows = size[0] > image.width
    return image.resize(size, Image.Resampling.BICUBIC if grows else Image.Resampling.BILINEAR)


@dataclass(frozen=True)
class TileGrid:
    """Overlapping squares over a picture.

    Attributes:
        canvas: (width, height) of the picture when its tiles are `side` pixels.
        columns, rows: how many. boxes: row by row, in the canvas.
    """

    side: int
    canvas: tuple[int, int]
    columns: int
    rows: int

    @property
    def boxes(self) -> tuple[Box, ...]:
        lefts, tops = (_starts(n, length, self.side) for n, length in self._axes())
        return tuple(Box(left, top, self.side, self.side) for top in tops for left in lefts)

    def _axes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        return (self.columns, self.canvas[0]), (self.rows, self.canvas[1])


def _starts(count: int, length: int, side: int) -> list[int]:
    return [round(i * (length - side) / max(count - 1, 1)) for i in range(count)]


def tile_grid(size: tuple[int, int], side: int) -> TileGrid:
    """Tiles of a picture: as few squares of the model's side as cover it at its own resolution.

    Pictures smaller than the side are enlarged to it; those that would need over 64 tiles are shrunk.
    """
    scale = max(1.0, side / min(size))
    while True:
        canvas = (max(side, round(size[0] * scale)), max(side, round(size[1] * scale)))
        columns, rows = (math.ceil(length / side) for length in canvas)
        if columns * rows <= MAX_TILES:
            return TileGrid(side, canvas, columns, rows)
        scale *= 0.98


def cut_tiles(image: Image.Image, grid: TileGrid) -> list[Image.Image]:
    """The RGB squares of a picture."""
    canvas = _resized(image.convert("RGB"), grid.canvas)
    return [canvas.crop(box.corners) for box in grid.boxes]


def join_tiles(
    tiles: Sequence[Image.Image], grid: TileGrid, size: tuple[int, int], full_size: bool = True
) -> Image.Image:
    """The picture from its squares; where they overlap, each fades towards its border."""
    total = np.zeros((grid.canvas[1], grid.canvas[0], 3), np.float32)
    weights = np.zeros((grid.canvas[1], grid.canvas[0], 1), np.float32)
    place = np.arange(grid.side, dtype=np.float32)
    ramp = np.minimum(place + 1, grid.side - place)
    window = (ramp[:, None] * ramp)[..., None]
    for tile, box in zip(tiles, grid.boxes, strict=True):
        left, top, right, bottom = box.corners
        total[top:bottom, left:right] += np.asarray(tile, np.float32) * window
        weights[top:bottom, left:right] += window
    joined = Image.fromarray((total / weights).round().astype(np.uint8))
    return _resized(joined, size) if full_size else joined

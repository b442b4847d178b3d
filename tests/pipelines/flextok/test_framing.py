"""Pictures of any size in a square and back; tiles; what is refused before it is read."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipelines.flextok.framing import (
    MAX_TILES,
    check_picture,
    cut_tiles,
    from_square,
    join_tiles,
    letterbox_box,
    open_picture,
    tile_grid,
    to_square,
)

SIZES = st.tuples(st.integers(1, 400), st.integers(1, 400))


def smooth(width, height):
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], -1).astype(np.uint8))


def difference(first, second):
    return np.abs(np.asarray(first, float) - np.asarray(second, float)).mean()


@given(SIZES, st.sampled_from([64, 128, 256]))
def test_the_letterbox_fills_one_axis_and_lies_inside(size, side):
    box = letterbox_box(size, side)
    assert max(box.width, box.height) == side
    assert box.left >= 0 and box.top >= 0
    assert box.left + box.width <= side and box.top + box.height <= side
    assert abs(2 * box.left + box.width - side) <= 1 and abs(2 * box.top + box.height - side) <= 1


@pytest.mark.parametrize("size", [(64, 64), (200, 100), (33, 60), (20, 20)])
def test_a_picture_comes_back_from_its_letterbox(size):
    picture = smooth(*size)
    square = to_square(picture, 64)
    assert square.size == (64, 64)
    assert from_square(square, size).size == size
    assert difference(from_square(square, size), picture) < 3
    box = letterbox_box(size, 64)
    assert from_square(square, size, full_size=False).size == (box.width, box.height)


def test_bars_continue_the_border():
    square = np.asarray(to_square(smooth(64, 16), 64))
    assert (square[0] == square[24]).all() and (square[63] == square[39]).all()
    assert not (square[24] == square[39]).all()


def test_cropping_takes_the_middle():
    picture = Image.new("RGB", (100, 40), "red")
    picture.paste("blue", (30, 0, 70, 40))
    assert np.asarray(to_square(picture, 40, "crop")).reshape(-1, 3).std(0).max() == 0
    with pytest.raises(ValueError, match="stretch"):
        to_square(picture, 40, "stretch")


@given(SIZES, st.sampled_from([32, 64]))
def test_tiles_cover_the_canvas(size, side):
    grid = tile_grid(size, side)
    covered = np.zeros(grid.canvas[::-1], bool)
    for box in grid.boxes:
        assert 0 <= box.left <= grid.canvas[0] - side and 0 <= box.top <= grid.canvas[1] - side
        covered[box.top : box.top + side, box.left : box.left + side] = True
    assert covered.all() and len(grid.boxes) == grid.columns * grid.rows <= MAX_TILES
    assert min(grid.canvas) >= side


@pytest.mark.parametrize("size", [(64, 64), (150, 90), (65, 64), (20, 100)])
def test_a_picture_comes_back_from_its_tiles(size):
    picture, grid = smooth(*size), tile_grid(size, 64)
    tiles = cut_tiles(picture, grid)
    assert all(tile.size == (64, 64) for tile in tiles)
    back = join_tiles(tiles, grid, size)
    assert back.size == size and difference(back, picture) < 2
    assert join_tiles(tiles, grid, size, full_size=False).size == grid.canvas


def test_very_large_pictures_get_at_most_64_tiles():
    grid = tile_grid((8192, 4096), 128)
    assert grid.columns * grid.rows <= MAX_TILES and grid.columns == 2 * grid.rows - grid.columns % 2


@pytest.mark.parametrize("size", [(20_000, 20_000), (8193, 8193), (4000, 200), (1, 17)])
def test_too_large_and_too_narrow_pictures_are_refused(size):
    class Header:  # stands for a picture whose pixels must not be asked for
        def __init__(self, size):
            self.size = size

    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]}"):
        check_picture(Header(size))


def png(width, height, rows=b""):
    """A PNG file that says a size and holds hardly any pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def test_files_are_checked_before_their_pixels_are_read(tmp_path):
    path = tmp_path / "huge.png"
    path.write_bytes(png(20_000, 20_000))
    with pytest.raises(ValueError, match="20000x20000|too many pixels"):
        open_picture(path)
    path.write_bytes(png(8_500, 8_200))
    with pytest.raises(ValueError, match="8500x8200"):
        open_picture(path)


def test_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="no picture"):
        open_picture(path)
    smooth(64, 64).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="damaged|no picture"):
        open_picture(path)
    with pytest.raises(FileNotFoundError):
        open_picture(tmp_path / "missing.png")
    smooth(30, 20).convert("P").save(path)
    assert open_picture(path).mode == "RGB"

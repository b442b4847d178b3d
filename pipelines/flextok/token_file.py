"""The `.fxtk` file: a picture as 2 bytes per token.

Little-endian: magic `FXTK`, u8 version (1), u8 flags, u8 n, n x u8 levels, u16 width, u16 height, u16 length
and UTF-8 name of the model, u16 count k; with flag 2: u8 columns, u8 rows; the u16 ids; with flag 1: crc32 of
all bytes before, as u32. Ids go token by token, all tiles of the first token first: cutting the ids after any
token (and setting k) leaves a valid, coarser picture.
"""

import math
import os
import struct
import tempfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path

MAGIC, VERSION = b"FXTK", 1
HAS_CRC, HAS_TILES = 1, 2
MAX_TOKENS = 256
MAX_SIDE = 65_535
MAX_FILE_BYTES = 1 << 26


@dataclass(frozen=True)
class TokenPicture:
    """A picture, or a grid of tiles of one, as ordered token ids.

    Attributes:
        tiles: ids of each tile, row by row; one tile for a whole picture. All have the same length, 1 to 256.
        levels: of the quantiser; ids are below their product.
        width, height: of the picture the tokens stand for, in pixels.
        model: name of the tokenizer that made them.
        grid: columns and rows of tiles.
    """

    tiles: tuple[tuple[int, ...], ...]
    levels: tuple[int, ...]
    width: int
    height: int
    model: str = ""
    grid: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        _check_levels(self.levels)
        lengths = {len(ids) for ids in self.tiles}
        if len(lengths) != 1 or not 1 <= min(lengths) <= MAX_TOKENS:
            raise ValueError(
                f"token counts {sorted(lengths)}; allowed: 1 to {MAX_TOKENS}, the same in every tile"
            )
        columns, rows = self.grid
        if not (1 <= columns <= 255 and 1 <= rows <= 255) or columns * rows != len(self.tiles):
            raise ValueError(
                f"{len(self.tiles)} tiles in a grid of {columns}x{rows}; allowed: 1 to 255 per side"
            )
        if not (1 <= self.width <= MAX_SIDE and 1 <= self.height <= MAX_SIDE):
            raise ValueError(f"size {self.width}x{self.height}; allowed: 1 to {MAX_SIDE} per side")
        if len(self.model.encode()) > MAX_SIDE:
            raise ValueError("the model's name is longer than 65535 bytes")
        highest = math.prod(self.levels) - 1
        wrong = next(
            (i for ids in self.tiles for i in ids if type(i) is not int or not 0 <= i <= highest), None
        )
        if wrong is not None:
            raise ValueError(f"token id {wrong!r}; levels {list(self.levels)} allow 0 to {highest}")

    @property
    def count(self) -> int:
        """Tokens per tile."""
        return len(self.tiles[0])

    @property
    def payload_bytes(self) -> int:
        """Bytes of the ids alone."""
        return 2 * self.count * len(self.tiles)

    def keep(self, count: int) -> "TokenPicture":
        """The same picture, coarser: its first `count` tokens.

        Raises:
            ValueError: not between 1 and the number of tokens there are.
        """
        if not 1 <= count <= self.count:
            raise ValueError(f"{count} tokens were asked for; this picture has 1 to {self.count}")
        return replace(self, tiles=tuple(ids[:count] for ids in self.tiles))

    def to_bytes(self, has_crc: bool = True) -> bytes:
        """The file's content."""
        is_tiled = self.grid != (1, 1)
        name = self.model.encode()
        parts = [
            MAGIC,
            struct.pack("<BBB", VERSION, HAS_CRC * has_crc | HAS_TILES * is_tiled, len(self.levels)),
            bytes(self.levels),
            struct.pack("<HHH", self.width, self.height, len(name)),
            name,
            struct.pack("<H", self.count),
            struct.pack("<BB", *self.grid) if is_tiled else b"",
        ]
        ids = [tile[place] for place in range(self.count) for tile in self.tiles]
        parts.append(struct.pack(f"<{len(ids)}H", *ids))
        data = b"".join(parts)
        return data + struct.pack("<I", zlib.crc32(data)) if has_crc else data

    @classmethod
    def from_bytes(cls, data: bytes) -> "TokenPicture":
        """Read a file's content.

        Raises:
            ValueError: not such a file, cut short, with bytes left over, with a wrong checksum, or with
                values out of range.
        """
        reader = _Reader(data)
        if reader.take(4, "magic") != MAGIC:
            raise ValueError("this is no token file: it doesn't begin with FXTK")
        version, flags, num_levels = reader.unpack("<BBB", "header")
        if version != VERSION:
            raise ValueError(f"the token file has version {version}; this program reads version {VERSION}")
        if flags & ~(HAS_CRC | HAS_TILES):
            raise ValueError(f"the token file has unknown flags ({flags:#04x})")
        if flags & HAS_CRC:
            reader.check_crc()
        levels = tuple(reader.take(num_levels, "levels"))
        _check_levels(levels)
        width, height, name_length = reader.unpack("<HHH", "size")
        try:
            name = reader.take(name_length, "model name").decode()
        except UnicodeDecodeError as error:
            raise ValueError("the token file's model name is not UTF-8") from error
        (count,) = reader.unpack("<H", "token count")
        if not 1 <= count <= MAX_TOKENS:
            raise ValueError(f"the token file says {count} tokens; allowed: 1 to {MAX_TOKENS}")
        columns, rows = reader.unpack("<BB", "grid") if flags & HAS_TILES else (1, 1)
        ids = reader.unpack(f"<{count * columns * rows}H", "token ids")
        reader.finish()
        tiles = tuple(ids[tile :: columns * rows] for tile in range(columns * rows))
        return cls(tiles, levels, width, height, name, (columns, rows))

    @classmethod
    def read(cls, path: str | Path) -> "TokenPicture":
        """Read a file.

        Raises:
            ValueError: see `from_bytes`. OSError: it can't be read.
        """
        path = Path(path)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, too many for a token file")
        return cls.from_bytes(path.read_bytes())

    def write(self, path: str | Path) -> None:
        """Write a file with a checksum, under a temporary name first."""
        path = Path(path)
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(self.to_bytes())
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise


def _check_levels(levels: tuple[int, ...]) -> None:
    fits = 1 <= len(levels) <= 255 and all(type(n) is int and 2 <= n <= 255 for n in levels)
    if not fits or math.prod(levels) > 1 << 16:
        raise ValueError(f"levels {list(levels)}; allowed: each 2 to 255, at most 65536 codes in all")


class _Reader:
    """Takes bytes from the front; says what is missing when they end."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, count: int, what: str) -> bytes:
        if len(self.data) - self.at < count:
            raise ValueError(f"the token file is cut short: its {what} is missing or incomplete")
        self.at += count
        return self.data[self.at - count : self.at]

    def unpack(self, form: str, what: str) -> tuple[int, ...]:
        return struct.unpack(form, self.take(struct.calcsize(form), what))

    def check_crc(self) -> None:
        """Compare the checksum in the last four bytes, and leave them out from then on."""
        body, crc = self.data[:-4], self.data[-4:]
        self.data = body
        self.intact = len(crc) == 4 and struct.unpack("<I", crc)[0] == zlib.crc32(body)

    def finish(self) -> None:
        if self.at != len(self.data):
            raise ValueError(f"the token file has {len(self.data) - self.at} bytes too many")
        if not getattr(self, "intact", True):
            raise ValueError("the token file is damaged: its checksum is wrong")

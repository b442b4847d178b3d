"""The token file: its bytes, round trips, truncation, damage."""

import struct
import zlib
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.flextok.strips import mix, splice
from pipelines.flextok.token_file import TokenPicture

STRIP = TokenPicture(((7, 999, 0, 12),), (8, 5, 5, 5), 640, 480, "größe")


def with_crc(body):
    return body + struct.pack("<I", zlib.crc32(body))


def test_bytes_are_as_described():
    name = "größe".encode()
    body = (
        b"FXTK" + bytes([1, 1, 4, 8, 5, 5, 5]) + struct.pack("<HHH", 640, 480, len(name)) + name
        + struct.pack("<H", 4) + struct.pack("<4H", 7, 999, 0, 12)
    )  # fmt: skip
    assert STRIP.to_bytes() == with_crc(body)
    assert STRIP.to_bytes(has_crc=False) == body[:5] + b"\0" + body[6:]
    assert STRIP.payload_bytes == 8 and STRIP.count == 4


@settings(max_examples=40)
@given(st.integers(1, 256), st.integers(1, 65_535), st.text(max_size=8), st.booleans())
def test_round_trip(count, side, name, has_crc):
    ids = tuple(Random(count).choices(range(64_000), k=count))
    strip = TokenPicture((ids,), (8, 8, 8, 5, 5, 5), side, 65_536 - side, name)
    assert TokenPicture.from_bytes(strip.to_bytes(has_crc)) == strip


def test_tiles_go_token_by_token_and_survive_the_round_trip():
    strip = TokenPicture(((1, 2), (3, 4), (5, 6)), (8, 5, 5), 300, 100, "m", (3, 1))
    data = strip.to_bytes()
    assert struct.pack("<H", 2) + bytes([3, 1]) + struct.pack("<6H", 1, 3, 5, 2, 4, 6) in data
    assert TokenPicture.from_bytes(data) == strip
    assert strip.keep(1).tiles == ((1,), (3,), (5,))


def test_cutting_ids_and_patching_the_count_gives_a_coarser_picture():
    data = STRIP.to_bytes(has_crc=False)
    at = len(data) - 2 * STRIP.count
    for count in range(1, STRIP.count + 1):
        patched = data[: at - 2] + struct.pack("<H", count) + data[at : at + 2 * count]
        assert TokenPicture.from_bytes(patched) == STRIP.keep(count)
        assert STRIP.keep(count).to_bytes(has_crc=False) == patched


def test_every_truncation_is_refused():
    for data in (STRIP.to_bytes(), STRIP.to_bytes(has_crc=False)):
        for length in range(len(data)):
            with pytest.raises(ValueError, match="cut short|begin with FXTK|damaged|too many"):
                TokenPicture.from_bytes(data[:length])


def test_every_flipped_byte_is_noticed():
    data = STRIP.to_bytes()
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 1 << (place % 8)
        if place == 5 and not broken[5] & 1:
            continue  # the flag that says there is a checksum: its four bytes are too many then
        with pytest.raises(ValueError):
            TokenPicture.from_bytes(bytes(broken))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"PNG!" + d[4:], "FXTK"),
        (lambda d: d[:4] + b"\x02" + d[5:], "version 2"),
        (lambda d: d[:5] + b"\x08" + d[6:], "unknown flags"),
        (lambda d: d + b"x", "too many"),
        (lambda d: d[:-10] + struct.pack("<H", 0), "0 tokens"),
        (lambda d: d[:-10] + struct.pack("<H", 257) + bytes(514), "257 tokens"),
        (lambda d: d[:-2] + struct.pack("<H", 1000), "token id 1000"),
        (lambda d: d[:7] + b"\x01" + d[8:], "levels"),
        (lambda d: d.replace(struct.pack("<HH", 640, 480), struct.pack("<HH", 0, 480)), "0x480"),
        (lambda d: d.replace("größe".encode(), b"gr\xff\xff\xff\xff\xffe"[: len("größe".encode())]), "UTF-8"),
    ],
)
def test_damaged_contents_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TokenPicture.from_bytes(change(STRIP.to_bytes(has_crc=False)))


def test_a_wrong_checksum_is_named():
    data = STRIP.to_bytes()
    with pytest.raises(ValueError, match="checksum is wrong"):
        TokenPicture.from_bytes(data[:-1] + bytes([data[-1] ^ 1]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tiles": ((),)}, "1 to 256"),
        ({"tiles": ((0,) * 257,)}, "1 to 256"),
        ({"tiles": ((1000,),)}, "token id 1000"),
        ({"tiles": ((-1,),)}, "token id -1"),
        ({"tiles": ((1, 2), (3,)), "grid": (2, 1)}, "the same in every tile"),
        ({"grid": (2, 2)}, "1 tiles"),
        ({"width": 0}, "0x480"),
        ({"height": 70_000}, "640x70000"),
        ({"levels": (300, 300)}, "levels"),
        ({"levels": ()}, "levels"),
        ({"model": "x" * 70_000}, "65535"),
    ],
)
def test_impossible_strips_are_refused(fields, message):
    base = {"tiles": ((7,),), "levels": (8, 5, 5, 5), "width": 640, "height": 480}
    with pytest.raises(ValueError, match=message):
        TokenPicture(**{**base, **fields})


@pytest.mark.parametrize("count", [0, 5, 257])
def test_only_tokens_that_are_there_can_be_kept(count):
    with pytest.raises(ValueError, match="1 to 4"):
        STRIP.keep(count)


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "picture.fxtk"
    STRIP.write(path)
    assert TokenPicture.read(path) == STRIP and [p.name for p in tmp_path.iterdir()] == ["picture.fxtk"]
    monkeypatch.setattr(TokenPicture, "to_bytes", lambda self: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        STRIP.keep(1).write(path)
    monkeypatch.undo()
    assert TokenPicture.read(path) == STRIP and [p.name for p in tmp_path.iterdir()] == ["picture.fxtk"]
    with pytest.raises(FileNotFoundError):
        TokenPicture.read(tmp_path / "missing.fxtk")


def test_huge_files_are_not_read(tmp_path):
    path = tmp_path / "huge.fxtk"
    with path.open("wb") as file:
        file.truncate(1 << 27)
    with pytest.raises(ValueError, match="too many for a token file"):
        TokenPicture.read(path)


# two strips


def strip(ids, **fields):
    return TokenPicture((tuple(ids),), (8, 5, 5, 5), **{"width": 10, "height": 20, "model": "m", **fields})


def test_strips_are_spliced_and_mixed():
    first, second = strip([1, 2, 3]), strip([11, 12, 13, 14], width=99)
    assert splice(first, second, 2).tiles == ((1, 2, 13, 14),)
    assert splice(first, second, 0).tiles == ((11, 12, 13, 14),)
    assert splice(first, second, 3).tiles == ((1, 2, 3, 14),)
    assert splice(first, second, 2).width == 10
    assert mix(first, second, [0, 2]).tiles == ((11, 2, 13),)
    assert mix(first, second, []) == first


def test_strips_that_do_not_fit_together_are_refused():
    first = strip([1, 2, 3])
    for other, message in (
        (strip([1], model="other"), "model"),
        (TokenPicture(((1,),), (8, 5, 5), 10, 20, "m"), "levels"),
        (TokenPicture(((1,), (2,)), (8, 5, 5, 5), 10, 20, "m", (2, 1)), "grid"),
    ):
        with pytest.raises(ValueError, match=message):
            splice(first, other, 1)
    for cut in (-1, 4):
        with pytest.raises(ValueError, match="cut is"):
            splice(first, strip([1, 2, 3]), cut)
    with pytest.raises(ValueError, match="places"):
        mix(first, strip([1, 2]), [2])

"""Recipes survive the file, mark it as made by a model, and hostile ones are refused in one line."""

import base64
import io
import json
import random
import struct
import time
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from studio.errors import StudioError
from studio.gallery.encoding import write_picture
from studio.recipes import Recipe, open_picture, parameters_line, pixel_hash, read_recipe
from studio.requests import ImageRequest
from tests.studio.painters import draw

PROMPT = 'a "red" cat, caf\u00e9 \u732b \U0001f408\nsecond line'


def recipe_of(image: Image.Image, prompt: str = PROMPT) -> Recipe:
    return Recipe(
        request=ImageRequest(prompt, *image.size, seed=7, model="storybook-flux", style="Night"),
        prompt=ImageRequest(prompt + " under a night sky").prompt if len(prompt) < 19_000 else prompt,
        steps=8,
        pixels_sha256=pixel_hash(image),
        versions={"python": "3.11.1", "torch": "2.13.0"},
        backend="explicit",
        dtype="float32",
        device="cpu",
        stages=((256, 256), (1024, 1024)),
        seconds={"load": 0.5, "paint": 12.25},
        created=1_780_000_000.5,
        model_sha256="0" * 64,
        warnings=("One.",),
        unknown_words=("astronaut",),
    )


@pytest.fixture
def image() -> Image.Image:
    return draw("x", 128, 96, 1, 4, b"")


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG"])
def test_recipe_comes_back_whole_from_every_format(kind: str, image: Image.Image, tmp_path: Path) -> None:
    recipe = recipe_of(image)
    path = tmp_path / "picture"
    with open(path, "wb") as file:
        assert write_picture(image, recipe, file, kind) == ""
    assert read_recipe(path) == recipe
    data = path.read_bytes()
    assert b"digitalsourcetype/trainedAlgorithmicMedia" in data
    with Image.open(path) as stored:
        assert stored.format == kind
        if kind != "JPEG":
            assert pixel_hash(stored.convert("RGB")) == recipe.pixels_sha256


def test_other_studios_find_their_settings_line(image: Image.Image) -> None:
    recipe = recipe_of(image)
    line = parameters_line(recipe)
    assert line.splitlines()[-1] == (
        "Steps: 8, Sampler: Euler, CFG scale: 1, Seed: 7, Size: 128x96, Model: storybook-flux, "
        "Version: Tessera Studio"
    )
    png, jpeg = io.BytesIO(), io.BytesIO()
    write_picture(image, recipe, png)
    write_picture(image, recipe, jpeg, "JPEG")
    assert Image.open(png).info["parameters"] == line
    comment = Image.open(jpeg).getexif().get_ifd(0x8769)[0x9286]
    assert comment == b"UNICODE\0" + line.encode("utf-16-be")


def test_a_recipe_too_long_for_jpeg_is_left_out_aloud(image: Image.Image) -> None:
    # characters drawn at random from 40,000 hardly compress
    drawn = random.Random(0)
    prompt = "".join(chr(0x20000 + drawn.randrange(40_000)) for _ in range(20_000))
    recipe = recipe_of(image, prompt)
    for kind, lost in (("PNG", False), ("WEBP", False), ("JPEG", True)):
        file = io.BytesIO()
        remark = write_picture(image, recipe, file, kind)
        assert ("too long for a JPEG" in remark) is lost
        file.seek(0)
        if lost:
            with pytest.raises(StudioError, match="carries no recipe"):
                read_recipe(file)
        else:
            assert read_recipe(file) == recipe


def test_pixel_hash_sees_size_mode_and_every_pixel(image: Image.Image) -> None:
    changed = image.copy()
    changed.putpixel((127, 95), (1, 2, 3))
    flat = Image.new("RGB", (64, 192))
    hashes = {
        pixel_hash(picture)
        for picture in (image, changed, flat, Image.new("RGB", (192, 64)), Image.new("L", (64, 576)))
    }
    assert len(hashes) == 5 and pixel_hash(image.copy()) == pixel_hash(image)


def png_with(text: str, key: str = "tessera", compressed: bool = False) -> io.BytesIO:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(key, text, zip=compressed)
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "PNG", pnginfo=info)
    file.seek(0)
    return file


def changed(image: Image.Image, **changes: Any) -> str:
    return json.dumps({**recipe_of(image).to_json(), **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "recipe: given schema 2, allowed 1."),
        ({"request": []}, "request: given [], allowed an object with named fields."),
        (
            {"request": {"prompt": "a", "width": -1}},
            "width: given -1, allowed multiples of 16 from 64 to 16384.",
        ),
        ({"request": {"prompt": "a" * 10**5}}, "prompt: given 100,000 characters, allowed 1 to 20,000."),
        ({"request": {"prompt": "a", "model": "/etc/passwd"}}, "model: given '/etc/passwd', allowed a name"),
        ({"steps": 10**9}, "recipe: steps is 1000000000, allowed whole numbers from 1 to 10000."),
        ({"steps": True}, "recipe: steps is True, allowed"),
        ({"pixels_sha256": "zz"}, "recipe: pixels_sha256 is 'zz', allowed 64 hexadecimal digits."),
        ({"versions": {"torch": 2}}, "recipe: versions is 2, allowed text"),
        ({"seconds": {"paint": -1}}, "recipe: seconds is -1, allowed a number from 0 to 1e12."),
        ({"created": float("nan")}, "recipe: created is nan, allowed a number from 0 to 1e12."),
        ({"created": 10**400}, "recipe: created is an integer of more than 38 digits, allowed a number"),
        ({"stages": [[1, 2, 3]]}, "recipe: stages is [1, 2, 3], allowed two sides in pixels."),
        ({"warnings": ["x" * 2000]}, "recipe: warnings is 'xxxx"),
    ],
)
def test_hostile_fields_are_refused_by_name(
    changes: dict[str, Any], message: str, image: Image.Image
) -> None:
    with pytest.raises(StudioError) as refused:
        read_recipe(png_with(changed(image, **changes)))
    assert refused.value.message.startswith(message) and refused.value.exit_code == 2
    assert len(refused.value.message) < 250


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "null",
        '{"schema": NaN}',
        "[" * 10**5,
        '{"schema":1,"request":{"prompt":"a","seed":1e400}}',
        "x" * 600_000,
    ],
    ids=["cut", "list", "null", "nan", "deep", "infinite", "long"],
)
def test_hostile_json_is_one_line_in_bounded_time(text: str) -> None:
    began = time.perf_counter()
    with pytest.raises(StudioError) as refused:
        read_recipe(png_with(text))
    assert refused.value.kind == "bad_input" and time.perf_counter() - began < 0.5


def test_hostile_files_are_one_line(tmp_path: Path, image: Image.Image) -> None:
    bomb = zlib.compress(b"a" * (20 << 20), 9)
    packet = f'<x tessera:Recipe="{base64.b64encode(bomb).decode()}"/>'.encode()
    webp = io.BytesIO()
    image.save(webp, "WEBP", xmp=packet)
    whole = io.BytesIO()
    write_picture(image, recipe_of(image), whole)
    files = {
        "text": b"hello",
        "empty": b"",
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        "gif": b"GIF89a" + b"\0" * 40,
        "cut.png": whole.getvalue()[:60],
        "huge.png": _png_header(30_000, 30_000),
        "no-recipe.png": png_with("{}", key="other").getvalue(),
        "text-bomb.png": png_with("a" * (3 << 20), compressed=True).getvalue(),
        "packed-bomb.webp": webp.getvalue(),
    }
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(StudioError) as refused:
            read_recipe(path)
        assert refused.value.exit_code == 2, name
        assert str(tmp_path) not in refused.value.message
    with pytest.raises(StudioError, match="no such picture file"):
        read_recipe(tmp_path / "absent.png")


def test_a_packed_bomb_is_not_unpacked(image: Image.Image) -> None:
    bomb = base64.b64encode(zlib.compress(b"a" * (100 << 20), 9)).decode()
    webp = io.BytesIO()
    image.save(webp, "WEBP", xmp=f'<x tessera:Recipe="{bomb}"/>'.encode())
    tracemalloc.start()
    try:
        with pytest.raises(StudioError, match="can't be unpacked"):
            read_recipe(webp)
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + _EMPTY_DATA
    )


_EMPTY_DATA = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def test_too_many_pixels_are_refused_before_decoding(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    path.write_bytes(_png_header(12_000, 12_000))
    with pytest.raises(StudioError, match=r"has 12000x12000 pixels, allowed up to 67 megapixels") as refused:
        open_picture(path)
    assert refused.value.kind == "too_large"


def test_shown_texts_lose_control_characters(image: Image.Image) -> None:
    data = recipe_of(image).to_json() | {"backend": "a\x1b[31m\nb"}
    assert Recipe.from_json(data).backend == "a [31m b"
    assert replace(recipe_of(image), warnings=()).to_json()["warnings"] == []

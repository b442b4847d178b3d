"""Pictures to bytes: PNG fast and whole, JPEG and WebP for the shell, small copies for the page."""

from __future__ import annotations

import io
import zlib
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from studio.checks import shown
from studio.errors import StudioError
from studio.recipes import Recipe, parameters_line, png_metadata, xmp_packet

THUMBNAIL_PX = 512
# larger pictures get a JPEG copy: a viewer opens 4096 x 4096 as one file of a few MB instead of 40
ZOOM_FROM_PX = 1024
PREVIEW_PX = 384
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
_WEBP_MAX_PX = 16_383
_JPEG_SEGMENT_BYTES = 65_000
_USER_COMMENT = 0x9286
_EXIF_IFD = 0x8769


def picture_format(path: Path) -> str:
    """Pillow's name of the format `path` asks for.

    Raises:
        StudioError: an extension other than .png, .jpg, .jpeg, .webp.
    """
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        raise StudioError(
            "bad_input", f"out: given {shown(path.name)}, allowed names ending in {', '.join(FORMATS)}."
        )
    return found


def write_picture(image: Image.Image, recipe: Recipe, file: BinaryIO, kind: str = "PNG") -> str:
    """Write `image` with its recipe to `file`.

    Args:
        image: RGB.
        recipe: Goes into the file's metadata.
        file: Open for writing.
        kind: "PNG" (lossless), "JPEG" (quality 95, full chroma) or "WEBP" (lossless).
    Returns:
        "" or a sentence when the format has no room for the recipe.
    """
    if kind == "PNG":
        # the default level takes many times as long; run lengths beat level 1 alone in size and time
        image.save(file, "PNG", compress_level=1, compress_type=zlib.Z_RLE, pnginfo=png_metadata(recipe))
        return ""
    packet = xmp_packet(recipe, whole=True)
    lost = ""
    if kind == "JPEG" and len(packet) > _JPEG_SEGMENT_BYTES:
        packet = xmp_packet(recipe, whole=False)
        lost = "The recipe is too long for a JPEG file and was left out; use .png to keep it."
    exif = _exif(recipe)
    if kind == "JPEG":
        image.save(file, "JPEG", quality=95, subsampling=0, xmp=packet, exif=exif)
    else:
        if max(image.size) > _WEBP_MAX_PX:
            raise StudioError(
                "bad_input", f"out: a WebP file holds at most {_WEBP_MAX_PX} pixels per side, use .png."
            )
        # lossless "quality" is effort: 0 takes 2 s at 4096 x 4096 where the default takes up to a minute
        image.save(file, "WEBP", lossless=True, method=0, quality=0, xmp=packet, exif=exif)
    return lost


def write_plain(image: Image.Image, file: BinaryIO, kind: str = "PNG") -> None:
    """Write `image` without a recipe; formats and qualities as for `write_picture`."""
    options: dict[str, dict[str, Any]] = {
        "PNG": {"compress_level": 6},
        "JPEG": {"quality": 95, "subsampling": 0},
        "WEBP": {"lossless": True},
    }
    image.save(file, kind, **options[kind])


def _exif(recipe: Recipe) -> bytes:
    """The settings line as UserComment, where other studios look for it in JPEG and WebP files."""
    exif = Image.Exif()
    comment = b"UNICODE\0" + parameters_line(recipe).encode("utf-16-be", "replace")
    if len(comment) < _JPEG_SEGMENT_BYTES:
        exif.get_ifd(_EXIF_IFD)[_USER_COMMENT] = comment
    return exif.tobytes()


def thumbnail(image: Image.Image, size_px: int = THUMBNAIL_PX) -> Image.Image:
    """A copy of at most `size_px` per side; never larger than the picture."""
    small = (
        image.convert("RGB") if image.mode != "RGB" else image.copy() if max(image.size) <= size_px else image
    )
    if small is image:
        # reducing by whole factors first makes 4096 x 4096 several times faster at the same look
        factor = max(1, max(image.size) // (2 * size_px))
        small = image.reduce(factor) if factor > 1 else image.copy()
    small.thumbnail((size_px, size_px), Image.Resampling.LANCZOS)
    return small


def write_thumbnail(image: Image.Image, file: BinaryIO) -> None:
    """Write the gallery's small WebP copy."""
    thumbnail(image).save(file, "WEBP", quality=82, method=2)


def thumbnail_bytes(image: Image.Image) -> bytes:
    """The small WebP copy."""
    buffer = io.BytesIO()
    write_thumbnail(image, buffer)
    return buffer.getvalue()


def needs_zoom(width: int, height: int) -> bool:
    """Whether a picture of this size gets a copy for the deep-zoom viewer."""
    return max(width, height) > ZOOM_FROM_PX


def write_zoom(image: Image.Image, file: BinaryIO) -> None:
    """Write the copy the deep-zoom viewer opens: full size, JPEG quality 92, full chroma."""
    image.save(file, "JPEG", quality=92, subsampling=0)


def preview_jpeg(image: Image.Image) -> bytes:
    """A small JPEG for the page to show while painting goes on."""
    buffer = io.BytesIO()
    thumbnail(image, PREVIEW_PX).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()

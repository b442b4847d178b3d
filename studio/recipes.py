"""The recipe a picture carries inside its file: what was asked, what painted it, and the hash of its pixels.

PNG: an iTXt chunk "tessera" with JSON, a `parameters` line other programs read, and an XMP packet that marks
the picture as made by a trained model. JPEG and WebP: the XMP packet also holds the recipe, compressed.
Reading is bounded and trusts nothing: a hostile file gives one clear sentence.
"""

from __future__ import annotations

import base64
import hashlib
import json
import platform
import re
import time
import tomllib
import warnings
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO
from xml.sax.saxutils import quoteattr

from PIL import Image, PngImagePlugin

from studio.checks import MAX_PIXELS, MAX_SIDE, shown
from studio.errors import StudioError
from studio.painter import PaintingResult
from studio.requests import ImageRequest
from studio.settings import REPOSITORY

SCHEMA = 1
PNG_KEY = "tessera"
MAX_RECIPE_BYTES = 1 << 19
_NAMESPACE = "https://tessera.studio/ns/recipe/1/"
_SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
_XMP_RECIPE = re.compile(r'tessera:Recipe="([A-Za-z0-9+/=]{1,600000})"')
_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_PACKAGES = ("torch", "diffusers", "transformers", "pillow")


@dataclass(frozen=True)
class Recipe:
    """Everything needed to paint the same picture again, and to tell whether it is the same.

    Args:
        request: What was asked for, with the model's real name.
        prompt: The text that was painted (style words included).
        steps: Steps the first stage really took.
        pixels_sha256: Hash of `pixel_hash`.
        versions: Versions of Python and of the packages that decide about pixels.
        backend, dtype, device: How it was computed.
        stages: (width, height) of each stage.
        seconds: Seconds per phase.
        created: When, in seconds since the epoch.
        model_sha256: Hash over the model's files, "" when unknown.
        warnings: Sentences shown with the picture.
        unknown_words: Words of the prompt outside the model's world.
        peak_bytes: Peak resident memory of the process that painted it, 0 when unknown.
    """

    request: ImageRequest
    prompt: str
    steps: int
    pixels_sha256: str
    versions: dict[str, str]
    backend: str
    dtype: str
    device: str
    stages: tuple[tuple[int, int], ...]
    seconds: dict[str, float]
    created: float
    model_sha256: str = ""
    warnings: tuple[str, ...] = ()
    unknown_words: tuple[str, ...] = ()
    peak_bytes: int = 0

    def to_json(self) -> dict[str, Any]:
        """A dictionary of plain JSON values; `from_json` reads it back."""
        return {
            "schema": SCHEMA,
            "request": self.request.to_json(),
            # most pictures have no style: the text is then written once
            **({"prompt": self.prompt} if self.prompt != self.request.prompt else {}),
            "steps": self.steps,
            "pixels_sha256": self.pixels_sha256,
            "versions": self.versions,
            "backend": self.backend,
            "dtype": self.dtype,
            "device": self.device,
            "stages": [list(stage) for stage in self.stages],
            "seconds": {phase: round(seconds, 3) for phase, seconds in self.seconds.items()},
            "created": round(self.created, 3),
            "model_sha256": self.model_sha256,
            "warnings": list(self.warnings),
            "unknown_words": list(self.unknown_words),
            "peak_bytes": self.peak_bytes,
        }

    @classmethod
    def from_json(cls, data: object) -> Recipe:
        """Read outside data field by field.

        Raises:
            StudioError: "bad_input", naming the first field that is not what it must be.
        """
        if not isinstance(data, Mapping):
            raise StudioError("bad_input", "recipe: it is not a JSON object.")
        if data.get("schema") != SCHEMA:
            raise StudioError(
                "bad_input", f"recipe: given schema {shown(data.get('schema'))}, allowed {SCHEMA}."
            )
        request = ImageRequest.from_json(data.get("request", {}))
        return cls(
            request=request,
            prompt=ImageRequest(prompt=data.get("prompt", request.prompt)).prompt,
            steps=_whole(data, "steps", 1, 10_000),
            pixels_sha256=_hash(data, "pixels_sha256"),
            versions=_texts_by_name(data, "versions"),
            backend=_text(data, "backend"),
            dtype=_text(data, "dtype"),
            device=_text(data, "device"),
            stages=_stages(data),
            seconds=_numbers_by_name(data, "seconds"),
            created=_number("created", data.get("created")),
            model_sha256=_hash(data, "model_sha256") if data.get("model_sha256") else "",
            warnings=_texts(data, "warnings"),
            unknown_words=_texts(data, "unknown_words"),
            peak_bytes=_whole(data, "peak_bytes", 0, 10**15) if "peak_bytes" in data else 0,
        )


def make_recipe(
    request: ImageRequest, prompt: str, steps: int, result: PaintingResult, **facts: Any
) -> Recipe:
    """The recipe of a painted picture; `facts` are `model_sha256`, `warnings` and `unknown_words`."""
    return Recipe(
        request=request,
        prompt=prompt,
        steps=steps,
        pixels_sha256=pixel_hash(result.image),
        versions=versions(),
        backend=result.backend,
        dtype=result.dtype,
        device=result.device,
        stages=tuple(result.stages),
        seconds=dict(result.seconds),
        created=time.time(),
        peak_bytes=result.peak_bytes,
        **facts,
    )


def pixel_hash(image: Image.Image) -> str:
    """SHA-256 over mode, size and raw pixels, whatever file format they came from."""
    digest = hashlib.sha256(f"{image.mode} {image.width}x{image.height}\n".encode())
    # strips keep the copy small next to a picture of hundreds of megabytes
    for top in range(0, image.height, 256):
        digest.update(image.crop((0, top, image.width, min(top + 256, image.height))).tobytes())
    return digest.hexdigest()


@cache
def _installed_versions() -> tuple[tuple[str, str], ...]:
    found = [("tessera-studio", _own_version()), ("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, metadata.version(package)))
        except metadata.PackageNotFoundError:
            continue
    return tuple(found)


def _own_version() -> str:
    """The version in pyproject.toml: the studio runs from a checkout and is never installed as a package."""
    try:
        with open(REPOSITORY / "pyproject.toml", "rb") as file:
            return str(tomllib.load(file)["project"]["version"])
    except (OSError, KeyError, ValueError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that decide about pixels; imports none of them."""
    return dict(_installed_versions())


def parameters_line(recipe: Recipe) -> str:
    """The plain-text settings that other studios read from PNG files."""
    request = recipe.request
    return (
        f"{recipe.prompt}\nSteps: {recipe.steps}, Sampler: Euler, CFG scale: 1, Seed: {request.seed}, "
        f"Size: {request.size}, Model: {request.model}, Version: Tessera Studio"
    )


def xmp_packet(recipe: Recipe, *, whole: bool) -> bytes:
    """XMP that says a trained model made the picture; `whole` puts the compressed recipe inside."""
    extra = ""
    if whole:
        packed = base64.b64encode(zlib.compress(_dump(recipe), 9)).decode()
        extra = f" xmlns:tessera={quoteattr(_NAMESPACE)} tessera:Recipe={quoteattr(packed)}"
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
        '<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""'
        ' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:CreatorTool="Tessera Studio"'
        ' xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"'
        f' Iptc4xmpExt:DigitalSourceType="{_SOURCE_TYPE}"{extra}/>'
        '</rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
    ).encode()


def png_metadata(recipe: Recipe) -> PngImagePlugin.PngInfo:
    """The text chunks of a PNG file."""
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PNG_KEY, _dump(recipe).decode())
    info.add_text("parameters", parameters_line(recipe))
    info.add_itxt("XML:com.adobe.xmp", xmp_packet(recipe, whole=False).decode())
    return info


def _dump(recipe: Recipe) -> bytes:
    return json.dumps(recipe.to_json(), ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def read_recipe(source: Path | BinaryIO) -> Recipe:
    """The recipe inside a PNG, JPEG or WebP file.

    Raises:
        StudioError: "bad_input": not such a picture, no recipe in it, or a field that is not allowed.
    """
    return Recipe.from_json(_parse(_embedded_text(open_picture(source))))


def open_picture(source: Path | BinaryIO) -> Image.Image:
    """Open a PNG, JPEG or WebP file and check its size before any pixel is decoded.

    Raises:
        StudioError: unreadable, another format, or larger than the studio's own pictures can be.
    """
    try:
        with warnings.catch_warnings():
            # the size is judged right below, by a stricter rule
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(source, formats=("PNG", "JPEG", "WEBP"))
    except FileNotFoundError as error:
        raise StudioError("not_found", "There is no such picture file.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise StudioError("bad_input", "The file can't be read as a PNG, JPEG or WebP picture.") from error
    if max(image.size) > MAX_SIDE or image.width * image.height > MAX_PIXELS:
        raise StudioError(
            "too_large",
            f"The picture has {image.width}x{image.height} pixels, allowed up to "
            f"{MAX_PIXELS / 1e6:.0f} megapixels.",
        )
    return image


def _embedded_text(image: Image.Image) -> str:
    text = image.info.get(PNG_KEY)
    if isinstance(text, str):
        if len(text) > MAX_RECIPE_BYTES:
            raise StudioError("bad_input", f"recipe: it is longer than {MAX_RECIPE_BYTES:,} characters.")
        return text
    packet = image.info.get("xmp")
    if isinstance(packet, bytes):
        match = _XMP_RECIPE.search(packet[: 2 * MAX_RECIPE_BYTES].decode("utf-8", "replace"))
        if match:
            return _unpack(match[1])
    raise StudioError("bad_input", "The picture carries no recipe of this studio.")


def _unpack(packed: str) -> str:
    try:
        reader = zlib.decompressobj()
        data = reader.decompress(base64.b64decode(packed), MAX_RECIPE_BYTES)
        if not reader.eof:
            raise ValueError("too long or cut off")
        return data.decode("utf-8")
    except (ValueError, zlib.error) as error:
        raise StudioError("bad_input", "recipe: it can't be unpacked.") from error


def _parse(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise StudioError("bad_input", "recipe: it is not readable JSON.") from error


def _whole(data: Mapping[str, Any], name: str, low: int, high: int) -> int:
    value = data.get(name)
    if type(value) is not int or not low <= value <= high:
        raise _refused(name, value, f"whole numbers from {low} to {high}")
    return value


def _hash(data: Mapping[str, Any], name: str) -> str:
    value = data.get(name)
    if not isinstance(value, str) or not _SHA256.fullmatch(value):
        raise _refused(name, value, "64 hexadecimal digits")
    return value


def _text(data: Mapping[str, Any], name: str, value: object = None) -> str:
    value = data.get(name) if value is None else value
    if not isinstance(value, str) or len(value) > 1000:
        raise _refused(name, value, "text of up to 1000 characters")
    # what is shown to a person stays one printable line
    return "".join(char if char.isprintable() else " " for char in value)


def _texts(data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    value = data.get(name, [])
    if not isinstance(value, list) or len(value) > 1000:
        raise _refused(name, value, "a list of texts")
    return tuple(_text(data, name, item) for item in value)


def _texts_by_name(data: Mapping[str, Any], name: str) -> dict[str, str]:
    value = data.get(name, {})
    if not isinstance(value, Mapping) or len(value) > 50:
        raise _refused(name, value, "an object of texts")
    return {_text(data, name, key): _text(data, name, item) for key, item in value.items()}


def _numbers_by_name(data: Mapping[str, Any], name: str) -> dict[str, float]:
    value = data.get(name, {})
    if not isinstance(value, Mapping) or len(value) > 50:
        raise _refused(name, value, "an object of numbers")
    return {_text(data, name, key): _number(name, item) for key, item in value.items()}


def _number(name: str, value: object) -> float:
    # NaN and the infinities fail the comparison, a bool is no number here
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
        raise _refused(name, value, "a number from 0 to 1e12")
    return float(value)


def _stages(data: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    value = data.get("stages", [])
    if not isinstance(value, list) or len(value) > 20:
        raise _refused("stages", value, "a list of sizes")
    stages = []
    for stage in value:
        if (
            not isinstance(stage, list)
            or len(stage) != 2
            or not all(type(side) is int and 0 < side <= MAX_SIDE for side in stage)
        ):
            raise _refused("stages", stage, "two sides in pixels")
        stages.append((stage[0], stage[1]))
    return tuple(stages)


def _refused(name: str, value: object, allowed: str) -> StudioError:
    return StudioError("bad_input", f"recipe: {name} is {shown(value)}, allowed {allowed}.")

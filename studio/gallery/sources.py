"""Pictures that visitors bring along: checked, stored upright as PNG, named by an unguessable identifier."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import BinaryIO

from PIL import Image, ImageOps

from studio.errors import StudioError
from studio.gallery.files import is_temporary, storage_error, write_whole
from studio.jobs.identifiers import is_identifier, new_identifier
from studio.recipes import open_picture

KEPT_DAYS = 7


class Sources:
    """Files in `data_dir/sources`. Thread-safe.

    Args:
        data_dir: Made when it does not exist.
    Raises:
        StudioError: "unwritable".
    """

    def __init__(self, data_dir: Path) -> None:
        self._folder = data_dir / "sources"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_error(error, "the pictures you bring", data_dir) from error
        self._tidy()

    def add(self, file: BinaryIO) -> str:
        """Store a picture; its identifier.

        Raises:
            StudioError: "bad_input" when it is none, "too_large", "disk_full".
        """
        picture = loaded(file)
        name = new_identifier()
        try:
            write_whole(self._path(name), lambda out: picture.save(out, "PNG", compress_level=1))
        except OSError as error:
            raise storage_error(error, "the picture", self._folder) from error
        return name

    def open(self, name: str) -> Image.Image:
        """The stored picture, RGB.

        Raises:
            StudioError: "not_found".
        """
        if not is_identifier(name) or not self._path(name).is_file():
            raise StudioError("not_found", "The picture you brought is not here any more.", "Bring it again.")
        return loaded(self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.png"

    def _tidy(self) -> None:
        oldest = time.time() - KEPT_DAYS * 86_400
        for path in self._folder.iterdir():
            if is_temporary(path) or path.lstat().st_mtime < oldest:
                with contextlib.suppress(OSError):
                    path.unlink()


def loaded(source: Path | BinaryIO) -> Image.Image:
    """A picture file, decoded: RGB, upright.

    Raises:
        StudioError: "bad_input" or "too_large".
    """
    with open_picture(source) as picture:
        try:
            return ImageOps.exif_transpose(picture).convert("RGB")
        except (OSError, SyntaxError, ValueError) as error:
            raise StudioError("bad_input", "The picture is cut short or damaged.") from error

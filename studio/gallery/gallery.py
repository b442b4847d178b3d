"""The gallery: adds pictures whole, finds them again, and puts itself in order after a crash."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from studio.errors import StudioError
from studio.gallery.encoding import needs_zoom, write_picture, write_thumbnail, write_zoom
from studio.gallery.files import free_bytes, is_temporary, storage_error, write_whole
from studio.gallery.index import GalleryIndex, Picture
from studio.jobs.identifiers import is_identifier
from studio.recipes import Recipe, open_picture, read_recipe

logger = logging.getLogger(__name__)
TRASH_DAYS = 30
_ROOM_BYTES = 32 << 20
_NAME = re.compile(r"([0-9A-Z]{26})(?:-[a-z0-9-]*)?\.png", re.ASCII)


class Gallery:
    """Pictures in `data_dir/gallery`, their index and their trash beside it. Thread-safe.

    Only finished files of this studio ever lie below `gallery/`, so a page may serve that folder.

    Args:
        data_dir: Made when it does not exist.
    Raises:
        StudioError: "unwritable".
    """

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / "gallery"
        self._images = self.folder / "images"
        self._thumbnails = self.folder / "thumbnails"
        self._zooms = self.folder / "zoom"
        self._trash = data_dir / "trash"
        try:
            for folder in (self._images, self._thumbnails, self._zooms, self._trash):
                folder.mkdir(parents=True, exist_ok=True)
            self._index = GalleryIndex(data_dir / "gallery.sqlite3", self.folder)
        except OSError as error:
            raise storage_error(error, "the gallery", data_dir) from error
        self.tidy()

    def add(
        self,
        image_id: str,
        image: Image.Image,
        recipe: Recipe,
        keep_going: Callable[[], bool] = lambda: True,
        owner: str = "",
    ) -> Picture:
        """Write picture, thumbnail and zoom copy, then the index row.

        Args:
            image_id: Fresh identifier.
            image: RGB.
            recipe: Goes into the file and the index.
            keep_going: Asked right before the picture appears; False stops with `NotPublished`.
            owner: The visitor it was made for, "" when nobody in particular.
        Raises:
            StudioError: "disk_full" or "unwritable"; nothing of the picture is left on disk.
            NotPublished: `keep_going` answered False.
        """
        path = self._images / f"{image_id}-{slug(recipe.prompt)}.png"
        made = [self._thumbnails / f"{image_id}.webp", self._zooms / f"{image_id}.jpg", path]
        try:
            self._write_copies(image_id, image)
            write_whole(path, lambda file: void(write_picture(image, recipe, file)), keep_going)
            return self._index.add(image_id, path.name, recipe, owner)
        except BaseException as error:
            for file in made:
                with contextlib.suppress(OSError):
                    file.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise storage_error(error, "the picture", self.folder) from error
            raise

    def get(self, image_id: str, *, deleted: bool = False) -> Picture:
        """The picture with this identifier, or with `deleted` the one in the trash.

        Raises:
            StudioError: "not_found".
        """
        picture = self._index.get(image_id, deleted=deleted) if is_identifier(image_id) else None
        if picture is None:
            where = "trash" if deleted else "gallery"
            raise StudioError("not_found", f"There is no such picture in the {where}.")
        return picture

    def of_owner(self, owner: str, limit: int = 200) -> list[Picture]:
        """A visitor's pictures, newest first."""
        return self._index.of_owner(owner, limit)

    def has(self, image_id: str) -> bool:
        """Whether the gallery shows a picture with this identifier."""
        return self._index.get(image_id) is not None

    def recent(self, limit: int = 24, offset: int = 0) -> list[Picture]:
        """Pictures, newest first."""
        return self._index.search("", limit, offset)

    def search(self, text: str, limit: int = 24, offset: int = 0) -> list[Picture]:
        """Pictures with every word of `text` (or a word that begins so) in prompt, style, model or seed."""
        return self._index.search(text, limit, offset)

    def set_owner(self, image_id: str, owner: str) -> None:
        """Say whose a picture is that was found after a crash."""
        self._index.set_owner(image_id, owner)

    def count(self) -> int:
        """How many pictures the gallery shows."""
        return self._index.count()

    def has_room(self, needed: int) -> bool:
        """Whether the disk can take so many bytes with some room to spare."""
        return free_bytes(self.folder) >= needed + _ROOM_BYTES

    def delete(self, image_id: str) -> None:
        """Move a picture to the trash; `restore` brings it back within 30 days.

        Raises:
            StudioError: "not_found" or "unwritable".
        """
        picture = self.get(image_id)
        self._index.set_deleted(image_id, time.time())
        self._move(picture.path, self._trash / picture.path.name)
        for path in (picture.thumbnail, picture.zoom):
            if path is not None:
                path.unlink(missing_ok=True)

    def restore(self, image_id: str) -> Picture:
        """Bring a picture back from the trash.

        Raises:
            StudioError: "not_found" when it is not there (any more).
        """
        picture = self.get(image_id, deleted=True)
        self._move(self._trash / picture.path.name, picture.path)
        self._index.set_deleted(image_id, None)
        self._mend(picture)
        return picture

    def tidy(self) -> None:
        """Put things right after a crash. Called on opening.

        Half-written files go, whole pictures without a row get one, rows without a file go, missing small
        copies are made, and what lay in the trash for 30 days goes.
        """
        for folder in (self._images, self._thumbnails, self._zooms, self._trash):
            for path in folder.iterdir():
                if is_temporary(path):
                    path.unlink(missing_ok=True)
        self._empty_trash(time.time() - TRASH_DAYS * 86_400)
        self._finish_deletions()
        known = self._index.file_names()
        for path in sorted(self._images.iterdir()):
            if path.name not in known:
                self._adopt(path)
        for image_id in self._index.identifiers_without(lambda name: (self._images / name).is_file()):
            self._index.remove(image_id)
        self._drop_stray_copies()

    def close(self) -> None:
        """Close the index. Safe to call twice."""
        self._index.close()

    def _write_copies(self, image_id: str, image: Image.Image) -> None:
        write_whole(self._thumbnails / f"{image_id}.webp", lambda file: write_thumbnail(image, file))
        if needs_zoom(*image.size):
            write_whole(self._zooms / f"{image_id}.jpg", lambda file: write_zoom(image, file))

    def _adopt(self, path: Path) -> None:
        """Index a whole picture written right before a crash; anything else goes to the trash."""
        match = _NAME.fullmatch(path.name)
        try:
            if match is None or path.is_symlink() or not path.is_file():
                raise StudioError("bad_input", "not a picture of this gallery")
            recipe = read_recipe(path)
            with open_picture(path) as image:
                image.load()
                self._write_copies(match[1], image)
            self._index.add(match[1], path.name, recipe)
            logger.info("picture %s was adopted", match[1])
        except (StudioError, OSError, ValueError, SyntaxError) as error:
            logger.warning("a file that is no picture of this gallery goes to the trash: %s", error)
            with contextlib.suppress(OSError):
                path.replace(self._trash / path.name)
                # its 30 days begin now
                os.utime(self._trash / path.name, follow_symlinks=False)

    def _mend(self, picture: Picture) -> None:
        try:
            with open_picture(picture.path) as image:
                image.load()
                self._write_copies(picture.id, image)
        except OSError as error:
            raise storage_error(error, "the thumbnail", self.folder) from error

    def _move(self, source: Path, target: Path) -> None:
        try:
            source.replace(target)
        except FileNotFoundError as error:
            raise StudioError("not_found", "The picture's file is gone.") from error
        except OSError as error:
            raise storage_error(error, "the picture", self.folder) from error

    def _finish_deletions(self) -> None:
        # a kill between row and move leaves the file of a deleted picture where it was
        for picture in self._index.deleted():
            if picture.path.exists():
                picture.path.replace(self._trash / picture.path.name)

    def _empty_trash(self, older_than: float) -> None:
        for picture in self._index.deleted(before=older_than):
            (self._trash / picture.path.name).unlink(missing_ok=True)
            self._index.remove(picture.id)
        known = self._index.file_names()
        for path in self._trash.iterdir():
            if path.name not in known and path.lstat().st_mtime < older_than and not path.is_dir():
                path.unlink(missing_ok=True)

    def _drop_stray_copies(self) -> None:
        shown_ids = self._index.identifiers()
        for folder in (self._thumbnails, self._zooms):
            for path in folder.iterdir():
                if path.stem not in shown_ids and not path.is_dir():
                    path.unlink(missing_ok=True)
        present = {path.stem for path in self._thumbnails.iterdir()}
        for image_id in sorted(shown_ids - present):
            picture = self._index.get(image_id)
            if picture is not None:
                with contextlib.suppress(StudioError):
                    self._mend(picture)


def slug(text: str, limit: int = 40) -> str:
    """ASCII letters, digits and dashes from the start of a prompt; safe in a file name on every system."""
    words = re.sub(r"[^a-z0-9]+", "-", text[:200].lower()).strip("-")
    return words[:limit].strip("-") or "picture"


def void(_: object) -> None:
    """Drop a value where a callback must not return one."""

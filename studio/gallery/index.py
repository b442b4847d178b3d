"""The searchable index of the gallery. Paths are never stored, only names below the gallery's own folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from studio.gallery.database import Database
from studio.gallery.encoding import needs_zoom
from studio.recipes import Recipe

_SCHEMA = """
CREATE TABLE IF NOT EXISTS pictures (
    number INTEGER PRIMARY KEY, id TEXT UNIQUE NOT NULL, file TEXT UNIQUE NOT NULL, created REAL NOT NULL,
    width INTEGER NOT NULL, height INTEGER NOT NULL, recipe TEXT NOT NULL, deleted REAL,
    owner TEXT NOT NULL DEFAULT ''
);
CREATE INDEX IF NOT EXISTS pictures_by_age ON pictures (deleted, id);
CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (
    prompt, style, model, seed, tokenize = 'unicode61 remove_diacritics 2'
);
"""
_MIGRATIONS = ("ALTER TABLE pictures ADD COLUMN owner TEXT NOT NULL DEFAULT ''",)
_WORD = re.compile(r"\w+")
_MAX_WORDS = 16


@dataclass(frozen=True)
class Picture:
    """One finished picture.

    Args:
        id: Identifier, the same as its job's.
        path: The PNG with the embedded recipe.
        thumbnail: WebP of at most 512 pixels per side.
        zoom: Full-size JPEG for the deep-zoom viewer, None for pictures up to 1024 pixels.
        created: Seconds since the epoch.
        recipe: How it was made.
        owner: The visitor it was made for, "" when nobody in particular.
    """

    id: str
    path: Path
    thumbnail: Path
    zoom: Path | None
    created: float
    recipe: Recipe
    owner: str = ""

    @property
    def prompt(self) -> str:
        """What the person wrote, without the words of a style."""
        return self.recipe.request.prompt

    @property
    def width(self) -> int:
        """Pixels."""
        return self.recipe.request.width

    @property
    def height(self) -> int:
        """Pixels."""
        return self.recipe.request.height

    @property
    def seconds(self) -> float:
        """What it took, all phases together."""
        return sum(self.recipe.seconds.values())


class GalleryIndex:
    """Rows of the gallery. Thread-safe.

    Args:
        path: Database file.
        folder: The gallery's folder.
    """

    def __init__(self, path: Path, folder: Path) -> None:
        self._database = Database(path, _SCHEMA, _MIGRATIONS)
        self._folder = folder

    def add(self, image_id: str, file: str, recipe: Recipe, owner: str = "") -> Picture:
        """Add a row for a file that is already complete on disk."""
        request = recipe.request
        text = json.dumps(recipe.to_json(), ensure_ascii=False)
        values = (image_id, file, recipe.created, request.width, request.height, text, owner)
        words = (recipe.prompt, request.style or "", request.model, str(request.seed))
        with self._database.transaction() as connection:
            number = connection.execute(
                "INSERT INTO pictures (id, file, created, width, height, recipe, owner)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                values,
            ).lastrowid
            connection.execute(
                "INSERT INTO words (rowid, prompt, style, model, seed) VALUES (?, ?, ?, ?, ?)",
                (number, *words),
            )
        return self._picture_of(image_id, file, recipe, owner)

    def get(self, image_id: str, *, deleted: bool = False) -> Picture | None:
        """The row of a picture that is shown, or with `deleted` of one in the trash."""
        row = self._database.row(
            f"SELECT * FROM pictures WHERE id = ? AND deleted IS {'NOT ' if deleted else ''}NULL", (image_id,)
        )
        return self._picture(row) if row else None

    def search(self, text: str, limit: int, offset: int) -> list[Picture]:
        """Rows with every word of `text`, newest first; all rows when it has none."""
        # quoted words: nothing a person types is read as query syntax
        words = [f'"{word}"*' for word in _WORD.findall(text[:1000])[:_MAX_WORDS]]
        page = (max(0, min(limit, 500)), max(0, offset))
        if not words and text.strip():
            return []
        if not words:
            rows = self._database.rows(
                "SELECT * FROM pictures WHERE deleted IS NULL ORDER BY id DESC LIMIT ? OFFSET ?", page
            )
        else:
            rows = self._database.rows(
                "SELECT pictures.* FROM words JOIN pictures ON pictures.number = words.rowid "
                "WHERE words MATCH ? AND deleted IS NULL ORDER BY id DESC LIMIT ? OFFSET ?",
                (" ".join(words), *page),
            )
        return [self._picture(row) for row in rows]

    def of_owner(self, owner: str, limit: int) -> list[Picture]:
        """Shown rows of one owner, newest first."""
        rows = self._database.rows(
            "SELECT * FROM pictures WHERE deleted IS NULL AND owner = ? ORDER BY id DESC LIMIT ?",
            (owner, limit),
        )
        return [self._picture(row) for row in rows]

    def count(self) -> int:
        """Rows that are shown."""
        row = self._database.row("SELECT count(*) FROM pictures WHERE deleted IS NULL")
        return int(row[0]) if row else 0

    def deleted(self, before: float | None = None) -> list[Picture]:
        """Rows in the trash, all or only those deleted before a moment."""
        rows = self._database.rows(
            "SELECT * FROM pictures WHERE deleted IS NOT NULL AND deleted < ?",
            (1e15 if before is None else before,),
        )
        return [self._picture(row) for row in rows]

    def set_deleted(self, image_id: str, moment: float | None) -> None:
        """Put a row in the trash, or with None take it out."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE pictures SET deleted = ? WHERE id = ?", (moment, image_id))

    def set_owner(self, image_id: str, owner: str) -> None:
        """Say whose picture it is."""
        with self._database.transaction() as connection:
            connection.execute("UPDATE pictures SET owner = ? WHERE id = ?", (owner, image_id))

    def remove(self, image_id: str) -> None:
        """Forget a picture for good."""
        with self._database.transaction() as connection:
            row = connection.execute("SELECT number FROM pictures WHERE id = ?", (image_id,)).fetchone()
            if row:
                connection.execute("DELETE FROM words WHERE rowid = ?", (row[0],))
                connection.execute("DELETE FROM pictures WHERE number = ?", (row[0],))

    def identifiers(self) -> set[str]:
        """Identifiers of all shown pictures."""
        return {row[0] for row in self._database.rows("SELECT id FROM pictures WHERE deleted IS NULL")}

    def file_names(self) -> set[str]:
        """File names of all rows, the trash included."""
        return {row[0] for row in self._database.rows("SELECT file FROM pictures")}

    def identifiers_without(self, exists: Callable[[str], bool]) -> list[str]:
        """Identifiers of shown rows whose file does not exist."""
        rows = self._database.rows("SELECT id, file FROM pictures WHERE deleted IS NULL")
        return [row["id"] for row in rows if not exists(row["file"])]

    def close(self) -> None:
        """Close the database. Safe to call twice."""
        self._database.close()

    def _picture(self, row: Any) -> Picture:
        recipe = Recipe.from_json(json.loads(row["recipe"]))
        return self._picture_of(row["id"], row["file"], recipe, row["owner"])

    def _picture_of(self, image_id: str, file: str, recipe: Recipe, owner: str) -> Picture:
        has_zoom = needs_zoom(recipe.request.width, recipe.request.height)
        return Picture(
            id=image_id,
            path=self._folder / "images" / file,
            thumbnail=self._folder / "thumbnails" / f"{image_id}.webp",
            zoom=self._folder / "zoom" / f"{image_id}.jpg" if has_zoom else None,
            created=recipe.created,
            recipe=recipe,
            owner=owner,
        )

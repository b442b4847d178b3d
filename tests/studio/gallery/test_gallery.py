"""The gallery: files, search, trash, and putting itself in order."""

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from studio.errors import StudioError
from studio.gallery import gallery as gallery_module
from studio.gallery.encoding import thumbnail
from studio.gallery.files import NotPublished
from studio.gallery.gallery import Gallery, slug
from studio.gallery.index import Picture
from studio.jobs.identifiers import new_identifier
from studio.recipes import Recipe, pixel_hash
from studio.requests import ImageRequest
from tests.studio.painters import draw
from tests.studio.test_recipes import recipe_of


@pytest.fixture
def gallery(tmp_path: Path) -> Iterator[Gallery]:
    opened = Gallery(tmp_path)
    yield opened
    opened.close()


def add(
    gallery: Gallery, prompt: str = "a red ball", width: int = 64, height: int = 64, seed: int = 0
) -> Picture:
    image = draw(prompt, width, height, seed, 4, b"")
    recipe = replace(recipe_of(image), request=ImageRequest(prompt, width, height, seed), prompt=prompt)
    return gallery.add(new_identifier(), image, recipe)


def test_files_of_a_small_and_a_large_picture(gallery: Gallery) -> None:
    small, large = add(gallery), add(gallery, width=2048, height=1024)
    assert small.zoom is None and large.zoom is not None
    with (
        Image.open(large.zoom) as zoom,
        Image.open(large.thumbnail) as thumb,
        Image.open(large.path) as whole,
    ):
        assert (zoom.format, zoom.size, thumb.format, thumb.size) == (
            "JPEG",
            (2048, 1024),
            "WEBP",
            (512, 256),
        )
        assert pixel_hash(whole) == pixel_hash(draw("a red ball", 2048, 1024, 0, 4, b""))
    with Image.open(small.thumbnail) as thumb:
        assert thumb.size == (64, 64), "never enlarged"
    assert large.path.name == f"{large.id}-a-red-ball.png" and large.seconds == 12.75


def test_only_finished_pictures_lie_in_the_served_folder(gallery: Gallery, tmp_path: Path) -> None:
    add(gallery, width=2048, height=1024)
    assert {path.suffix for path in gallery.folder.rglob("*") if path.is_file()} == {".png", ".webp", ".jpg"}
    assert gallery.folder.parent == tmp_path and (tmp_path / "gallery.sqlite3").is_file()


def test_search(gallery: Gallery) -> None:
    first = add(gallery, "a red caf\u00e9 near a river")
    second = add(gallery, "two blue cats", seed=4711)
    assert [picture.id for picture in gallery.recent()] == [second.id, first.id]
    assert [picture.id for picture in gallery.recent(limit=1, offset=1)] == [first.id]
    for text, found in (
        ("cafe", [first]),
        ("RED riv", [first]),
        ("cat", [second]),
        ("4711", [second]),
        ("storybook", [second, first]),
        ("red cats", []),
        ("", [second, first]),
        ("!!!", []),
    ):
        assert gallery.search(text) == found, text


@pytest.mark.parametrize(
    "text", ['"', "' OR 1=1 --", "a* OR b", "NEAR(", "prompt:red", "(" * 1000, "\0", "x" * 10**5, "AND"]
)
def test_nothing_typed_is_query_syntax(text: str, gallery: Gallery) -> None:
    add(gallery, "blue cat")
    assert gallery.search(text) == []


def test_search_of_ten_thousand_is_quick(gallery: Gallery) -> None:
    picture = add(gallery, "a lonely umbrella")
    recipe = json.dumps(picture.recipe.to_json())
    with gallery._index._database.transaction() as connection:
        for number in range(10_000):
            values = (number + 10, new_identifier(), f"{number}.png", float(number), recipe)
            connection.execute(
                "INSERT INTO pictures (number, id, file, created, width, height, recipe)"
                " VALUES (?, ?, ?, ?, 64, 64, ?)",
                values,
            )
            connection.execute(
                "INSERT INTO words (rowid, prompt, style, model, seed)"
                " VALUES (?, 'a red ball in a meadow', '', 'm', '0')",
                (number + 10,),
            )
    began = time.thread_time()
    assert gallery.search("umbr lonely") == [picture]
    assert len(gallery.search("red meadow")) == 24
    assert len(gallery.recent()) == 24
    assert time.thread_time() - began < 0.2


def test_delete_and_restore(gallery: Gallery, tmp_path: Path) -> None:
    picture = add(gallery, width=2048)
    gallery.delete(picture.id)
    assert gallery.count() == 0 and gallery.search("red") == [] and not gallery.has(picture.id)
    assert not [path for path in gallery.folder.rglob("*") if path.is_file()]
    assert (tmp_path / "trash" / picture.path.name).is_file()
    with pytest.raises(StudioError, match="no such picture"):
        gallery.delete(picture.id)
    assert gallery.restore(picture.id) == picture and gallery.get(picture.id) == picture
    assert picture.path.is_file() and picture.thumbnail.is_file() and picture.zoom and picture.zoom.is_file()
    with pytest.raises(StudioError, match="in the trash"):
        gallery.restore(picture.id)


def test_trash_is_emptied_after_thirty_days(gallery: Gallery, tmp_path: Path) -> None:
    young, old, stray = add(gallery), add(gallery, seed=1), tmp_path / "trash" / "stray.png"
    for picture in (young, old):
        gallery.delete(picture.id)
    stray.write_bytes(b"old")
    os.utime(stray, (0, 0))
    gallery._index.set_deleted(old.id, time.time() - 31 * 86_400)
    gallery.tidy()
    assert [path.name for path in (tmp_path / "trash").iterdir()] == [young.path.name]
    assert gallery.restore(young.id).path.is_file()


def test_stopping_before_the_file_appears_leaves_nothing(gallery: Gallery) -> None:
    image = draw("x", 1040, 64, 0, 4, b"")
    with pytest.raises(NotPublished):
        gallery.add(new_identifier(), image, recipe_of(image), lambda: False)
    assert gallery.count() == 0 and not [path for path in gallery.folder.rglob("*") if path.is_file()]


def reopened(gallery: Gallery, tmp_path: Path) -> Gallery:
    gallery.close()
    return Gallery(tmp_path)


def test_reopening_puts_everything_in_order(gallery: Gallery, tmp_path: Path) -> None:
    kept, gone = add(gallery, width=2048), add(gallery, seed=1)
    images = gallery.folder / "images"
    gone.path.unlink()
    kept.thumbnail.unlink()
    orphan = images / f"{new_identifier()}-orphan.png"
    shutil.copy(kept.path, orphan)
    truncated = images / f"{new_identifier()}-cut.png"
    truncated.write_bytes(kept.path.read_bytes()[:-500])
    (images / "notes.txt").write_text("not a picture")
    (images / f"{new_identifier()}-link.png").symlink_to("/etc/hostname")
    (images / ".x.png.part-0011").write_bytes(b"half")
    (gallery.folder / "zoom" / f"{new_identifier()}.jpg").write_bytes(b"stray")
    os.utime(images / "notes.txt", (0, 0))
    gallery = reopened(reopened(gallery, tmp_path), tmp_path)
    try:
        found = {picture.id: picture for picture in gallery.recent()}
        assert set(found) == {kept.id, orphan.name[:26]}
        for picture in found.values():
            assert picture.recipe == kept.recipe and picture.thumbnail.is_file()
        assert sorted(path.name for path in images.iterdir()) == sorted([kept.path.name, orphan.name])
        assert len(list((gallery.folder / "zoom").iterdir())) == 2
        assert {"notes.txt", truncated.name} <= {path.name for path in (tmp_path / "trash").iterdir()}
        assert Path("/etc/hostname").exists()
    finally:
        gallery.close()


def test_a_deletion_cut_short_is_finished(gallery: Gallery, tmp_path: Path) -> None:
    picture = add(gallery)
    gallery._index.set_deleted(picture.id, time.time())
    gallery = reopened(gallery, tmp_path)
    assert gallery.count() == 0 and not picture.path.exists() and not picture.thumbnail.exists()
    assert gallery.restore(picture.id).path.is_file()
    gallery.close()


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("../../etc/passwd", "etc-passwd"),
        ("CON", "con"),
        ("\u732b\u732b", "picture"),
        ("a" * 300, "a" * 40),
        ("<img src=x>\0\u202e", "img-src-x"),
    ],
)
def test_file_names_are_plain(prompt: str, name: str) -> None:
    assert slug(prompt) == name


def test_thumbnails_keep_the_shape_and_the_picture() -> None:
    for size, expected in (((4096, 2048), (512, 256)), ((600, 6000), (51, 512)), ((512, 512), (512, 512))):
        picture = Image.new("RGB", size, (10, 200, 30))
        small = thumbnail(picture)
        assert small.size == expected and small is not picture
        assert small.getpixel((0, 0)) == (10, 200, 30)


def test_same_moment_never_overwrites(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time_ns", lambda: 10**18)
    pictures = [add(gallery, seed=seed) for seed in range(3)]
    assert len({picture.path for picture in pictures}) == 3
    assert [picture.recipe.request.seed for picture in gallery.recent()] == [2, 1, 0]


def test_room_for_a_picture_is_judged_by_its_size(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "free_bytes", lambda folder: 64 << 20)
    assert gallery.has_room(4 << 20) and not gallery.has_room(64 << 20)


def test_a_recipe_in_the_index_reads_back(gallery: Gallery) -> None:
    picture = add(gallery)
    assert (
        Recipe.from_json(json.loads(json.dumps(picture.recipe.to_json()))) == gallery.get(picture.id).recipe
    )

"""On a shared studio nobody reads, stops or deletes what is another's."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from studio.errors import StudioError
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.studio import Studio
from studio.visit import Visit, new_visitor_key, owner_of
from tests.studio.conftest import finished
from tests.studio.painters import DrawingPainter

REQUEST = ImageRequest("a red ball", 64, 64)


@pytest.fixture
def shared(settings: Settings, painter: DrawingPainter) -> Iterator[Studio]:
    with Studio(replace(settings, is_shared=True), painter) as opened:
        yield opened


def test_another_visitor_finds_nothing(shared: Studio) -> None:
    mine, other, script = (Visit(shared, key) for key in (new_visitor_key(), new_visitor_key(), None))
    name = mine.submit(REQUEST)
    finished(shared, name)
    for stranger in (other, script):
        for ask in (
            stranger.watch, stranger.cancel, stranger.retry, stranger.forget, stranger.unsaved_png,
            stranger.picture, stranger.delete,
        ):  # fmt: skip
            with pytest.raises(StudioError) as refused:
                ask(name)
            assert refused.value.kind == "not_found"
        assert stranger.jobs(10, [name]) == [] and stranger.pictures(10, [name]) == ([], 0)
    assert mine.picture(name).id == name and mine.pictures(10, [])[1] == 1
    assert [job.id for job in mine.jobs(10, [])] == [name]
    mine.delete(name)
    with pytest.raises(StudioError, match="no such picture in the trash"):
        other.restore(name)
    assert mine.restore(name).owner != ""
    mine.forget(name)
    with pytest.raises(StudioError, match="no such job"):
        mine.watch(name)


def test_only_the_owner_cancels_a_running_job(settings: Settings) -> None:
    painter = DrawingPainter(gates={"paint": threading.Event()})
    with Studio(replace(settings, is_shared=True), painter) as shared:
        mine, other = Visit(shared, new_visitor_key()), Visit(shared, new_visitor_key())
        name = mine.submit(REQUEST)
        assert painter.reached["paint"].wait(5)
        with pytest.raises(StudioError):
            other.cancel(name)
        with pytest.raises(StudioError, match="This job is running"):
            mine.forget(name)
        assert shared.watch(name).state == "running"
        assert mine.cancel(name) and finished(shared, name).state == "cancelled"


def test_what_nobody_owns_is_open_to_who_knows_its_name(shared: Studio) -> None:
    script, browser = Visit(shared), Visit(shared, new_visitor_key())
    name = script.submit(REQUEST)
    finished(shared, name)
    assert browser.picture(name).owner == "" and script.watch(name).state == "done"
    assert browser.pictures(10, []) == ([], 0), "but it is listed only for those who started it"
    assert [picture.id for picture in browser.pictures(10, [name, "nonsense"])[0]] == [name]


def test_the_one_user_of_a_local_studio_may_do_everything(studio: Studio) -> None:
    name = Visit(studio, new_visitor_key()).submit(REQUEST)
    finished(studio, name)
    other = Visit(studio, new_visitor_key())
    assert other.picture(name).owner == "" and other.pictures(10, [])[1] == 1
    other.delete(name)
    other.restore(name)


def test_owners_survive_a_restart_and_are_no_secrets(settings: Settings, painter: DrawingPainter) -> None:
    key = new_visitor_key()
    with Studio(replace(settings, is_shared=True), painter) as shared:
        name = Visit(shared, key).submit(REQUEST)
        finished(shared, name)
    for path in settings.data_dir.rglob("*"):
        assert not path.is_file() or key.encode() not in path.read_bytes()
    with Studio(replace(settings, is_shared=True), painter) as shared:
        assert Visit(shared, key).picture(name).id == name
        with pytest.raises(StudioError):
            Visit(shared, new_visitor_key()).watch(name)


@pytest.mark.parametrize("key", [None, "", "x", "a" * 21, "a" * 87, "a" * 30 + ";", "\u00e4" * 30])
def test_keys_that_no_browser_of_ours_has_are_none(key: str | None) -> None:
    assert owner_of(key) == ""
    assert len(owner_of(new_visitor_key())) == 32

"""What happens when the process dies, the disk is full, or files are damaged."""

import errno
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from studio.errors import StudioError
from studio.gallery import files as files_module
from studio.gallery import gallery as gallery_module
from studio.jobs.records import JobRecords
from studio.jobs.snapshot import JobSnapshot
from studio.recipes import read_recipe
from studio.requests import ImageRequest
from studio.settings import REPOSITORY, Settings
from studio.studio import Studio
from tests.studio.conftest import finished, wait_for
from tests.studio.painters import DrawingPainter

# opens a studio in another process, puts two jobs in its queue and says when the first has reached a point
VICTIM = """
import os, sys, time
from pathlib import Path
from studio.gallery import gallery
from studio.requests import ImageRequest
from studio.settings import Settings
from studio.studio import Studio
from tests.studio.painters import DrawingPainter

def tell(line):
    # one write: two threads must not mix their lines
    os.write(1, f"{line}\\n".encode())

def hang(*_):
    tell("reached")
    time.sleep(60)

point = sys.argv[3]
painter = DrawingPainter()
if point == "paint":
    painter._wait = hang
if point == "png":
    def write_half(image, recipe, file, *_):
        file.write(b"half a picture")
        file.flush()
        hang()
    gallery.write_picture = write_half
if point == "row":
    gallery.GalleryIndex.add = hang
studio = Studio(Settings(data_dir=Path(sys.argv[1]), weights_dir=Path(sys.argv[2])), painter)
for seed in (1, 2):
    tell(studio.submit(ImageRequest("a red ball", 64, 64, seed)))
time.sleep(60)
"""


def kill_at(point: str, settings: Settings) -> tuple[str, str]:
    """Kill a studio in the middle of its first job; the identifiers of both jobs."""
    command = [sys.executable, "-c", VICTIM, str(settings.data_dir), str(settings.weights_dir), point]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as victim:
        assert victim.stdout is not None
        lines = [victim.stdout.readline().strip() for _ in range(3)]
        victim.send_signal(signal.SIGKILL)
    assert "reached" in lines, lines
    first, second = (line for line in lines if line != "reached")
    return first, second


def check_after_kill(studio: Studio, first: str, second: str) -> JobSnapshot:
    """The second job went on by itself, nothing half-written is left; the first job's snapshot."""
    assert finished(studio, second).state == "done"
    for path in studio.settings.gallery_dir.rglob("*"):
        assert not files_module.is_temporary(path)
    for picture in studio.gallery.recent():
        with Image.open(picture.path) as image:
            image.load()
    for name in ("jobs.sqlite3", "gallery.sqlite3"):
        with sqlite3.connect(studio.settings.data_dir / name) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        connection.close()
    return studio.watch(first)


@pytest.mark.parametrize("point", ["paint", "png"])
def test_killed_while_painting_or_writing(point: str, settings: Settings) -> None:
    first, second = kill_at(point, settings)
    with Studio(settings, DrawingPainter()) as studio:
        ended = check_after_kill(studio, first, second)
        assert (ended.state, ended.can_retry) == ("interrupted", True)
        assert ended.error == "The studio stopped while this was painting."
        assert studio.gallery.count() == 1
        assert finished(studio, studio.retry(first)).state == "done"
        assert studio.gallery.count() == 2


def test_killed_between_file_and_row_keeps_the_picture(settings: Settings) -> None:
    first, second = kill_at("row", settings)
    with Studio(settings, DrawingPainter()) as studio:
        ended = check_after_kill(studio, first, second)
        assert (ended.state, ended.image_id) == ("done", first)
        picture = studio.gallery.get(first)
        assert picture.recipe == read_recipe(picture.path) and picture.thumbnail.is_file()


def full_disk(*_: Any) -> str:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_keeps_the_picture_and_retry_saves_it(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    painter = DrawingPainter()
    with Studio(settings, painter) as studio:
        with monkeypatch.context() as patch:
            patch.setattr(gallery_module, "write_picture", full_disk)
            failed = finished(studio, studio.submit(ImageRequest("a red ball", 64, 64, 5)))
        assert (failed.state, failed.error_kind, failed.has_unsaved_image) == ("failed", "disk_full", True)
        assert failed.error.startswith("The disk is full (") and "MB free" in failed.error
        assert not [path for path in settings.gallery_dir.rglob("*") if path.is_file()], (
            "nothing half-written"
        )
        kept = settings.data_dir.parent / "kept.png"
        kept.write_bytes(studio.unsaved_png(failed.id))
        assert read_recipe(kept).request.seed == 5
        saved = finished(studio, studio.retry(failed.id))
        assert (saved.state, saved.has_unsaved_image) == ("done", False)
        assert set(saved.seconds) == {"paint", "load"}
        assert painter.painted == [("a red ball", 5)], "saved, not painted again"
        assert studio.gallery.get(failed.id).path.read_bytes() == kept.read_bytes()
        with pytest.raises(StudioError, match="no unsaved picture"):
            studio.unsaved_png(failed.id)


@pytest.mark.parametrize("part", ["write_thumbnail", "write_zoom"])
def test_full_disk_while_writing_small_copies_leaves_nothing(
    part: str, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Studio(settings, DrawingPainter()) as studio:
        monkeypatch.setattr(gallery_module, part, full_disk)
        failed = finished(studio, studio.submit(ImageRequest("a red ball", 1040, 144)))
        assert failed.error_kind == "disk_full"
        assert not [path for path in settings.gallery_dir.rglob("*") if path.is_file()]


class FullConnection:
    """A connection whose disk is full from the first statement on."""

    in_transaction = False

    def execute(self, *_: Any) -> None:
        raise sqlite3.OperationalError("database or disk is full")


def test_full_disk_of_the_index_leaves_nothing(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studio.gallery._index._database, "_connection", FullConnection())
    failed = finished(studio, studio.submit(ImageRequest("a red ball", 64, 64)))
    assert failed.error_kind == "disk_full" and failed.has_unsaved_image
    assert not [path for path in studio.settings.gallery_dir.rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert finished(studio, studio.retry(failed.id)).state == "done"


def test_full_disk_of_the_records_loses_no_outcome(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.jobs.worker._HOLD_S", 0.02)
    painter = DrawingPainter(gates={"decode": threading.Event()})
    with Studio(settings, painter) as studio:
        job_id, next_id = (studio.submit(ImageRequest("a red ball", 64, 64, seed)) for seed in (1, 2))
        assert painter.reached["decode"].wait(5)
        with monkeypatch.context() as patch:
            write = JobRecords.finish
            patch.setattr(JobRecords, "finish", disk_full_records)
            painter.gates["decode"].set()
            assert finished(studio, job_id).state == "done", "told although not recorded"
            held = wait_for(studio, next_id, lambda job: bool(job.on_hold))
            assert held.state == "queued" and "disk is full" in held.on_hold
            patch.setattr(JobRecords, "finish", write)
            assert finished(studio, next_id).state == "done"
        assert studio._queue._records.get(job_id).state == "done"  # type: ignore[union-attr]


def disk_full_records(*_: Any, **__: Any) -> None:
    raise StudioError("disk_full", "The disk is full, nothing could be noted.")


def test_queue_waits_for_disk_space_instead_of_failing_every_job(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studio.jobs.worker._HOLD_S", 0.02)
    painter = DrawingPainter()
    with Studio(settings, painter) as studio:
        with monkeypatch.context() as patch:
            patch.setattr(gallery_module, "free_bytes", lambda folder: 1000)
            jobs = [studio.submit(ImageRequest("a red ball", 64, 64, seed)) for seed in (1, 2)]
            held = wait_for(studio, jobs[0], lambda job: bool(job.on_hold))
            assert held.on_hold.startswith("Waiting for disk space") and held.state == "queued"
            assert studio.cancel(jobs[1]) and painter.painted == []
        assert finished(studio, jobs[0]).state == "done"


def test_unwritable_data_folder_is_one_sentence(settings: Settings) -> None:
    for folder in ("/proc/tessera", "/dev/null/tessera"):
        with pytest.raises(StudioError) as refused:
            Studio(Settings(data_dir=Path(folder), weights_dir=settings.weights_dir), DrawingPainter())
        assert refused.value.kind == "unwritable" and "TESSERA_DATA_DIR" in refused.value.hint


def test_damaged_weights_fail_the_job_and_mended_ones_paint(settings: Settings) -> None:
    weights = settings.weights_dir / "storybook-flux" / "unet.safetensors"
    whole = weights.read_bytes()
    with Studio(settings, DrawingPainter()) as studio:
        weights.write_bytes(whole[:100])
        with pytest.raises(
            StudioError, match=r"is damaged: file unet.safetensors has 100 bytes instead of 1400"
        ):
            studio.submit(ImageRequest("a red ball", 64, 64))
        # same size, other bytes: only reading the file shows it
        weights.write_bytes(b"X" + whole[1:])
        failed = finished(studio, studio.submit(ImageRequest("a red ball", 64, 64)))
        assert failed.error_kind == "damaged_model" and "does not have the recorded contents" in failed.error
        assert "git restore" in failed.hint
        weights.write_bytes(whole)
        assert finished(studio, studio.retry(failed.id)).state == "done"


@pytest.mark.parametrize("name", ["jobs.sqlite3", "gallery.sqlite3"])
def test_damaged_database_is_set_aside_and_pictures_come_back(name: str, settings: Settings) -> None:
    with Studio(settings, DrawingPainter()) as studio:
        job_id = finished(studio, studio.submit(ImageRequest("a red ball", 64, 64))).id
    (settings.data_dir / name).write_bytes(b"this is no database at all" * 100)
    with Studio(settings, DrawingPainter()) as studio:
        assert studio.gallery.get(job_id).prompt == "a red ball"
        assert finished(studio, studio.submit(ImageRequest("a red ball", 64, 64, 1))).state == "done"
    assert list(settings.data_dir.glob(f"{name}.damaged-*"))


def test_a_hundred_jobs_leave_no_threads_or_open_files(settings: Settings) -> None:
    with Studio(settings, DrawingPainter()) as studio:
        finished(studio, studio.submit(ImageRequest("a red ball", 64, 64)))
        threads, open_files = threading.active_count(), len(os.listdir("/proc/self/fd"))
        for start in range(0, 100, 50):
            jobs = [studio.submit(ImageRequest("a red ball", 64, 64, start + n)) for n in range(50)]
            for job_id in jobs:
                finished(studio, job_id, timeout_s=20)
        assert threading.active_count() <= threads
        assert len(os.listdir("/proc/self/fd")) <= open_files + 1
        began = time.perf_counter()
        assert len(studio.gallery.search("red ball", limit=500)) == 101
        assert time.perf_counter() - began < 0.5


def test_files_of_the_first_version_are_brought_up_to_date(settings: Settings) -> None:
    with Studio(settings, DrawingPainter()) as studio:
        name = studio.submit(ImageRequest("a red ball", 64, 64))
        finished(studio, name)
    for file, table, columns in (
        ("jobs.sqlite3", "jobs", ("kind", "owner", "peak", "result", "starts")),
        ("gallery.sqlite3", "pictures", ("owner",)),
    ):
        with sqlite3.connect(settings.data_dir / file) as connection:
            for column in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")
            connection.execute("PRAGMA user_version = 1")
        connection.close()
    with Studio(settings, DrawingPainter()) as studio:
        assert studio.watch(name).state == "done" and studio.gallery.get(name).owner == ""
        assert finished(studio, studio.submit(ImageRequest("a blue ball", 64, 64))).state == "done"
    assert not list(settings.data_dir.glob("*.damaged-*"))

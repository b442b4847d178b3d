"""A studio of its own for every test: temporary folders, a fast painter, closed at the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from studio.jobs.snapshot import JobSnapshot
from studio.settings import Settings
from studio.studio import Studio
from tests.studio.painters import DrawingPainter, make_weights


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", weights_dir=make_weights(tmp_path / "weights"))


@pytest.fixture
def painter() -> DrawingPainter:
    return DrawingPainter()


@pytest.fixture
def studio(settings: Settings, painter: DrawingPainter) -> Iterator[Studio]:
    with Studio(settings, painter) as opened:
        yield opened


def wait_for(
    studio: Studio, job_id: str, test: Callable[[JobSnapshot], bool], timeout_s: float = 8
) -> JobSnapshot:
    """The first snapshot that passes `test`."""
    end = time.monotonic() + timeout_s
    while True:
        snapshot = studio.watch(job_id)
        if test(snapshot):
            return snapshot
        assert time.monotonic() < end, f"waited in vain: {snapshot}"
        time.sleep(0.005)


def finished(studio: Studio, job_id: str, timeout_s: float = 8) -> JobSnapshot:
    """The snapshot once nothing changes any more."""
    return wait_for(studio, job_id, lambda snapshot: snapshot.is_final, timeout_s)

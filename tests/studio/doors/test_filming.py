"""What the real door to filming makes of requests; nothing is loaded."""

from __future__ import annotations

import pytest

from studio.doors.filming import PipelineFilmer
from studio.requests import VideoRequest


@pytest.mark.parametrize("order", ["chronological", "mirror"])
@pytest.mark.parametrize("frames", [3, 4, 7, 8, 16, 33, 64])
@pytest.mark.parametrize("is_loop", [False, True])
def test_defaults_can_be_filmed(order: str, frames: int, is_loop: bool) -> None:
    request = VideoRequest("a red ball", frames=frames, is_loop=is_loop, order=order)
    assert PipelineFilmer().problem(request) == ""
    assert request.shared_frames >= 1, "a clip that shares nothing continues nothing"


def test_clips_of_a_loop_share_a_quarter() -> None:
    assert VideoRequest("a red ball", frames=8).shared_frames == 4
    assert VideoRequest("a red ball", frames=8, is_loop=True).shared_frames == 2
    assert VideoRequest("a red ball", frames=8, is_loop=True, overlap=3).shared_frames == 3


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (
            VideoRequest("a red ball", is_loop=True, overlap=4),
            "its overlaps have 8 frames together, at most 7",
        ),
        (
            VideoRequest("a red ball", is_loop=True, frames=2),
            "its overlaps have 2 frames together, at most 1",
        ),
        (VideoRequest("a red ball", is_loop=True, clips=1), "a loop needs at least 2 clips"),
    ],
)
def test_loops_that_leave_nothing_to_show_are_refused(request_: VideoRequest, message: str) -> None:
    assert message in PipelineFilmer().problem(request_)

"""What a visitor does in the Video room, in a real browser; the films are drawn, their files are real."""

from __future__ import annotations

import threading

import pytest

from pipelines.vidrd.video_files import read_video
from studio.doors.filming import PipelineFilmer
from tests.browser.conftest import MOST_SECONDS, LiveStudio

pytestmark = [pytest.mark.browser, pytest.mark.timeout(MOST_SECONDS)]

PLAYER = "document.querySelector('video.t-player')"


@pytest.fixture
def room(full: LiveStudio, open_window):
    """The Video room in a new window; it shows the last video, if any was filmed before."""
    yield enter(open_window(at=full).page)
    if full.filmer.gate is not None:
        full.filmer.gate.set()
        full.filmer.gate = None


def enter(page):
    page.get_by_role("link", name="Video").click()
    page.locator(".t-room[data-of=video] .t-go").wait_for()
    return page


def choose_clips(page, count):
    page.locator(".t-room[data-of=video] input[type=range]").fill(str(count))
    page.wait_for_function(f"document.querySelectorAll('.t-schedule .t-clip-line').length === {count - 1}")


def film(page, prompt):
    """Describe and press Film; the job."""
    page.get_by_label("Describe the first clip").fill(prompt)
    return job_of(page, page.locator(".t-room[data-of=video] .t-go"))


def job_of(page, button):
    """Press a button that starts a job."""
    with page.expect_response(
        lambda answer: answer.request.method == "POST" and answer.url.endswith("/jobs")
    ) as sent:
        button.click()
    return sent.value.json()["job"]


def wait_for_video(page, job):
    """A job's whole video is shown."""
    page.wait_for_function(
        """job => {
          const link = document.querySelector('.t-screen a[download]');
          return link.checkVisibility() && link.href.includes(job);
        }""",
        arg=job,
    )


def wait_for_source(page, name):
    """The player shows a file and knows its length."""
    page.wait_for_function(f"name => {PLAYER}.src.endsWith(name) && {PLAYER}.duration > 0", arg=name)


def frames_of(full, job):
    return [frame.getpixel((0, 0)) for frame in read_video(full.studio.results.path(job, "video.mp4"))[0]]


def test_clips_can_be_played_one_by_one_while_the_rest_is_filmed(full: LiveStudio, room):
    full.filmer.reached.clear()
    full.filmer.gate = gate = threading.Event()
    room.get_by_label("Prompt from clip 3 on").fill("a blue ball in a meadow")
    job = film(room, "a red ball in a meadow")
    line = room.locator(".t-timeline li")
    room.locator(".t-timeline .t-clip-face[data-at=now]").wait_for()
    room.get_by_role("button", name="Play clip 2").wait_for()
    assert line.count() == 4 and full.filmer.reached.wait(30)
    assert line.nth(2).locator(".t-clip-face").inner_text() == "filming"
    assert line.nth(3).locator("button").count() == 0  # nothing to play yet
    texts = [line.nth(index).locator(".t-clip-text").inner_text() for index in range(4)]
    assert texts == ["a red ball in a meadow"] * 2 + ["a blue ball in a meadow"] * 2
    room.get_by_role("button", name="Play clip 2").click()
    wait_for_source(room, "clip-002.mp4")
    assert room.evaluate(f"{PLAYER}.duration") == pytest.approx(1.0, abs=0.2)  # 8 frames
    assert line.nth(1).get_attribute("aria-current") == "true"
    assert room.get_by_role("button", name="Film clip 1 again").count() == 0  # not before all is whole
    gate.set()
    wait_for_video(room, job)
    wait_for_source(room, "video.mp4")
    assert room.evaluate(f"{PLAYER}.duration") == pytest.approx(4.0, abs=0.2)
    room.wait_for_function(f"{PLAYER}.currentTime > 0")
    assert room.locator(".t-screen .t-facts").inner_text().split("\n")[0] == "4 clips"
    assert "32 frames, 4.0 s" in room.locator(".t-screen .t-facts").inner_text()
    assert full.studio.watch(job).request.prompts_at == ((3, "a blue ball in a meadow"),)
    # one clip leads to the next
    room.get_by_role("button", name="Play clip 3").click()
    wait_for_source(room, "clip-003.mp4")
    room.evaluate(f"{PLAYER}.currentTime = {PLAYER}.duration - 0.05")
    wait_for_source(room, "clip-004.mp4")


def test_one_clip_is_filmed_again_and_both_videos_stay(full: LiveStudio, room):
    choose_clips(room, 3)
    first = film(room, "a red cat in a meadow")
    wait_for_video(room, first)
    full.filmer.filmed.clear()
    second = job_of(room, room.get_by_role("button", name="Film clip 2 again"))
    wait_for_video(room, second)
    assert full.filmer.filmed == [2]
    request = full.studio.watch(second).request
    assert request.redo == (first, 2) and [clip for clip, _ in request.clip_seeds] == [2]
    old, new = frames_of(full, first), frames_of(full, second)
    assert len(old) == len(new) == 24
    assert old[:7] == new[:7] and old[17:] == new[17:] and old[8:16] != new[8:16]
    room.locator(f".t-room[data-of=video] .t-strip img[src*='{second}']").wait_for()
    room.locator(f".t-room[data-of=video] .t-strip button:has(img[src*='{first}'])").click()
    wait_for_video(room, first)
    wait_for_source(room, f"{first}/files/video.mp4")


def test_loops_are_filmed_and_played_again_and_again(full: LiveStudio, room):
    choose_clips(room, 2)
    room.locator(".t-room[data-of=video] summary").click()
    room.get_by_label("Let the end lead back to the beginning").check()
    job = film(room, "a red ball in a meadow")
    wait_for_video(room, job)
    request = full.studio.watch(job).request
    assert request.is_loop and request.clips == 2
    assert PipelineFilmer().problem(request) == "", (
        "what the page asks for must be what the real filmer takes"
    )
    wait_for_source(room, "video.mp4")
    room.wait_for_function(f"{PLAYER}.ended")
    again = room.get_by_label("Play again and again")
    again.check()
    room.wait_for_function(f"{PLAYER}.loop && !{PLAYER}.paused && {PLAYER}.currentTime < 1")
    room.evaluate(f"{PLAYER}.currentTime = {PLAYER}.duration - 0.05")
    room.wait_for_function(f"{PLAYER}.currentTime < 1 && !{PLAYER}.paused")
    again.uncheck()
    assert not room.evaluate(f"{PLAYER}.loop")


def test_a_reload_finds_the_video_that_is_being_filmed(full: LiveStudio, room):
    full.filmer.reached.clear()
    full.filmer.gate = gate = threading.Event()
    job = film(room, "a red ball in a meadow")
    room.locator(".t-timeline .t-clip-face[data-at=now]").wait_for()
    assert full.filmer.reached.wait(30)
    room.reload(wait_until="domcontentloaded")
    room.get_by_role("button", name="Play clip 2").wait_for()
    assert room.locator(".t-room[data-of=video] .t-timeline li").count() == 4
    gate.set()
    wait_for_video(room, job)
    assert full.studio.watch(job).state == "done"


def test_what_cannot_be_filmed_is_said_in_one_line(full: LiveStudio, open_window):
    window = open_window(at=full)
    page = enter(window.page)
    page.get_by_label("Describe the first clip").fill(" ")
    page.locator(".t-room[data-of=video] .t-go").click()
    says = page.locator(".t-room[data-of=video] .t-note[data-kind=problem]")
    says.wait_for()
    refusal = "prompt: given nothing to paint, allowed 1 to 20,000 characters."
    assert says.inner_text() == refusal
    # the forecast is asked for by itself, and says the same
    page.locator(".t-room[data-of=video] .t-hint[role=status]", has_text=refusal).wait_for()
    refused, window.faults[:] = list(window.faults), []  # a browser notes every refusal
    assert all("400" in fault for fault in refused)

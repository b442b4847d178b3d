"""What a visitor does in the Kernels room: run the self-test, read each verdict, see what is wrong."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import pytest

from tests.browser.conftest import MOST_SECONDS, LiveStudio
from tests.browser.test_layout import _LOW_CONTRAST
from tests.studio.makers import FixedTester

pytestmark = [pytest.mark.browser, pytest.mark.timeout(MOST_SECONDS)]

AGREES = "Every back end that runs here agrees with the reference. Tested on cpu, "


@pytest.fixture
def tester(full: LiveStudio) -> Iterator[FixedTester]:
    """What finds the verdicts; afterwards it finds nothing wrong again."""
    assert full.tester
    yield full.tester
    if full.tester.gate is not None:
        full.tester.gate.set()
    full.tester.status, full.tester.fault, full.tester.gate = "ran", None, None


def enter(page):
    page.locator(".t-rooms a[data-room=kernels]").click()
    button(page, "Run the self-test").wait_for()
    return page


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def says(page, text):
    """Wait until the line under the button begins so."""
    page.wait_for_function(
        "text => document.querySelector('.t-room-says')?.textContent.startsWith(text)", arg=text
    )


def run(page, text):
    """Run the self-test until the line says so."""
    button(page, "Run the self-test").click()
    says(page, text)


def rows(page, dtype):
    """Name and cells of each row in one precision, a verdict and its reason as "verdict: reason"."""
    lines = page.locator(f".t-kernel[aria-label={dtype}] tbody tr").all()
    cells = [line.locator("th, td").all_inner_texts() for line in lines]
    return [[re.sub(r"\n+", ": ", cell) for cell in line] for line in cells]


@pytest.mark.slow
def test_every_back_end_of_this_machine_has_a_verdict_and_a_reason_where_it_cannot_run(open_window):
    page = enter(open_window().page)
    run(page, "Every back end that runs here agrees with the reference.")
    found = {name.split()[0]: cells for name, *cells in rows(page, "float32")}
    assert set(found) == {"reference", "sdpa", "explicit", "flex", "triton", "xformers"}
    for name, cells in found.items():
        refused = len(cells) == 1 and re.fullmatch(r"can't run here: .{10,}", cells[0])
        assert refused or (cells[0] == "right" and "× 10⁻" in cells[1] and cells[2].endswith(" ms")), name
    page.locator(".t-kernel[aria-label=float32] th", has_text="in use").wait_for()
    assert page.locator(".t-races strong", has_text="times as fast").count() == 2


def test_the_last_test_is_there_after_a_reload(open_window, full: LiveStudio, tester):
    page = enter(open_window(at=full).page)
    run(page, AGREES)
    assert rows(page, "bfloat16") == [
        ["sdpa in use", "right", "1.0 × 10⁻⁶", "3.5 ms"],
        ["triton", "can't run here: no CUDA device"],
    ]
    assert page.locator(".t-kernel h3").all_inner_texts() == ["bfloat16 in use", "float32"]
    assert page.locator(".t-kernel").nth(0).locator(".t-note").inner_text() == "Not timed: not now."
    assert page.locator(".t-kernel").nth(1).locator("strong").inner_text() == "9.0 times as fast"
    asked = len(tester.asked)
    page.reload(wait_until="domcontentloaded")
    says(page, AGREES)
    assert len(rows(page, "float32")) == 2 and len(tester.asked) == asked


def test_a_wrong_back_end_is_shown_as_wrong(open_window, full: LiveStudio, tester):
    tester.status = "failed"
    page = enter(open_window(at=full).page)
    run(page, "Wrong here: sdpa in bfloat16, sdpa in float32. Tested on cpu, ")
    assert page.locator(".t-room-says").get_attribute("data-kind") == "problem"
    verdict = "wrong: differs by 3.1e-02, allowed 1e-05"
    assert rows(page, "float32")[0] == ["sdpa in use", verdict, "1.0 × 10⁻⁶", "3.5 ms"]
    assert page.locator(".t-races").count() == 0 and page.locator(".t-kernel .t-note").count() == 2
    tester.status = "ran"
    run(page, AGREES)
    assert page.locator(".t-room-says").get_attribute("data-kind") == ""


def test_a_test_that_breaks_or_is_cancelled_says_so_above_the_one_before(
    open_window, full: LiveStudio, tester
):
    page = enter(open_window(at=full).page)
    run(page, AGREES)
    tester.fault = RuntimeError("no room")
    button(page, "Run the self-test").click()
    page.locator(
        ".t-room-says[data-kind=problem]", has_text="Below is the test before. Tested on cpu, "
    ).wait_for()
    assert rows(page, "float32")[0][1] == "right"
    tester.fault, tester.gate = None, threading.Event()
    run(page, "Testing, ")
    assert button(page, "Run the self-test").is_disabled()
    with page.expect_response(lambda answer: answer.url.endswith("/cancel")):
        button(page, "Cancel").click()
    tester.gate.set()
    says(page, "The test was cancelled. Below is the test before.")
    assert button(page, "Run the self-test").is_enabled() and button(page, "Cancel").is_hidden()


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_room_can_be_read_and_stays_inside_the_window(open_window, full: LiveStudio, tester, width, dark):
    tester.status = "failed"
    page = enter(open_window(at=full, width=width, height=844, dark=dark).page)
    run(page, "Wrong here: ")
    assert page.evaluate(_LOW_CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    outside = """() => [...document.querySelectorAll('.t-kernel *')]
      .filter((e) => e.getBoundingClientRect().right > innerWidth + 1).map((e) => e.textContent)"""
    assert page.evaluate(outside) == []

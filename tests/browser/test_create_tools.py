"""What the Create screen offers around a picture: relations, verification, length, stages, seams."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import MOST_SECONDS, LiveStudio
from tests.browser.test_create_page import choose, start, wait_for_picture, write
from tests.browser.test_layout import _LOW_CONTRAST, _STICKING_OUT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(MOST_SECONDS)]


def drag(page, locator, x, y):
    """Drag an element's middle to a point of the page."""
    locator.wait_for()
    box = locator.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(x, y, steps=4)
    page.mouse.up()


def test_a_dragged_box_changes_the_text_and_a_chip_does_too(open_window):
    page = open_window().page
    write(page, "a red cat to the left of a blue house")
    chip = page.locator(".t-relations li select")
    chip.wait_for()
    assert chip.input_value() == "left of"
    sketch = page.locator(".t-sketch")
    sketch.scroll_into_view_if_needed()
    edge = sketch.bounding_box()
    height = (
        edge["y"] + 0.28 * edge["height"]
    )  # above the cat: a box that lies on it would be dragged instead
    cat, house = (sketch.locator("button", has_text=name) for name in ("red cat", "blue house"))
    drag(page, house, edge["x"], height)
    drag(page, cat, edge["x"] + edge["width"], height)
    page.wait_for_function("document.querySelector('.t-relations select')?.value === 'right of'")
    assert page.input_value("#t-prompt textarea") == "a red cat to the right of a blue house"
    chip.select_option("above")
    page.wait_for_function("document.querySelector('#t-prompt textarea').value.includes('above')")
    assert page.input_value("#t-prompt textarea") == "a red cat above a blue house"
    # the sketch follows the chip
    page.wait_for_function("""() => {
      const boxes = [...document.querySelectorAll('.t-sketch button')];
      const top = (name) => boxes.find((box) => box.textContent.includes(name)).getBoundingClientRect().top;
      return top('red cat') < top('blue house');
    }""")


def test_verification_shows_its_tries_and_a_badge(full: LiveStudio, open_window):
    page = open_window(at=full).page
    write(page, "a red ball to the left of a blue ball")
    page.locator("#t-verify").wait_for()
    choose(page, "t-scale", "256")
    choose(page, "t-verify", "4 tries")
    page.fill("#t-seed input", "5")
    page.wait_for_function("document.querySelector('#t-keep input').checked")
    job = start(page)
    wait_for_picture(page, job)
    page.locator(".t-badges li[data-mark=good]").wait_for()
    assert "red ball left of blue ball" in page.inner_text(".t-badges")
    assert page.inner_text(".t-tries .t-label") == "2 tries, 1 accepted"
    assert page.locator(".t-tries li[data-mark=bad] img").count() == 1
    assert full.studio.gallery.get(job).recipe.request.seed == 6
    page.locator(".t-verdict button", has_text="Boxes").click()
    page.locator(".t-frame .t-box", has_text="red ball").wait_for()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_each_sentence_of_a_page_is_told_of(full: LiveStudio, open_window, dark):
    page = open_window(at=full, width=390 if dark else 1280, dark=dark).page
    write(page, "a red cat sleeps. a blue <b>house</b>. it is calm.")
    choose(page, "t-scale", "256")
    wait_for_picture(page, start(page))
    told = page.locator(".t-told")
    told.wait_for()
    assert told.get_attribute("open") is not None, "something may be missing"
    assert told.locator("summary span").inner_text() == "1 shown, 1 may be missing, 1 can't be told"
    lines = told.locator("li")
    assert lines.evaluate_all("list => list.map((line) => line.dataset.mark)") == ["good", "bad", "open"]
    assert lines.nth(1).inner_text().split("\n") == [
        "a blue <b>house</b>",
        "may be missing: not found: house",
    ]
    assert lines.nth(0).evaluate("line => line.textContent") == "a red cat sleeps, shown"
    assert page.evaluate(_LOW_CONTRAST) == [] and page.evaluate(_STICKING_OUT) == []
    summary = told.locator("summary")
    summary.focus()
    page.keyboard.press("Enter")
    assert told.get_attribute("open") is None
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "t-lines"


def test_one_sentence_has_its_badges_alone(full: LiveStudio, open_window):
    page = open_window(at=full).page
    write(page, "a red cat in a house.")
    choose(page, "t-scale", "256")
    with page.expect_response(re.compile("/sentences$")):
        wait_for_picture(page, start(page))
    page.locator(".t-badges").wait_for()
    assert page.locator(".t-told").count() == 0


def test_the_meter_counts_while_a_person_types(open_window):
    page = open_window().page
    gauge = page.locator(".t-gauge[data-encoder=T5]")
    write(page, "a red ball. a cat")
    page.wait_for_function("document.querySelector('.t-gauge strong')?.textContent === '7'")
    assert gauge.inner_text().split() == ["T5", "7", "of", "8"]
    assert page.locator(".t-gauge[data-encoder=T5] .t-gauge-bar i").count() == 2
    assert page.inner_text(".t-dropped").startswith("2 sentences, 0 tokens dropped")
    write(page, "a red ball in a meadow under stars")
    page.wait_for_selector(".t-dropped[role=alert]")
    assert page.inner_text(".t-dropped") == "1 sentence, 2 tokens dropped: “under stars”"
    assert gauge.get_attribute("data-over") == "1"
    assert not page.locator(".t-parts").is_visible(), "one sentence needs no list"


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_stones_and_sentences_light_up_together(open_window, dark):
    page = open_window(width=390 if dark else 1280, dark=dark).page
    write(page, "a red ball. a <b>cat</b>. a tree under stars")
    page.locator(".t-parts summary").click()
    lines = page.locator(".t-parts li")
    assert [line.split() for line in lines.all_text_contents()] == [
        ["a", "red", "ball3", "tokens"],
        ["a", "<b>cat</b>2", "tokens"],
        ["a", "not", "read:", "tree", "under", "stars1", "tokens"],
    ]
    assert page.locator(".t-parts s").inner_text() == "tree under stars"
    lit = "() => [...document.querySelectorAll('[data-lit]')].map((part) => part.dataset.part)"
    lines.nth(1).hover()
    assert page.evaluate(lit) == ["1", "1", "1"], "a stone of each encoder, and the sentence"
    page.locator(".t-gauge[data-encoder=T5] [data-part='0']").hover()
    assert page.evaluate(lit) == ["0", "0", "0"]
    page.mouse.move(0, 0)
    page.locator(".t-parts .t-lines").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate(lit) == ["1", "1", "1"]
    active = page.get_attribute(".t-parts .t-lines", "aria-activedescendant")
    assert (
        active == lines.nth(1).get_attribute("id") and lines.nth(1).get_attribute("aria-selected") == "true"
    )
    page.keyboard.press("End")
    assert page.evaluate(lit)[-1] == "2"
    assert page.evaluate(_LOW_CONTRAST) == [] and page.evaluate(_STICKING_OUT) == []
    # the list stays open while a person types on
    write(page, "a red ball. a cat")
    page.wait_for_function("document.querySelectorAll('.t-parts li').length === 2")
    assert lines.first.is_visible()


def test_stages_are_shown_compared_and_measured(live: LiveStudio, open_window):
    page = open_window().page
    job = start(page)
    wait_for_picture(page, job)
    chip = page.locator(".t-grown button", has_text="256 × 256")
    assert chip.locator("img").evaluate("image => image.decode().then(() => image.naturalWidth)") > 0
    chip.click()
    line = page.locator(".t-curtain")
    line.wait_for()
    assert line.get_attribute("aria-valuenow") == "50"
    assert "256 × 256, enlarged" in line.inner_text()
    stage = page.locator(".t-viewer").bounding_box()
    drag(page, line, stage["x"] + 0.8 * stage["width"], stage["y"] + stage["height"] / 2)
    assert abs(int(line.get_attribute("aria-valuenow")) - 80) <= 1
    assert abs(line.bounding_box()["x"] + 14 - stage["x"] - 0.8 * stage["width"]) <= 2
    line.press("Home")
    assert line.get_attribute("aria-valuenow") == "0"
    line.press("ArrowRight")
    assert line.get_attribute("aria-valuenow") == "2"
    chip.click()
    line.wait_for(state="detached")
    meter = page.locator(".t-quiet button", has_text="Seam meter")
    meter.click()
    page.locator(".t-quiet button", has_text="Seams 1.04").wait_for()
    assert page.locator(".t-box[data-mark=line]").inner_text() == "seam 1.21"


def test_a_page_is_compared_with_what_plain_pipelines_read_of_it(live: LiveStudio, open_window):
    page = open_window().page
    write(page, "a red ball")
    choose(page, "t-scale", "256")
    wait_for_picture(page, start(page))
    assert page.get_by_role("button", name="cut prompt").count() == 0, "read at once"
    write(page, "a red ball in a meadow under a tree")
    job = start(page)
    wait_for_picture(page, job)
    button = page.get_by_role("button", name="Compare with the cut prompt")
    button.click()
    line = page.locator(".t-curtain")
    line.wait_for()
    assert button.get_attribute("aria-pressed") == "true" and "first 8 tokens" in line.inner_text()
    newest = live.studio.jobs(1)[0]
    assert (
        newest.id != job
        and newest.request.cut_prompt
        and newest.request.seed == live.studio.watch(job).request.seed
    )
    button.click()
    line.wait_for(state="detached")
    assert button.get_attribute("aria-pressed") == "false"


def test_rooms_and_switches_are_there_only_with_their_models(full: LiveStudio, open_window):
    shown = """() => [...document.querySelectorAll('.t-rooms a')]
      .filter((link) => link.checkVisibility()).map((link) => link.text)"""
    small = open_window().page
    small.wait_for_function("document.querySelector('.t-status-model')")
    assert small.evaluate(shown) == ["Create", "Kernels"]
    small.goto(f"{small.url.split('#')[0]}#tokens")
    assert small.locator("#t-desk").is_visible(), "a room that is not there leads to the first"
    page = open_window(at=full).page
    page.get_by_role("link", name="Tokens").click()
    page.locator(".t-room[data-of=tokens] .t-go").wait_for()
    page.get_by_role("link", name="Video").click()
    page.locator(".t-room[data-of=video] .t-go", has_text="Film").wait_for()
    assert page.evaluate(shown) == ["Create", "Tokens", "Video", "Kernels"]
    page.get_by_role("link", name="Create").click()
    page.locator("#t-more > button").click()
    switch = page.locator("#t-tenor input")
    assert switch.count() == 0 or not switch.is_visible()
    page.locator("#t-model input").click()
    page.get_by_role("option", name=re.compile("spatial")).click()
    switch.wait_for()
    switch.uncheck()
    choose(page, "t-scale", "256")
    job = start(page)
    wait_for_picture(page, job)
    assert full.studio.watch(job).request.tenor is False

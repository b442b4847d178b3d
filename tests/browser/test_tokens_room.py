"""What a visitor does in the Tokens room: prefixes, budgets, mixes, new tails, a picture that grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from PIL import Image, ImageDraw

from tests.browser.conftest import MOST_SECONDS, LiveStudio
from tests.browser.test_create_page import choose, start, wait_for_picture
from tests.browser.test_layout import _LOW_CONTRAST
from tests.studio.makers import COUNT, STOPS, DrawingTokenizer

pytestmark = [pytest.mark.browser, pytest.mark.timeout(MOST_SECONDS)]


@pytest.fixture
def tokenizer(full: LiveStudio) -> DrawingTokenizer:
    assert full.tokenizer
    return full.tokenizer


@pytest.fixture
def half(tokenizer: DrawingTokenizer) -> Iterator[threading.Event]:
    """Drawing from text stops after half of the tokens until this is set."""
    tokenizer.half = threading.Event()
    yield tokenizer.half
    tokenizer.half.set()
    tokenizer.half = None


@pytest.fixture
def drawn(tmp_path):
    """Two different picture files."""
    paths = []
    for name, colour in (("red", (200, 40, 30)), ("blue", (30, 60, 190))):
        picture = Image.new("RGB", (90, 60), (240, 240, 230))
        ImageDraw.Draw(picture).ellipse((20, 10, 70, 50), fill=colour)
        paths.append(tmp_path / f"{name}.png")
        picture.save(paths[-1])
    return paths


def enter(page):
    page.locator(".t-rooms a[data-room=tokens]").click()
    page.locator(".t-room[data-of=tokens] .t-go").wait_for()


def room(page, selector, **options):
    return page.locator(f".t-room[data-of=tokens] {selector}", **options)


def says(page, text):
    """Wait until the line under the shown prefix says so."""
    page.wait_for_function("text => document.querySelector('.t-token-says')?.textContent === text", arg=text)


def shown_job(page):
    """The job whose tokens the room shows."""
    return room(page, "a[href*='strip.fxtk']").get_attribute("href").split("jobs/")[1].split("/")[0]


def make_tokens(page, path):
    """Turn a picture file into tokens; the id of the job."""
    room(page, "input[type=file]").set_input_files(str(path))
    room(page, ".t-dropzone.t-has").wait_for()
    with page.expect_response(lambda answer: answer.status == 202 and answer.url.endswith("/jobs")) as asked:
        room(page, ".t-go").click()
    job = asked.value.json()["job"]
    page.wait_for_function(
        """([job, stops]) => {
          const link = document.querySelector('.t-token-table a[href*="strip.fxtk"]');
          const slider = document.querySelector('.t-token-table input[type=range]');
          return link?.href.includes(job) && Number(slider.max) === stops - 1;
        }""",
        arg=[job, len(STOPS)],
    )
    return job


def tokens_of(full, job):
    return full.studio.watch(job).result["tokens"]


def next_job(page, before):
    """The job that is shown, whole, after another one was."""
    page.wait_for_function(
        """before => {
          const link = document.querySelector('.t-token-table a[href*="strip.fxtk"]');
          const says = document.querySelector('.t-token-says').textContent;
          return !link.href.includes(before) && says === '16 of 16 tokens';
        }""",
        arg=before,
    )
    return shown_job(page)


def to_stop(page, count):
    """Move the slider to a number of tokens by its keys."""
    slider = room(page, ".t-token-table > .t-range")
    slider.press("Home")
    for _ in range(STOPS.index(count)):
        slider.press("ArrowRight")
    says(page, f"{count} of {COUNT} tokens")


def test_a_painted_picture_is_turned_into_tokens_and_looked_at(full: LiveStudio, open_window):
    page = open_window(at=full).page
    choose(page, "t-scale", "256")
    wait_for_picture(page, start(page))
    page.locator(".t-row button", has_text="Turn into tokens").click()
    says(page, "16 of 16 tokens")
    assert page.evaluate("location.hash") == "#tokens"
    assert full.studio.watch(shown_job(page)).request.source.startswith("picture:")
    pictures = room(page, ".t-pair img")
    for index in range(2):
        assert pictures.nth(index).evaluate("image => image.decode().then(() => image.naturalWidth)") == 32
    slider = room(page, ".t-token-table > .t-range")
    slider.press("Home")
    says(page, "1 of 16 tokens")
    assert pictures.nth(1).get_attribute("src").endswith("k-001.png")
    assert slider.get_attribute("aria-valuetext") == "1 of 16 tokens"
    slider.press("ArrowRight")
    says(page, "2 of 16 tokens")
    facts = room(page, ".t-facts span").all_inner_texts()
    assert facts[0] == "4 bytes" and "12.0 dB" in facts and "mean error 15.0 %" in facts
    assert room(page, ".t-stones li.t-pale").count() == 14
    assert room(page, "a", has_text="Download tokens").get_attribute("href").endswith("strip.fxtk?keep=2")
    with page.expect_download() as download:
        room(page, "a", has_text="Download tokens").click()
    assert full.tokenizer.read(download.value.path().read_bytes()).count == 2
    room(page, ".t-stones button").nth(7).click()  # the eighth token is the last that is shown
    says(page, "8 of 16 tokens")
    assert room(page, ".t-curve circle.t-kept").count() == 1


def test_the_budget_finder_says_how_many_tokens_are_enough(full: LiveStudio, open_window, drawn):
    page = open_window(at=full).page
    enter(page)
    make_tokens(page, drawn[0])
    box = room(page, ".t-budget input")
    for target, text in (
        ("13", "4 tokens (8 bytes) are enough."),
        ("14.5", "16 tokens (32 bytes) are enough."),
        ("40", "Not even 16 tokens reach that."),
        ("", "How many tokens are needed? Give a quality."),
    ):
        box.fill(target)
        room(page, ".t-budget .t-hint", has_text=text).wait_for()  # the curve may still grow
        assert room(page, ".t-curve .t-target").count() == bool(target)


def test_two_pictures_are_mixed_stone_by_stone_and_at_a_cut(full: LiveStudio, open_window, drawn):
    page = open_window(at=full).page
    enter(page)
    blue, red = make_tokens(page, drawn[1]), make_tokens(page, drawn[0])
    room(page, "summary", has_text="Mix with another picture").click()
    mix = room(page, "button", has_text="Show the mix")
    mix.click()
    room(page, ".t-note", has_text="Choose another picture first.").wait_for()
    partner = room(page, "select")
    partner.select_option(blue)
    mix.click()
    room(page, ".t-note", has_text="Press the stones that should come from the other picture.").wait_for()
    for place in (2, 4, 4, 9):  # one is pressed twice: it goes back
        room(page, ".t-stones button").nth(place).click()
    marked = room(page, ".t-stones li[data-other]")
    assert marked.count() == 2
    assert marked.first.locator("button").get_attribute("aria-label").endswith("from the other picture")
    assert room(page, ".t-hint", has_text="2 of 16 tokens come from the other picture.").is_visible()
    mix.click()
    mixed = next_job(page, red)
    ours, theirs = tokens_of(full, red), tokens_of(full, blue)
    assert tokens_of(full, mixed) == [
        theirs[place] if place in (2, 9) else token for place, token in enumerate(ours)
    ]
    assert room(page, ".t-pair figure").first.is_hidden()  # a mix has no original
    room(page, "[aria-label=History] button").nth(1).click()  # back to the red one
    page.wait_for_function("job => document.querySelector('.t-token-table a').href.includes(job)", arg=red)
    to_stop(page, 4)
    partner.select_option(blue)
    room(page, "button", has_text="First tokens from this, rest from the other").click()
    assert marked.count() == 12
    mix.click()
    assert tokens_of(full, next_job(page, red)) == ours[:4] + theirs[4:]


def test_the_tail_is_drawn_anew_behind_the_tokens_that_are_kept(full: LiveStudio, open_window, drawn):
    page = open_window(at=full).page
    enter(page)
    job = make_tokens(page, drawn[0])
    room(page, "summary", has_text="Draw the rest anew").click()
    again = room(page, "button", has_text="Keep these tokens, draw the others")
    again.click()
    room(page, ".t-note", has_text="Say what the picture shows.").wait_for()
    room(page, ".t-tool-box textarea").fill("a red ball in a meadow")
    again.click()
    room(page, ".t-note", has_text="Keep fewer tokens: there is none left to draw.").wait_for()
    to_stop(page, 4)
    again.click()
    tail = next_job(page, job)
    before, after = tokens_of(full, job), tokens_of(full, tail)
    assert after[:4] == before[:4] and after[4:] != before[4:]
    asked = full.studio.watch(tail).request
    assert (asked.prompt, asked.keep) == ("a red ball in a meadow", len(before))
    room(page, ".t-note", has_text="careful").wait_for()  # what the model remarked
    assert room(page, ".t-note", has_text="Say what the picture shows.").count() == 0


def test_a_picture_from_text_grows_before_the_eyes(full: LiveStudio, open_window, drawn, half):
    page = open_window(at=full).page
    enter(page)
    room(page, ".t-go").click()
    room(page, ".t-note", has_text="Choose a picture first.").wait_for()
    first = make_tokens(page, drawn[0])
    room(page, ".t-segmented label", has_text="From text").click()
    room(page, ".t-form textarea").fill("a blue house on a beach")
    room(page, ".t-field", has_text="Tokens").locator("input[type=range]").last.fill("4")
    go = room(page, ".t-go", has_text="Draw tokens")
    go.click()
    growing = room(page, ".t-growing")
    growing.locator("img").wait_for()
    assert growing.inner_text() == "8 of 16 tokens"
    assert growing.locator("img").evaluate("image => image.naturalWidth") > 0
    assert room(page, ".t-token-table").is_hidden()
    room(page, "button", has_text="Cancel").click()
    growing.wait_for(state="hidden")
    assert room(page, ".t-token-table").is_visible() and shown_job(page) == first  # what was there before
    go.click()
    growing.locator("img").wait_for()
    half.set()
    grown = next_job(page, first)
    assert growing.is_hidden() and room(page, ".t-token-table").is_visible()
    asked = full.studio.watch(grown).request
    assert (asked.kind, asked.prompt, asked.keep) == ("generate", "a blue house on a beach", 16)


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1280, False)])
def test_the_room_can_be_read_and_stays_inside_the_window(full: LiveStudio, open_window, drawn, width, dark):
    page = open_window(at=full, width=width, height=844, dark=dark).page
    enter(page)
    make_tokens(page, drawn[0])
    for box in room(page, ".t-tool-box summary").all():
        box.click()
    assert page.evaluate(_LOW_CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    stones = room(page, ".t-stones button")
    stones.first.focus()
    page.keyboard.press("ArrowRight")
    assert stones.nth(1).evaluate("stone => stone === document.activeElement")
    assert room(page, ".t-stones button[tabindex='0']").count() == 1  # one stop of the Tab key

"""What a visitor does on the Create screen, in a real browser."""

from __future__ import annotations

import re

import pytest

from tests.browser.conftest import MOST_SECONDS, LiveStudio, ready, watch

pytestmark = [pytest.mark.browser, pytest.mark.timeout(MOST_SECONDS)]

HOSTILE = '<img src=x onerror="window.__hit=1"> ${window.__hit=2} {{7*7}} `${window.__hit=3}` <b>bold</b>'


def write(page, text):
    page.fill("#t-prompt textarea", text)


def choose(page, group, text):
    page.locator(f"#{group} label", has_text=re.compile(rf"^\s*{text}\s*$")).click()
    if group == "t-scale":
        page.wait_for_selector(f".t-forecast[data-width='{text}']")


def start(page):
    """Press Generate; the id of the job that the page then follows."""
    before = page.evaluate("sessionStorage.getItem('tessera.job')")
    page.click("#t-generate")
    page.wait_for_function(
        "before => ![null, before].includes(sessionStorage.getItem('tessera.job'))", arg=before
    )
    return page.evaluate("sessionStorage.getItem('tessera.job')")


def wait_for_picture(page, job):
    page.wait_for_selector(f".t-row a[href*='{job}']")


def test_a_prompt_becomes_a_picture_with_progress_on_the_way(live: LiveStudio, open_window, hold):
    page = open_window().page
    write(page, "a red cat to the left of a blue house")
    gate = hold("decode")
    job = start(page)
    page.wait_for_selector(".t-frame img.t-preview")
    page.wait_for_function("Number(document.querySelector('[role=progressbar]').ariaValueNow) > 60")
    assert page.locator(".t-phases li").all_inner_texts() == [
        "Read prompt",
        "256 × 256",
        "1024 × 1024",
        "Develop",
        "Save",
    ]
    assert page.locator(".t-phases li[data-at=past]").count() == 2
    assert page.locator(".t-phases li[data-at=now]").inner_text() == "1024 × 1024"
    gate.set()
    wait_for_picture(page, job)
    picture = page.locator(".t-frame img.t-picture")
    picture.wait_for()
    assert picture.get_attribute("alt") == "a red cat to the left of a blue house"
    assert picture.evaluate("image => [image.naturalWidth, image.naturalHeight]") == [1024, 1024]
    assert not page.locator("#t-cancel").is_visible()
    assert page.locator(f".t-strip button[data-id='{job}']").get_attribute("aria-current") == "true"


def test_a_reload_in_the_middle_finds_the_job_again(live: LiveStudio, open_window, hold):
    page = open_window().page
    gate = hold("paint")
    job = start(page)
    page.wait_for_selector(".t-progress")
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(".t-progress")
    assert page.evaluate("sessionStorage.getItem('tessera.job')") == job
    assert live.studio.watch(job).state == "running"
    gate.set()
    wait_for_picture(page, job)
    page.reload(wait_until="domcontentloaded")
    wait_for_picture(page, job)


def test_a_new_tab_takes_up_the_job_that_this_browser_started(live: LiveStudio, open_window, hold):
    window = open_window()
    gate = hold("paint")
    job = start(window.page)
    window.page.wait_for_selector(".t-progress")
    window.page.close()
    again = window.context.new_page()
    watch(window, again, live.url)
    ready(again, live.url)
    again.wait_for_selector(".t-progress")
    assert live.studio.watch(job).state == "running"
    gate.set()
    wait_for_picture(again, job)
    assert live.studio.watch(job).state == "done"


@pytest.mark.parametrize("how", ["button", "Escape"])
def test_cancel_stops_the_job_and_the_next_one_is_painted(live: LiveStudio, open_window, hold, how):
    page = open_window().page
    hold("paint")
    job = start(page)
    page.wait_for_selector(".t-progress")
    if how == "button":
        page.click("#t-cancel")
    else:
        page.keyboard.press("Escape")
    page.get_by_role("heading", name="Cancelled").wait_for()
    assert live.studio.watch(job).state == "cancelled"
    assert not live.studio.gallery.has(job)
    live.painter.gates.clear()
    wait_for_picture(page, start(page))


def test_two_tabs_follow_their_own_jobs(live: LiveStudio, open_window, hold):
    window = open_window()
    first, second = window.page, window.context.new_page()
    watch(window, second, live.url)
    gate = hold("paint")
    write(first, "a red ball")
    job = start(first)
    ready(second, live.url)
    write(second, "a blue ball")
    other = start(second)
    assert other != job
    second.get_by_role("heading", name="Waiting for the picture before it").wait_for()
    second.click("#t-cancel")
    second.get_by_role("heading", name="Cancelled").wait_for()
    assert live.studio.watch(job).state == "running"
    gate.set()
    wait_for_picture(first, job)
    first.reload(wait_until="domcontentloaded")
    wait_for_picture(first, job)
    assert first.locator(".t-under h2").inner_text() == "a red ball"


def test_the_form_says_what_it_will_take_and_what_is_not_understood(open_window):
    page = open_window().page
    choose(page, "t-shape", "Landscape")
    choose(page, "t-scale", "4096")
    page.locator(".t-forecast", has_text="4096 × 2304").wait_for()  # the height follows the width
    assert "256 × 144" in page.inner_text(".t-forecast")
    assert re.search(r"about \d+ s\s+[\d.]+ GB", page.inner_text(".t-forecast"))
    write(page, "an astronaut riding a horse")
    note = page.locator("#t-said .t-note")
    note.wait_for()
    assert "Not in Storybook’s world: astronaut, riding, horse." in note.inner_text()
    choose(page, "t-shape", "Custom")
    page.locator("#t-sides input").first.fill("100")
    page.locator("#t-sides input").first.press("Tab")
    page.locator("#t-dock .t-note[data-kind=problem]").wait_for()
    assert "width: given 100" in page.inner_text("#t-dock .t-note")


def test_a_large_picture_opens_in_the_viewer(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "2048")
    job = start(page)
    wait_for_picture(page, job)
    page.wait_for_selector(".t-viewer[data-ready]")
    zoom = page.get_by_label("Zoom", exact=True).first
    fitting = int(page.locator(".t-zoom output").inner_text().split()[0])
    assert fitting < 50
    page.get_by_label("One picture pixel on one screen pixel").click()
    page.wait_for_function("document.querySelector('.t-zoom output').textContent === '100 %'")
    page.get_by_label("Whole picture").click()
    page.wait_for_function(f"document.querySelector('.t-zoom output').textContent === '{fitting} %'")
    assert zoom.is_visible()


def test_the_download_is_the_file_the_studio_wrote(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    write(page, "a red ball in a meadow")
    job = start(page)
    wait_for_picture(page, job)
    with page.expect_download() as download:
        page.get_by_text("Download PNG").click()
    assert re.fullmatch(r"a-red-ball-in-a-meadow-\d+\.png", download.value.suggested_filename)
    assert download.value.path().read_bytes() == live.studio.gallery.get(job).path.read_bytes()


def test_settings_come_back_from_the_strip_and_from_a_dropped_file(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    write(page, "a blue ball under a night sky")
    job = start(page)
    wait_for_picture(page, job)
    seed = live.studio.watch(job).request.seed
    page.reload(wait_until="domcontentloaded")
    wait_for_picture(page, job)
    page.get_by_text("Use these settings").click()
    page.wait_for_function("seed => document.querySelector('#t-seed input').value === seed", arg=str(seed))
    assert page.input_value("#t-prompt textarea") == "a blue ball under a night sky"
    assert page.locator("#t-scale label:has(input:checked)").inner_text() == "256"
    assert page.locator("#t-keep input").is_checked()

    write(page, "something else")
    page.fill("#t-seed input", "1")
    page.locator("#t-more > button").click()
    page.set_input_files("#t-drop input[type=file]", str(live.studio.gallery.get(job).path))
    page.wait_for_function("seed => document.querySelector('#t-seed input').value === seed", arg=str(seed))
    assert page.input_value("#t-prompt textarea") == "a blue ball under a night sky"


def test_a_file_without_a_recipe_is_refused_in_one_sentence(open_window, tmp_path):
    page = open_window().page
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    page.locator("#t-more > button").click()
    page.set_input_files("#t-drop input[type=file]", str(path))
    page.locator("#t-more .t-note[data-kind=problem]").wait_for()
    assert "can't be read" in page.inner_text("#t-more .t-note")


def test_markup_in_a_prompt_stays_text_everywhere(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    write(page, HOSTILE)
    page.locator("#t-said .t-note").wait_for()
    job = start(page)
    wait_for_picture(page, job)
    assert page.locator(".t-under h2").inner_text() == HOSTILE
    assert page.locator(".t-frame img.t-picture").get_attribute("alt") == HOSTILE
    page.locator(f".t-strip button[data-id='{job}']").click()
    page.reload(wait_until="domcontentloaded")
    wait_for_picture(page, job)
    assert page.evaluate("window.__hit") is None
    assert page.locator("img[src='x']").count() == 0


def test_a_new_seed_paints_the_same_request_again(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    job = start(page)
    wait_for_picture(page, job)
    page.locator(".t-row button", has_text="New seed").click()
    page.wait_for_function("job => sessionStorage.getItem('tessera.job') !== job", arg=job)
    again = page.evaluate("sessionStorage.getItem('tessera.job')")
    wait_for_picture(page, again)
    first, second = live.studio.watch(job).request, live.studio.watch(again).request
    assert first.seed != second.seed
    assert (first.prompt, first.size) == (second.prompt, second.size)


def test_keys_generate_and_focus(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    page.locator(".t-header").click()
    page.keyboard.press("/")
    page.keyboard.press("Control+A")
    page.keyboard.type("a red ball")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("sessionStorage.getItem('tessera.job')")
    job = page.evaluate("sessionStorage.getItem('tessera.job')")
    wait_for_picture(page, job)
    assert live.studio.watch(job).request.prompt == "a red ball"


def test_code_is_copied(live: LiveStudio, open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    write(page, "a red ball")
    wait_for_picture(page, start(page))
    page.get_by_text("Copy command").click()
    page.get_by_text("Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()").startswith(
        "python -m studio image 'a red ball' --size 256x256"
    )


def test_a_failure_is_told_and_can_be_retried(live: LiveStudio, open_window, monkeypatch):
    page = open_window().page
    choose(page, "t-scale", "256")

    def fail(*args, **kwargs):
        raise RuntimeError("inner detail /etc/passwd")

    with monkeypatch.context() as patch:
        patch.setattr(live.painter, "paint", fail)
        job = start(page)
        page.get_by_role("heading", name="This picture was not painted").wait_for()
    assert page.locator(".t-under .t-note[data-kind=problem]").inner_text()
    assert "inner detail" not in page.content() and "passwd" not in page.content()
    page.get_by_text("Paint it after all").click()
    wait_for_picture(page, job)

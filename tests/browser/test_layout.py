"""How the page looks, as far as numbers can say it: width, contrast, reach of the main button, names."""

from __future__ import annotations

import pytest

from tests.browser.conftest import MOST_SECONDS
from tests.browser.test_create_page import choose, start, wait_for_picture

pytestmark = [pytest.mark.browser, pytest.mark.timeout(MOST_SECONDS)]

# every visible text against the nearest opaque background behind it; large text may have 3:1
_LOW_CONTRAST = """() => {
  const parse = (text) => {
    const n = text.match(/[\\d.]+/g).map(Number);
    return { rgb: n.slice(0, 3), a: n[3] ?? 1 };
  };
  const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
  const light = (rgb) => rgb.reduce((sum, v, i) => sum + linear(v / 255) * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const { rgb, a } = parse(getComputedStyle(at).backgroundColor);
      if (a > 0.7) return rgb;
    }
    return [255, 255, 255];
  };
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    const text = walker.currentNode.textContent.trim();
    if (!text || !element.checkVisibility({ opacityProperty: true })) continue;
    const box = element.getBoundingClientRect();
    if (box.width < 2 || box.height < 2) continue;
    const style = getComputedStyle(element);
    const pair = [light(parse(style.color).rgb), light(behind(element))].sort((x, y) => y - x);
    const ratio = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (ratio < (parseFloat(style.fontSize) >= 24 ? 3 : 4.5)) {
      low.push(`${ratio.toFixed(2)} ${element.className} ${text.slice(0, 30)}`);
    }
  }
  return low;
}"""


_STICKING_OUT = """() => [...document.querySelectorAll('#t-desk *')]
  .filter((e) => e.checkVisibility() && !e.closest('.t-strip'))
  .filter((e) => e.getBoundingClientRect().right > innerWidth + 1)
  .map((e) => e.id || e.className)"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_text_has_contrast_and_nothing_sticks_out(open_window, width, dark):
    page = open_window(width=width, height=844, dark=dark).page
    assert page.evaluate("document.body.classList.contains('dark')") == dark
    page.fill("#t-prompt textarea", "an astronaut with a red ball")
    page.locator("#t-said .t-note").wait_for()
    # nothing here stands beside anything: a sketch of the words before them goes away
    page.wait_for_function("!document.documentElement.classList.contains('t-related')")
    assert page.evaluate(_LOW_CONTRAST) == []
    choose(page, "t-scale", "256")
    wait_for_picture(page, start(page))
    page.locator(".t-cost summary").click()
    page.locator("#t-more > button").click()
    assert page.evaluate(_LOW_CONTRAST) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(_STICKING_OUT) == []


@pytest.mark.parametrize(("width", "height"), [(390, 844), (1280, 720)])
def test_generate_is_always_in_reach(open_window, width, height):
    page = open_window(width=width, height=height).page
    for top in (0, 300, 10_000):
        page.evaluate("top => window.scrollTo(0, top)", top)
        box = page.locator("#t-generate").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= height


def test_two_columns_on_a_desk_and_one_on_a_phone(open_window):
    desk = open_window(width=1280).page
    panel, canvas = (desk.locator(name).bounding_box() for name in ("#t-panel", "#t-canvas"))
    assert abs(panel["width"] - 360) <= 1
    assert canvas["x"] >= panel["x"] + panel["width"] and abs(canvas["y"] - panel["y"]) <= 1
    phone = open_window(width=390, height=844).page
    panel, canvas = (phone.locator(name).bounding_box() for name in ("#t-panel", "#t-canvas"))
    assert canvas["y"] >= panel["y"] + panel["height"]


def test_the_theme_button_switches_and_is_remembered(open_window):
    page = open_window().page
    page.get_by_label("Switch between light and dark").click()
    assert page.evaluate("document.body.classList.contains('dark')")
    page.reload(wait_until="domcontentloaded")
    page.wait_for_selector(".t-easel")
    page.wait_for_function("document.body.classList.contains('dark')")


def test_everything_that_can_be_used_has_a_name(open_window):
    page = open_window().page
    choose(page, "t-scale", "256")
    wait_for_picture(page, start(page))
    page.locator("#t-more > button").click()
    nameless = """() => [...document.querySelectorAll('button, a, input, textarea, img')].filter((e) =>
      e.checkVisibility() && !(e.innerText?.trim() || e.getAttribute('aria-label') || e.title || e.alt
      || e.labels?.length)).map((e) => e.outerHTML.slice(0, 120))"""
    assert page.evaluate(nameless) == []


def test_nothing_of_the_shell_shows_through(open_window):
    page = open_window().page
    assert page.locator("footer:visible").count() == 0
    assert page.title() == "Tessera Studio"

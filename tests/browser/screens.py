"""Pictures of the Create screen for the documents: the running page, the embedded models, nothing staged.

    python -m tests.browser.screens --out docs/images --data /tmp/screens

The folder `--data` keeps what was painted: a second run, or one over a gallery that has such pictures, paints
only what is missing. A picture of 4096 px takes minutes.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from studio.requests import ImageRequest
from studio.settings import Settings
from studio.studio import Studio
from studio.ui.page import build_page, free_port, launch_options
from tests.browser.conftest import BROWSER_ARGUMENTS
from tests.conftest import find_chromium

PROMPT = "a red cat to the left of a blue house in a meadow"
SEED = 7
LARGE = 4096
MOST_BYTES = 200_000
SCENES = ("empty", "running", "finished", "zoomed")
# enough for a picture of 4096 px on two busy cores
_PATIENCE_MS = 3 * 3_600_000
# (width, height, screen pixels for one of the page)
_DESK, _PHONE = (1280, 900, 1), (390, 844, 2)
Shoot = Callable[[str, str], None]


@dataclass
class Scenery:
    """A served studio and one window of each width."""

    studio: Studio
    desk: Any
    phone: Any

    @property
    def windows(self) -> dict[int, Any]:
        return {_DESK[0]: self.desk, _PHONE[0]: self.phone}

    def show(self, picture: str) -> None:
        """Let both windows show a job or picture that the strip offers."""
        for page in self.windows.values():
            tile = page.locator(f".t-strip button[data-id='{picture}']")
            tile.wait_for()
            tile.click()

    def newest(self, longest: int) -> str:
        """The newest picture of that longer side, "" when there is none."""
        pictures = self.studio.gallery.recent(200)
        sized = (p.id for p in pictures if max(p.width, p.height) == longest)
        return next(sized, "")


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for screen_*.webp")
    parser.add_argument("--data", type=Path, help="data folder to use (default: a new one)")
    parser.add_argument("--only", nargs="+", choices=SCENES, default=SCENES, help="scenes to take")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="tessera-screens-") as folder:
        data = (chosen.data or Path(folder)).absolute()
        with _opened(Settings(data_dir=data, port=17960)) as scenery:
            take = {"empty": _empty, "running": _running, "finished": _finished, "zoomed": _zoomed}
            for name in SCENES:
                if name in chosen.only:
                    take[name](scenery)
                    _take(scenery, name, chosen.out)


def _empty(scenery: Scenery) -> None:
    """The screen as it opens."""


def _running(scenery: Scenery) -> None:
    page = scenery.desk
    page.fill("#t-prompt textarea", PROMPT)
    page.fill("#t-seed input", str(SEED))
    page.wait_for_function("document.querySelector('#t-keep input').checked")
    page.click("#t-generate")
    page.wait_for_function("sessionStorage.getItem('tessera.job')")
    # the last stage has begun and a preview of it hangs
    page.wait_for_selector(".t-frame > .t-guide")
    job = page.evaluate("sessionStorage.getItem('tessera.job')")
    scenery.phone.locator(f".t-strip button[data-id='{job}']").click()
    scenery.phone.wait_for_selector(".t-frame > .t-preview")


def _finished(scenery: Scenery) -> None:
    scenery.desk.wait_for_function("!document.documentElement.classList.contains('t-running')")
    picture = scenery.newest(1024) or _painted(scenery, 1024)
    scenery.show(picture)
    for page in scenery.windows.values():
        page.wait_for_selector(".t-frame img.t-picture")
        page.wait_for_selector(".t-verdict")


def _zoomed(scenery: Scenery) -> None:
    scenery.show(scenery.newest(LARGE) or _painted(scenery, LARGE))
    for page in scenery.windows.values():
        page.wait_for_selector(".t-viewer[data-ready]")
        for _ in range(3):
            page.get_by_label("Zoom in").click()
        # the zoom glides for half a second and the navigator is drawn after it
        page.wait_for_timeout(2_000)


def _painted(scenery: Scenery, side: int) -> str:
    job = scenery.studio.submit(ImageRequest(PROMPT, side, side, SEED))
    page = scenery.desk
    page.wait_for_selector(f".t-strip button[data-id='{job}'][data-kind=picture]")
    return job


def _take(scenery: Scenery, scene: str, out: Path) -> None:
    for width, page in scenery.windows.items():
        if scene != "empty":
            page.locator(".t-easel").evaluate("easel => easel.scrollIntoView()")
        if width == _DESK[0]:
            page.evaluate("window.scrollTo(0, 0)")
        for scheme in ("light", "dark"):
            page.evaluate("dark => document.body.classList.toggle('dark', dark)", scheme == "dark")
            page.wait_for_timeout(1_000)
            _save(page.screenshot(timeout=_PATIENCE_MS), out / f"screen_{scene}_{width}_{scheme}.webp")
        page.evaluate("document.body.classList.remove('dark')")


def _save(png: bytes, path: Path) -> None:
    """Write a picture as WebP, as good as `MOST_BYTES` allow."""
    with Image.open(io.BytesIO(png)) as picture:
        for quality in (90, 80, 70, 55, 40):
            file = io.BytesIO()
            picture.convert("RGB").save(file, "WEBP", quality=quality, method=4)
            if file.tell() <= MOST_BYTES:
                break
    path.write_bytes(file.getvalue())
    print(f"{path}  {picture.width}x{picture.height}  {file.tell() / 1000:.0f} kB", flush=True)


@contextmanager
def _opened(settings: Settings) -> Iterator[Scenery]:
    from playwright.sync_api import sync_playwright

    with Studio(settings) as studio, sync_playwright() as playwright:
        page = build_page(studio)
        port = free_port(settings)
        _, url, _ = page.launch(
            server_port=port, prevent_thread_lock=True, quiet=True, **launch_options(studio)
        )
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=BROWSER_ARGUMENTS, timeout=_PATIENCE_MS
        )
        try:
            yield Scenery(studio, _window(browser, url, _DESK), _window(browser, url, _PHONE))
        finally:
            browser.close()
            page.close()


def _window(browser: Any, url: str, shape: tuple[int, int, int]) -> Any:
    width, height, scale = shape
    # a busy machine takes seconds for what moves for a tenth of one, and would be caught half-way
    look = {"color_scheme": "light", "reduced_motion": "reduce"}
    viewport = {"width": width, "height": height}
    context = browser.new_context(viewport=viewport, device_scale_factor=scale, **look)
    context.set_default_timeout(_PATIENCE_MS)
    page = context.new_page()
    page.goto(url, wait_until="domcontentloaded", timeout=_PATIENCE_MS)
    page.wait_for_selector(".t-easel")
    page.wait_for_selector(".t-forecast")
    page.wait_for_selector(".t-relations li")
    return page


if __name__ == "__main__":
    main()

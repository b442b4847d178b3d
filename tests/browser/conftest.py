"""A running studio with a slow painter, and a browser that notices every request to another machine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from studio.settings import Settings
from studio.studio import Studio
from tests.browser.scene_painter import ScenePainter
from tests.studio.painters import make_weights

# no sandbox: tests may run as root; the rest keeps the browser itself from calling home
_BROWSER_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
]


@dataclass
class LiveStudio:
    """A served page; `painter.gates` decide how far a job gets."""

    studio: Studio
    painter: ScenePainter
    url: str


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStudio]:
    from studio.ui.page import build_page, free_port, launch_options

    folder: Path = tmp_path_factory.mktemp("live")
    settings = Settings(data_dir=folder / "data", weights_dir=make_weights(folder / "weights"), port=17860)
    painter = ScenePainter(step_s=0.02)
    with Studio(settings, painter) as studio:
        page = build_page(studio)
        options = launch_options(studio)
        _, url, _ = page.launch(
            server_port=free_port(settings), prevent_thread_lock=True, quiet=True, **options
        )
        yield LiveStudio(studio, painter, url)
        page.close()


@pytest.fixture(scope="session")
def profile(chromium_executable: str) -> Iterator[Any]:
    """One browser profile for all tests, so that scripts are fetched and compiled once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium_executable, args=_BROWSER_ARGUMENTS)
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        # generous: on a busy machine the first load alone can take half of it
        context.set_default_timeout(60_000)
        yield context
        browser.close()


@dataclass
class Window:
    """One tab of a visitor who was never here; `foreign` and `faults` are asserted empty at the end."""

    context: Any
    page: Any
    foreign: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


@pytest.fixture
def open_window(profile: Any, live: LiveStudio) -> Iterator[Callable[..., Window]]:
    """Open the page as a new visitor: `open_window(width=390, height=844, dark=True)`."""
    windows: list[Window] = []

    def open_one(width: int = 1280, height: int = 900, dark: bool = False) -> Window:
        page = profile.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light")
        page.goto(f"{live.url}healthz")
        page.evaluate("localStorage.clear()")
        window = Window(profile, page)
        watch(window, page, live.url)
        windows.append(window)
        ready(page, live.url)
        return window

    yield open_one
    for gate in live.painter.gates.values():
        gate.set()
    live.painter.gates.clear()
    for page in profile.pages:
        page.close()
    for window in windows:
        assert window.foreign == []
        assert window.faults == []


def watch(window: Window, page: Any, url: str) -> None:
    """Note requests to other machines and errors of scripts."""
    local = (url, "data:", "blob:", "about:")
    page.on(
        "request",
        lambda request: None if request.url.startswith(local) else window.foreign.append(request.url),
    )
    page.on(
        "console", lambda message: window.faults.append(message.text) if message.type == "error" else None
    )
    page.on("pageerror", lambda error: window.faults.append(str(error)))


def ready(page: Any, url: str) -> None:
    """Load the page and wait until form and easel can be used."""
    page.goto(url, wait_until="domcontentloaded")
    page.wait_for_selector(".t-easel")
    page.wait_for_selector(".t-forecast")


@pytest.fixture
def hold(live: LiveStudio) -> Callable[[str], threading.Event]:
    """Make the painter wait in a phase until the returned event is set."""

    def hold_in(phase: str) -> threading.Event:
        gate = threading.Event()
        live.painter.gates[phase] = gate
        return gate

    return hold_in

"""A running studio with a slow painter, and a browser that notices every request to another machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from studio.doors.doors import Doors
from studio.settings import Settings
from studio.studio import Studio
from tests.browser.scene_painter import ScenePainter
from tests.studio.makers import DrawingFilmer, DrawingTokenizer, FixedTester
from tests.studio.painters import FixedLooker, SeedJudge, WordMeters, WordScorer, make_weights

# factor on all waiting times, for a machine that has little time left for tests
PATIENCE = int(os.environ.get("BROWSER_PATIENCE", "1"))
# the first test also pays for starting the studio and the browser
MOST_SECONDS = 420 * PATIENCE

# no sandbox: tests may run as root; the rest keeps the browser itself from calling home
BROWSER_ARGUMENTS = [
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
    """A served page; `painter.gates` decide how far a job gets; only `full` has the doubles after it."""

    studio: Studio
    painter: ScenePainter
    url: str
    tokenizer: DrawingTokenizer | None = None
    filmer: DrawingFilmer | None = None
    tester: FixedTester | None = None


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStudio]:
    """A studio with the one model that paints."""
    folder: Path = tmp_path_factory.mktemp("live")
    weights = make_weights(folder / "weights")
    settings = Settings(data_dir=folder / "data", weights_dir=weights, port=17860)
    with serving(settings, ScenePainter(step_s=0.02), Doors(meters=WordMeters())) as served:
        yield served


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveStudio]:
    """A studio with a model for every room, and a second one that paints and knows TENOR.

    Pictures of seed 6 show what the prompt says, no others do.
    """
    folder: Path = tmp_path_factory.mktemp("full")
    names = ("storybook-flux", "storybook-eyes", "storybook-flextok", "storybook-video")
    weights = make_weights(folder / "weights", names)
    spatial = make_weights(folder / "more", ("spatial",)) / "spatial"
    (spatial / "compass.json").write_text('{"tenor": true}')
    painter = ScenePainter(step_s=0.02)
    doors = Doors(
        looker=FixedLooker(),
        judge=SeedJudge(painter, good={6}),
        scorer=WordScorer(),
        tokenizer=DrawingTokenizer(),
        filmer=DrawingFilmer(encodes=True),  # a browser plays real files only
        meters=WordMeters(),
        tester=FixedTester(),
    )
    settings = Settings(data_dir=folder / "data", weights_dir=weights, model_dirs=(spatial,), port=17880)
    with serving(settings, painter, doors) as served:
        yield served


@contextmanager
def serving(settings: Settings, painter: ScenePainter, doors: Doors) -> Iterator[LiveStudio]:
    """A page over a studio of its own, on a free port."""
    from studio.ui.page import build_page, free_port, launch_options

    with Studio(settings, painter, doors) as studio:
        page = build_page(studio)
        options = launch_options(studio)
        _, url, _ = page.launch(
            server_port=free_port(settings), prevent_thread_lock=True, quiet=True, **options
        )
        tokenizer = doors.tokenizer if isinstance(doors.tokenizer, DrawingTokenizer) else None
        filmer = doors.filmer if isinstance(doors.filmer, DrawingFilmer) else None
        tester = doors.tester if isinstance(doors.tester, FixedTester) else None
        yield LiveStudio(studio, painter, url, tokenizer, filmer, tester)
        page.close()


@pytest.fixture(scope="session")
def profile(chromium_executable: str) -> Iterator[Any]:
    """One browser profile for all tests, so that scripts are fetched and compiled once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_executable, args=BROWSER_ARGUMENTS, timeout=60_000 * PATIENCE
        )
        context = browser.new_context(permissions=["clipboard-read", "clipboard-write"])
        # generous: on a busy machine the first load alone can take half of it
        context.set_default_timeout(60_000 * PATIENCE)
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
    """Open the page as a new visitor: `open_window(width=390, height=844, dark=True, at=full)`."""
    windows: list[Window] = []

    def open_one(width: int = 1280, height: int = 900, dark: bool = False, at: LiveStudio = live) -> Window:
        page = profile.new_page()
        page.set_viewport_size({"width": width, "height": height})
        page.emulate_media(color_scheme="dark" if dark else "light", reduced_motion="reduce")
        page.goto(f"{at.url}healthz")
        page.evaluate("localStorage.clear()")
        window = Window(profile, page)
        watch(window, page, at.url)
        windows.append(window)
        ready(page, at.url)
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

"""The page of a test's own studio: built, or served on a free port without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from studio.settings import Settings
from studio.studio import Studio
from tests.studio.painters import DrawingPainter, make_weights


@dataclass
class Served:
    """A studio that answers over HTTP.

    Args:
        studio: Behind the page.
        painter: Its painter.
        http: A client with the studio's address.
        page: The `gr.Blocks`.
        visitors: Clients made by `browser`.
    """

    studio: Studio
    painter: DrawingPainter
    http: httpx.Client
    page: Any
    visitors: list[httpx.Client] = field(default_factory=list)

    def call(
        self, endpoint: str, data: list[Any] | bytes, http: httpx.Client | None = None
    ) -> tuple[str, str]:
        """Call a named endpoint as a raw client would; event ("complete" or "error") and its data."""
        http = http or self.http
        body = {"json": {"data": data}} if isinstance(data, list) else {"content": data}
        answer = http.post(
            f"/gradio_api/call/{endpoint}", headers={"content-type": "application/json"}, **body
        )
        assert answer.status_code == 200, answer.text
        stream = http.get(f"/gradio_api/call/{endpoint}/{answer.json()['event_id']}", timeout=20).text
        event, _, rest = stream.rpartition("event: ")[2].partition("\n")
        return event, rest.removeprefix("data: ").strip()

    def browser(self) -> httpx.Client:
        """A new visitor with a cookie jar of its own."""
        client = httpx.Client(base_url=self.http.base_url, timeout=10)
        self.visitors.append(client)
        return client


def serve(folder: Path, **changes: Any) -> Iterator[Served]:
    """A served page over a studio of its own; `changes` go into its settings."""
    from studio.ui.page import build_page, free_port, launch_options

    settings = Settings(
        data_dir=folder / "data", weights_dir=make_weights(folder / "weights"), port=18860, **changes
    )
    painter = DrawingPainter()
    with Studio(settings, painter) as studio:
        page = build_page(studio)
        options = launch_options(studio)
        port = free_port(settings)
        page.launch(server_port=port, prevent_thread_lock=True, quiet=True, **options)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            opened = Served(studio, painter, http, page)
            yield opened
            for visitor in opened.visitors:
                visitor.close()
        page.close()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    yield from serve(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Strangers use it at the same time, behind a proxy that is known by a name."""
    yield from serve(tmp_path_factory.mktemp("shared"), is_shared=True, allowed_hosts=("studio.example.org",))


@pytest.fixture
def space_studio(settings: Settings, painter: DrawingPainter) -> Iterator[Studio]:
    """A studio as it runs on a Space."""
    with Studio(replace(settings, on_space=True, is_shared=True, host="0.0.0.0"), painter) as opened:
        yield opened

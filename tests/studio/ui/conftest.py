"""The page of a test's own studio: built, or served on a free port without a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
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
    """

    studio: Studio
    painter: DrawingPainter
    http: httpx.Client
    page: Any

    def call(self, endpoint: str, data: list[Any] | bytes) -> tuple[str, str]:
        """Call a named endpoint as a raw client would; event ("complete" or "error") and its data."""
        body = {"json": {"data": data}} if isinstance(data, list) else {"content": data}
        answer = self.http.post(
            f"/gradio_api/call/{endpoint}", headers={"content-type": "application/json"}, **body
        )
        assert answer.status_code == 200, answer.text
        stream = self.http.get(f"/gradio_api/call/{endpoint}/{answer.json()['event_id']}", timeout=20).text
        event, _, rest = stream.rpartition("event: ")[2].partition("\n")
        return event, rest.removeprefix("data: ").strip()


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    from studio.ui.page import build_page, free_port, launch_options

    folder: Path = tmp_path_factory.mktemp("served")
    settings = Settings(data_dir=folder / "data", weights_dir=make_weights(folder / "weights"), port=18860)
    painter = DrawingPainter()
    with Studio(settings, painter) as studio:
        page = build_page(studio)
        options = launch_options(studio)
        port = free_port(settings)
        page.launch(server_port=port, prevent_thread_lock=True, quiet=True, **options)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            yield Served(studio, painter, http, page)
        page.close()


@pytest.fixture
def space_studio(settings: Settings, painter: DrawingPainter) -> Iterator[Studio]:
    """A studio as it runs on a Space."""
    with Studio(replace(settings, on_space=True, host="0.0.0.0"), painter) as opened:
        yield opened

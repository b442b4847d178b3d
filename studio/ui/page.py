"""The page: header, the Create screen, and how it is served."""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from studio.api import add_endpoints
from studio.checks import shown
from studio.errors import StudioError
from studio.painter import Painter
from studio.routes import routes
from studio.settings import REPOSITORY, Settings
from studio.studio import Studio
from studio.ui.guard import LOCAL_POLICY, StudioGuard
from studio.ui.scripts import on_load
from studio.ui.tab_create import CreateTab
from studio.ui.theme import TesseraTheme
from studio.ui.visitors import VisitorCookie
from studio.ui.zero_gpu import add_device_report

_ASSETS = REPOSITORY / "assets" / "ui"
_STYLES = ("tokens", "page", "controls", "easel", "sentences", "rooms")
_UPLOAD_LIMIT = "64mb"
_PORTS_TRIED = 20


def build_page(studio: Studio) -> gr.Blocks:
    """The whole page over `studio`; nothing is served yet."""
    with gr.Blocks(title="Tessera Studio", analytics_enabled=False, delete_cache=(3600, 86_400)) as page:
        gr.HTML(
            elem_id="t-top",
            html_template=(_ASSETS / "header.html").read_text(encoding="utf-8").replace("@logo", _logo()),
            apply_default_css=False,
            js_on_load=on_load("mountHeader"),
        )
        tab = CreateTab(studio)
        gr.HTML(
            elem_id="t-others",
            html_template="<div></div>",
            apply_default_css=False,
            js_on_load=on_load("mountOtherRooms"),
        )
        tab.wire_load(page)
        add_endpoints(studio)
        add_device_report()
    return page


def launch_options(studio: Studio) -> dict[str, Any]:
    """Everything `gr.Blocks.launch` is told: look, address, routes, and what Gradio leaves open by itself.

    Raises:
        StudioError: GRADIO_VIBE_MODE is set, with which any visitor could run code.
    """
    if os.environ.get("GRADIO_VIBE_MODE"):
        raise StudioError(
            "conflict", "GRADIO_VIBE_MODE is set: any visitor could run code.", "Unset it, then start again."
        )
    settings = studio.settings
    # a Space is shown inside a frame of the Hub, which adds scripts of its own
    policy = "" if settings.on_space else LOCAL_POLICY
    middleware = [
        Middleware(StudioGuard, hosts=_hosts(settings), trusted=settings.allowed_hosts, policy=policy)
    ]
    if settings.is_shared:
        middleware.append(Middleware(VisitorCookie, is_framed=settings.on_space))
    return {
        "theme": TesseraTheme(),
        "head": _head(),
        "favicon_path": str(_ASSETS / "favicon.png"),
        "footer_links": [],
        "server_name": settings.host,
        "app_kwargs": {"routes": routes(studio), "middleware": middleware, "openapi_url": None},
        "max_file_size": _UPLOAD_LIMIT,
        "enable_monitoring": False,
        "run_history": False,
        "strict_cors": True,
        "share": False,
        "ssr_mode": False,
        "mcp_server": False,
        "pwa": False,
        "show_error": False,
    }


def serve(settings: Settings, painter: Painter | None = None) -> None:
    """Open the studio, serve its page and stay until interrupted.

    Args:
        settings: Address, folders, limits. A busy port gives way to the next free one.
        painter: What paints. Default: the pipelines.
    Raises:
        StudioError: no free port, a data folder in use, unsafe settings.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    with Studio(settings, painter) as studio:
        page = build_page(studio)
        try:
            port = free_port(settings)
            page.launch(server_port=port, quiet=True, prevent_thread_lock=True, **launch_options(studio))
            print(f"Tessera Studio is at {_address(settings.host, port)} (Ctrl+C stops it)", flush=True)
            page.block_thread()
        finally:
            page.close()


def free_port(settings: Settings) -> int:
    """The first port from `settings.port` on that nobody listens on.

    Raises:
        StudioError: none of 20 is free, or the address is not one of this machine.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    for port in range(settings.port, min(settings.port + _PORTS_TRIED, 65_536)):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if os.name == "posix":
                # a port that was closed a moment ago counts as free
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((settings.host, port))
            except OSError as error:
                if error.errno in (errno.EADDRINUSE, errno.EACCES):
                    continue
                raise StudioError(
                    "bad_input", f"host: given {shown(settings.host)}, not an address here."
                ) from error
            return port
    last = settings.port + _PORTS_TRIED - 1
    raise StudioError(
        "conflict", f"No port from {settings.port} to {last} is free.", "Name another with --port."
    )


def _address(host: str, port: int) -> str:
    """What to type into a browser of this machine."""
    name = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
    return f"http://{name}:{port}"


def _head() -> str:
    links = "".join(f'<link rel="stylesheet" href="studio/assets/css/{name}.css">' for name in _STYLES)
    return f'<meta name="color-scheme" content="light dark">{links}'


def _logo() -> str:
    return (_ASSETS / "logo.svg").read_text(encoding="utf-8")


def _hosts(settings: Settings) -> tuple[str, ...]:
    space = (".hf.space",) if settings.on_space else ()
    return (settings.host, *space, *settings.allowed_hosts)

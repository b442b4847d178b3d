"""`serve`: the web studio."""

from __future__ import annotations

import argparse
from dataclasses import replace

from studio.checks import parse_integer
from studio.errors import StudioError
from studio.settings import Settings


def serve(arguments: argparse.Namespace) -> int:
    """Start the web studio and stay until it is stopped."""
    settings = Settings.from_env()
    if arguments.host:
        settings = replace(settings, host=arguments.host)
    if arguments.port is not None:
        settings = replace(settings, port=_port(arguments.port))
    from studio.ui.page import serve as serve_page

    serve_page(settings)
    return 0


def _port(text: str) -> int:
    port = parse_integer("port", text)
    if not 1 <= port <= 65_535:
        raise StudioError("bad_input", f"port: given {port}, allowed whole numbers from 1 to 65535.")
    return port

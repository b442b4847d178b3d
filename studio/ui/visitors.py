"""How a browser is known again: a cookie with a random secret, set when it first opens the page."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from studio.studio import Studio
from studio.visit import Visit, new_visitor_key, owner_of

COOKIE = "tessera_visitor"
HEADER = "x-tessera-visitor"
_YEAR_S = 365 * 86_400


def visit_of(studio: Studio, headers: Mapping[str, str]) -> Visit:
    """The studio as the sender of these headers sees it; scripts without cookies may send the header."""
    return Visit(studio, _key_in(headers))


def _key_in(headers: Mapping[str, str]) -> str:
    return headers.get(HEADER) or cookie_parser(headers.get("cookie", "")).get(COOKIE, "")


class VisitorCookie:
    """ASGI middleware that gives a browser its secret with the page.

    Args:
        app: What comes next.
        is_framed: The page is shown inside a frame of another site, as on a Space.
    """

    def __init__(self, app: ASGIApp, is_framed: bool) -> None:
        self._app = app
        self._is_framed = is_framed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "GET" or not scope["path"].endswith("/"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if owner_of(_key_in(headers)):
            await self._app(scope, receive, send)
            return
        is_https = headers.get("x-forwarded-proto", scope.get("scheme", "")).split(",")[0].strip() == "https"
        cookie = f"{COOKIE}={new_visitor_key()}; Path=/; Max-Age={_YEAR_S}; HttpOnly; {self._site(is_https)}"

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                MutableHeaders(scope=message).append("set-cookie", cookie)
            await send(message)

        await self._app(scope, receive, sending)

    def _site(self, is_https: bool) -> str:
        if self._is_framed:
            # inside a foreign frame a browser only keeps cookies that ask for a jar of their own
            return "SameSite=None; Secure; Partitioned"
        return "SameSite=Lax; Secure" if is_https else "SameSite=Lax"

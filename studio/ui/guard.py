"""What every request has to pass before Gradio sees it.

Gradio itself checks neither the Host nor the Origin of a request, and a page of another site could fill the
disk through its upload route. This guard refuses foreign hosts (DNS rebinding), writes that come from other
sites, and bodies that are larger than any request of ours, counted while they arrive.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_BODY_BYTES = 1_000_000
# each counts its own bytes while they arrive
_UPLOAD_PATHS = ("/gradio_api/upload", "/studio/uploads")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
# Gradio's page needs inline and evaluated scripts, so this can't stop injected ones, but it keeps everything
# that runs here from loading from or sending to another machine
LOCAL_POLICY = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; base-uri 'self'; "
    "form-action 'self'; frame-ancestors 'self'"
)


class StudioGuard:
    """ASGI middleware in front of the whole app.

    Args:
        app: What comes next.
        hosts: Host names that the studio answers to besides loopback, addresses and this machine's own name;
            one that begins with a dot stands for everything below it.
        trusted: Those of them whose pages may write here whatever the Host header says, since a proxy in
            front may change it.
        policy: Content-Security-Policy of every answer, "" for none.
    """

    def __init__(
        self, app: ASGIApp, hosts: Iterable[str] = (), trusted: Iterable[str] = (), policy: str = ""
    ) -> None:
        self._app = app
        self._headers = [*_HEADERS, *([(b"content-security-policy", policy.encode())] if policy else [])]
        own_name = socket.gethostname().lower()
        self._hosts = _LOOPBACK_NAMES | {own_name, f"{own_name}.local"} | {host.lower() for host in hosts}
        self._trusted = frozenset(host.lower() for host in trusted)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        refusal = self._refusal(scope, headers)
        if refusal:
            await _refuse(send, *refusal)
            return
        if not _is_upload(scope) and scope["method"] not in _SAFE_METHODS:
            body = await _read_whole(receive)
            if body is None:
                await _refuse(send, *_TOO_LARGE)
                return
            receive = _replay(body, receive)
        await self._app(scope, receive, _with_headers(send, self._headers))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        host = headers.get("host", "")
        if not self._is_ours(_host_name(host)):
            return 400, "This studio does not answer to that host name."
        if scope["method"] not in _SAFE_METHODS:
            origin = headers.get("origin")
            # a reverse proxy names the host the browser asked for
            asked = {host.lower(), headers.get("x-forwarded-host", host).lower()}
            if (
                origin is not None
                and urlsplit(origin).netloc.lower() not in asked
                and not self._is_trusted(origin)
            ):
                return 403, "Requests from other sites are refused."
        length = headers.get("content-length", "0")
        if not _is_upload(scope) and (not length.isdigit() or int(length) > MAX_BODY_BYTES):
            return _TOO_LARGE
        return None

    def _is_trusted(self, origin: str) -> bool:
        """Whether the owner named this host: a proxy may hand on requests under a name of its own."""
        return _matches(_host_name(urlsplit(origin).netloc), self._trusted)

    def _is_ours(self, name: str) -> bool:
        if _matches(name, self._hosts):
            return True
        try:
            # a rebinding attack needs a name: nobody can make an address mean another machine
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _matches(name: str, hosts: frozenset[str]) -> bool:
    """Whether a name is one of the hosts, or below one that begins with a dot."""
    return name in hosts or any(host.startswith(".") and name.endswith(host) for host in hosts)


_TOO_LARGE = (413, f"The request is too large: allowed up to {MAX_BODY_BYTES:,} bytes.")


def _host_name(host: str) -> str:
    """The name in a Host header, without port and brackets, lower case; "" when it makes no sense."""
    try:
        return (urlsplit(f"//{host}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_upload(scope: Scope) -> bool:
    path = scope["path"].rstrip("/")
    return any(path.endswith(upload) for upload in _UPLOAD_PATHS)


async def _read_whole(receive: Receive) -> bytes | None:
    """The body, or None as soon as it is longer than allowed (a chunked one has no Content-Length)."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return b"".join(parts)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A receive that gives the body once and then listens for the client again."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return pending.pop() if pending else await receive()

    return again


def _with_headers(send: Send, headers: list[tuple[bytes, bytes]]) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *headers]
        await send(message)

    return sending


async def _refuse(send: Send, status: int, sentence: str) -> None:
    body = json.dumps({"error": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *_HEADERS,
    ]
    # the connection is closed, so that the rest of a refused body is not read as the next request
    await send(
        {"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})

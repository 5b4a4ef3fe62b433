"""What stands before every request: whose name it was sent to, which page sent it, and what a page may load.

Gradio checks neither Host nor Origin, and a Chatbot fetches images from anywhere. Three plain ASGI wrappers that know
nothing of the app behind them.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from fnmatch import fnmatch
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interface.i18n import lang_of, t

LOOPBACK = ("localhost", "127.0.0.1", "::1")

POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:",  # Gradio's own start script is inline
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "media-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self' data: blob:",
        "worker-src 'self' blob:",
        "frame-src 'none'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
        "frame-ancestors 'self'",
    )
)


def middleware(host: str, allow_hosts: Sequence[str]) -> list[Middleware]:
    """The guards for an app that is served on `host` and known under `allow_hosts` besides."""
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104  a comparison
    names = (*LOOPBACK, host, socket.gethostname().lower(), *allow_hosts)
    return [Middleware(HostGuard, names=names, addresses=everywhere), Middleware(OriginGuard), Middleware(Headers)]


class HostGuard:
    """Refuses requests for a name that is not ours: a foreign page that has bent its own name to our address.

    With `addresses`, any address is ours: one that a browser was told to go to cannot be bent.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str], addresses: bool) -> None:
        self.app, self.names, self.addresses = app, names, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = urlsplit("//" + _header(scope, b"host")).hostname or ""
            if not self._ours(name):
                return await _refused(scope, "guard.host", 400, name=name)(scope, receive, send)
        await self.app(scope, receive, send)

    def _ours(self, name: str) -> bool:
        if any(fnmatch(name, pattern) for pattern in self.names):
            return True
        return self.addresses and _is_address(name)


class OriginGuard:
    """Refuses requests that change something and were sent by another site's page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = _header(scope, b"origin")
            if origin and urlsplit(origin).netloc != _header(scope, b"host"):
                return await _refused(scope, "guard.origin", 403)(scope, receive, send)
        await self.app(scope, receive, send)


class Headers:
    """Keeps a page from loading anything from elsewhere, whatever a model writes into it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        await self.app(scope, receive, with_headers if scope["type"] == "http" else send)


_HEADERS = [
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
]


def _refused(scope: Any, key: str, status: int, **facts: str) -> PlainTextResponse:
    return PlainTextResponse(t(key, lang_of(_header(scope, b"accept-language")), **facts), status)


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _header(scope: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")

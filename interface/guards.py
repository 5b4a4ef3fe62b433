"""What stands before every request: whose name it was sent to, which page sent it, and what a page may load.

Gradio checks neither Host nor Origin, and a Chatbot fetches images from anywhere. Three plain ASGI wrappers that know
nothing of the app behind them.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    names = (*LOOPBACK, *allow_hosts)
    hosts = () if host in ("0.0.0.0", "::") and not allow_hosts else (*names, host)  # noqa: S104  a comparison
    return [Middleware(HostGuard, hosts=hosts), Middleware(OriginGuard), Middleware(Headers)]


class HostGuard:
    """Refuses requests for a name that is not ours: a foreign page that has bent its own name to our address."""

    def __init__(self, app: ASGIApp, hosts: Sequence[str]) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self.hosts:
            name = urlsplit("//" + _header(scope, b"host")).hostname or ""
            if not any(fnmatch(name, pattern) for pattern in self.hosts):
                response = PlainTextResponse(f"This app does not go by the name {name!r}; see --allow-host.", 400)
                return await response(scope, receive, send)
        await self.app(scope, receive, send)


class OriginGuard:
    """Refuses requests that change something and were sent by another site's page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            origin = _header(scope, b"origin")
            if origin and urlsplit(origin).netloc != _header(scope, b"host"):
                return await PlainTextResponse("A cross-site request was refused.", 403)(scope, receive, send)
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


def _header(scope: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")

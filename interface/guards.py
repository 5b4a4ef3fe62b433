"""What stands before every request: whose name it was sent to, which page sent it, its size, what a page may load.

Gradio checks neither Host nor Origin, and a Chatbot fetches images from anywhere. Plain ASGI wrappers that know nothing
of the app behind them. Of the headers that proxies add none is believed but X-Forwarded-Proto, and that only to mark a
cookie: they are written by whoever sends the request.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping, Sequence
from fnmatch import fnmatch
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette._utils import get_route_path
from starlette.formparsers import MultiPartException
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from interface.i18n import lang_of, t

LOOPBACK = ("localhost", "127.0.0.1", "::1")
SHARED = "*.gradio.live"
"""The names of Gradio's share links."""

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


def middleware(host: str, allow_hosts: Sequence[str], share: bool = False) -> list[Middleware]:
    """The guards for an app that is served on `host` and known under `allow_hosts` besides."""
    everywhere = host in ("0.0.0.0", "::")  # noqa: S104  a comparison
    names = (*LOOPBACK, host, socket.gethostname().lower(), *allow_hosts, *((SHARED,) if share else ()))
    return [Middleware(Headers), Middleware(HostGuard, names=names, addresses=everywhere), Middleware(OriginGuard)]


class HostGuard:
    """Refuses requests for a name that is not ours: a foreign page that has bent its own name to our address.

    With `addresses`, any address is ours: one that a browser was told to go to cannot be bent.
    """

    def __init__(self, app: ASGIApp, names: Sequence[str], addresses: bool) -> None:
        self.app, self.names, self.addresses = app, names, addresses

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            name = _name(_header(scope, b"host"))
            if not self._ours(name):
                return await _refused(scope, "guard.host", 400, name=name)(scope, receive, send)
        await self.app(scope, receive, send)

    def _ours(self, name: str) -> bool:
        if any(fnmatch(name, pattern) for pattern in self.names):
            return True
        return self.addresses and _is_address(name)


class OriginGuard:
    """Refuses what another site's page sent: all that it sends, but for a person's click on a link to a page of ours.

    Browsers name the sender in Origin where it matters, and newer ones in Sec-Fetch-Site on everything that goes to
    https or to this computer: with it, addresses that change something on GET are covered, too.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._foreign(scope):
            return await _refused(scope, "guard.origin", 403)(scope, receive, send)
        await self.app(scope, receive, send)

    def _foreign(self, scope: Scope) -> bool:
        origin = _header(scope, b"origin")
        if origin:
            return _place(origin) != _place("//" + _header(scope, b"host"))
        if _header(scope, b"sec-fetch-site") not in ("cross-site", "same-site"):
            return False
        link = _header(scope, b"sec-fetch-mode") == "navigate" and _header(scope, b"sec-fetch-dest") == "document"
        return not link or scope["method"] not in ("GET", "HEAD") or "/gradio_api/" in scope["path"]


class BodyLimit:
    """Refuses a request that is larger than `limits` says for its path's beginning; "" is for all others.

    It is counted as it comes: what a request announces may be wrong, or missing. None leaves it to the path itself.
    """

    def __init__(self, app: ASGIApp, limits: Mapping[str, int | None]) -> None:
        self.app, self.limits = app, limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        limit = self._limit(scope) if scope["type"] == "http" else None
        if limit is None:
            return await self.app(scope, receive, send)
        refusal = _refused(scope, "guard.too_large", 413, limit=limit)
        refusal.headers["connection"] = "close"  # the rest of it is not waited for
        announced = _header(scope, b"content-length")
        if announced.isdecimal() and int(announced) > limit:
            return await refusal(scope, receive, send)
        body = _Counted(receive, send, limit, refusal)
        try:
            await self.app(scope, body.receive, body.send)
        except Exception:
            if not body.exceeded:
                raise
        await body.end(scope)

    def _limit(self, scope: Scope) -> int | None:
        path = get_route_path(scope)
        return self.limits[max((one for one in self.limits if path.startswith(one)), key=len)]


class _TooLarge(MultiPartException):
    """Of this kind so that form parsers, Gradio's included, delete what they had stored of the form."""


class _Counted:
    """A request that ends with _TooLarge past its limit; whatever the app makes of that, the refusal is the answer."""

    def __init__(self, receive: Receive, send: Send, limit: int, refusal: PlainTextResponse) -> None:
        self._receive, self._send, self._limit, self._refusal = receive, send, limit, refusal
        self._size, self._answered = 0, False

    @property
    def exceeded(self) -> bool:
        return self._size > self._limit

    async def receive(self) -> Message:
        message = await self._receive()
        self._size += len(message.get("body", b""))
        if self.exceeded:
            raise _TooLarge("too large")
        return message

    async def send(self, message: Message) -> None:
        if self._answered or not self.exceeded:
            self._answered = True
            await self._send(message)

    async def end(self, scope: Scope) -> None:
        if self.exceeded and not self._answered:
            await self._refusal(scope, self._receive, self._send)


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
    (b"permissions-policy", b"camera=(self), microphone=(), geolocation=(), payment=(), usb=()"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
]


def is_https(scope: Scope) -> bool:
    """Whether the browser came by https, here or to a proxy in front."""
    return scope["scheme"] == "https" or _header(scope, b"x-forwarded-proto").partition(",")[0].strip() == "https"


def _refused(scope: Any, key: str, status: int, **facts: Any) -> PlainTextResponse:
    return PlainTextResponse(t(key, lang_of(_header(scope, b"accept-language")), **facts), status)


def _place(address: str) -> str:
    """Host and port of an origin, or of "//" and a Host header, without the ports that browsers leave out."""
    try:
        return re.sub(r":(80|443)$", "", urlsplit(address).netloc.lower())
    except ValueError:
        return ""


def _name(host: str) -> str:
    try:
        return urlsplit("//" + host).hostname or ""
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _header(scope: Any, name: bytes) -> str:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")

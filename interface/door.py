"""The door: a login in front of everything that the app answers, Gradio's own addresses included.

Plain ASGI that knows nothing of the app behind it, but for the few paths that need no session. Addresses are relative,
so that it works under whatever prefix a proxy serves the app.

Tries are counted by the address that the connection comes from. X-Forwarded-For counts for nothing: whoever sends a
request writes it, and a new address for each try would be a way around the throttle. The price is that everyone behind
one tunnel or proxy is one sender; so a browser that has been signed in here before is a sender of its own.
"""

from __future__ import annotations

import hashlib
import logging
import math
import re
import secrets
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Any
from urllib.parse import parse_qs, quote

import anyio
import anyio.to_thread
from starlette._utils import get_route_path
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.schema import Lang, ServerConfig
from interface.desk import LANG_COOKIE
from interface.door_page import LOGIN_PAGE, LOGOUT, login_page
from interface.guards import is_https
from interface.i18n import lang_of, t
from interface.logins import LOGIN, Login, Passwords
from interface.sessions import Sessions
from interface.throttle import Throttle

log = logging.getLogger(__name__)

OPEN = re.compile(r"/manifest\.json|/icons/[\w.-]+")
"""Asked for by browsers without our cookie, and the same for everyone."""
API = "/v1/"
"""Has keys of its own: a cookie, which a browser sends by itself, opens nothing there."""
STARTING = "/gradio_api/startup-events"
"""What Gradio asks of its own server before launch() is done."""

WANTED = re.compile(r"/(?:[\w=~-][\w=.~-]*/)*(?:[\w=~-][\w=.~-]*)?(?:\?[^\\\s#]*)?")
"""Where one may be taken after signing in: a plain path of this app, with its query."""
FORM_BYTES = 8192
FORM_SECONDS = 15.0
KNOWN_BROWSERS = 1000
YEAR = 365 * 24 * 3600


class Reception:
    """What the door knows: passwords, who is signed in, and how often someone has tried. One for the app.

    `started` is set when the app has been launched; `port` tells the cookies of apps on one computer apart.
    """

    def __init__(self, logins: Sequence[Login], server: ServerConfig, lang: Lang, port: int) -> None:
        self.passwords = Passwords(logins) if logins else None
        self.sessions = Sessions(server.session_idle, server.session_lifetime)
        self.strangers, self.known = Throttle(), Throttle()
        self.browsers: dict[str, None] = {}
        self.lifetime, self.fixed, self.started = server.session_lifetime, lang, False
        self.session_cookie, self.browser_cookie = f"shusheng_session_{port}", f"shusheng_browser_{port}"
        self.comparisons = anyio.Semaphore(2)


class Door:
    """Lets through who is signed in, and writes the name beside the request; shows everyone else the login page."""

    def __init__(self, app: ASGIApp, reception: Reception) -> None:
        self.app, self.at = app, reception

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        state = scope.setdefault("state", {})
        state[LOGIN] = ""
        if self.at.passwords is None:
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        request, path = Request(scope, receive), get_route_path(scope)
        state[LOGIN] = "" if path.startswith(API) else self._signed_in(request)
        if path == f"/{LOGIN_PAGE}":
            answer = await self._login(request, self.at.passwords)
        elif path == f"/{LOGOUT}" and request.method == "POST":
            answer = self._logout(request)
        elif state[LOGIN]:
            tokens = _cookies(request, self.at.session_cookie)
            send = _while_it_lasts(send, lambda: any(self.at.sessions.stands(token) for token in tokens))
            return await self.app(scope, receive, _private(send, path))
        elif self._needs_none(request, path):
            return await self.app(scope, receive, send)
        else:
            answer = self._refused(request, path)
        answer.headers["cache-control"] = "no-store"
        await answer(scope, receive, send)

    # -- who comes in ---------------------------------------------------------------------------------------------

    def _signed_in(self, request: Request) -> str:
        found = (self.at.sessions.login(token) for token in _cookies(request, self.at.session_cookie))
        return next((login for login in found if login), "")

    def _needs_none(self, request: Request, path: str) -> bool:
        if path.startswith(API):
            return True
        if request.method not in ("GET", "HEAD"):
            return False
        return OPEN.fullmatch(path) is not None or (path == STARTING and not self.at.started)

    def _refused(self, request: Request, path: str) -> Response:
        """A page is led to the login, and everything else is told."""
        if request.method in ("GET", "HEAD") and "text/html" in request.headers.get("accept", ""):
            query = request.scope["query_string"].decode("latin-1")
            to = wanted(path + (f"?{query}" if query else ""))
            there = LOGIN_PAGE if to == "/" else f"{LOGIN_PAGE}?to={quote(to, safe='')}"
            return RedirectResponse(_up_from(request, path) + there, 303)
        words = t("login.needed", self._lang(request))
        return JSONResponse({"error": words, "detail": words}, 401)

    # -- signing in and out ---------------------------------------------------------------------------------------

    async def _login(self, request: Request, passwords: Passwords) -> Response:
        to = "." + wanted(request.query_params.get("to", "/"))
        if request.method in ("GET", "HEAD"):
            return RedirectResponse(to, 303) if request.scope["state"][LOGIN] else self._page(request, 200)
        if request.method != "POST":
            return Response(status_code=405, headers={"allow": "GET, HEAD, POST"})
        form = await _form(request)
        if isinstance(form, int):
            return self._page(request, form, t("login.unreadable", self._lang(request)))
        sender, throttle = self._sender(request)
        if wait := throttle.admit(sender):
            seconds = math.ceil(wait)
            problem = t("login.wait", self._lang(request), seconds=seconds)
            return self._page(request, 429, problem, form.get("name", ""), {"retry-after": str(seconds)})
        async with self.at.comparisons:
            given = form.get("name", ""), form.get("password", "")
            login = await anyio.to_thread.run_sync(passwords.login, *given)
        if not login:
            log.warning("a wrong login from %s", request.client.host if request.client else "")
            return self._page(request, 401, t("login.wrong", self._lang(request)), form.get("name", ""))
        throttle.succeeded(sender)
        return self._opened(request, login, to)

    def _opened(self, request: Request, login: str, to: str) -> Response:
        answer = RedirectResponse(to, 303)
        self._end(request)
        self._remember(request, answer, self.at.session_cookie, self.at.sessions.open(login), int(self.at.lifetime))
        browser = secrets.token_urlsafe(32)
        self.at.browsers[_hash(browser)] = None
        while len(self.at.browsers) > KNOWN_BROWSERS:
            del self.at.browsers[next(iter(self.at.browsers))]
        self._remember(request, answer, self.at.browser_cookie, browser, YEAR)
        return answer

    def _logout(self, request: Request) -> Response:
        self._end(request)
        answer = RedirectResponse(f"./{LOGIN_PAGE}", 303)
        self._remember(request, answer, self.at.session_cookie, "", 0)
        return answer

    def _end(self, request: Request) -> None:
        for token in _cookies(request, self.at.session_cookie):
            self.at.sessions.close(token)

    def _remember(self, request: Request, answer: Response, name: str, value: str, seconds: int) -> None:
        # Without a path: the browser takes the folder of the address that it sees, a proxy's prefix included.
        answer.set_cookie(
            name, value, max_age=seconds, path=None, httponly=True, samesite="lax", secure=is_https(request.scope)
        )

    def _sender(self, request: Request) -> tuple[str, Throttle]:
        """Who is tried to be kept apart by the throttle, and which budget that is from."""
        for token in _cookies(request, self.at.browser_cookie):
            if (browser := _hash(token)) in self.at.browsers:
                return browser, self.at.known
        return _network(request.client.host if request.client else ""), self.at.strangers

    # -- the page -------------------------------------------------------------------------------------------------

    def _page(
        self, request: Request, status: int, problem: str = "", name: str = "", headers: dict[str, str] | None = None
    ) -> Response:
        return Response(login_page(self._lang(request), problem, name), status, headers, "text/html")

    def _lang(self, request: Request) -> Any:
        asked = request.cookies.get(LANG_COOKIE) or request.headers.get("accept-language")
        return lang_of(asked if self.at.fixed == "auto" else self.at.fixed)


def wanted(address: str) -> str:
    """A path of this app with its query, or the front page: nothing that leads out of it."""
    return address if len(address) < 2000 and WANTED.fullmatch(address) else "/"


def _cookies(request: Request, name: str) -> list[str]:
    """Every value of a cookie: a browser may hold one for a prefix and one for the whole host."""
    pairs = [one.strip().partition("=") for one in request.headers.get("cookie", "").split(";")]
    return [value for key, _, value in pairs if key == name]


def _private(send: Send, path: str) -> Send:
    """A `send` after which nobody sees in the browser's cache, or by going back, what a login was needed for."""

    async def unkept(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            if headers.get("content-type", "").startswith("text/html"):
                headers["cache-control"] = "no-store"
            elif path.startswith("/gradio_api/"):
                headers.setdefault("cache-control", "private, no-cache")
            message = message | {"headers": headers.raw}
        await send(message)

    return unkept


def _while_it_lasts(send: Send, lasts: Callable[[], bool]) -> Send:
    """A `send` that lets nothing more of a stream of events pass once the session has ended, and ends the stream."""
    streams = ended = False

    async def cut(message: Message) -> None:
        nonlocal streams, ended
        if message["type"] == "http.response.start":
            kind = MutableHeaders(raw=list(message["headers"])).get("content-type", "")
            streams = kind.startswith("text/event-stream")
        if ended:
            return  # the app learns of it as of a browser that has gone
        ended = streams and message["type"] == "http.response.body" and not lasts()
        await send({"type": "http.response.body"} if ended else message)

    return cut


def _up_from(request: Request, path: str) -> str:
    """The way from the address that a browser sees to the app's own folder."""
    if not path:  # a proxy's prefix without its slash
        return "./" + request.scope.get("root_path", "").rpartition("/")[2] + "/"
    return "../" * (path.count("/") - 1) or "./"


async def _form(request: Request) -> dict[str, str] | int:
    """The fields of a form as HTML sends it, or the status of one that cannot be read."""
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
        return 415
    body = b""
    try:
        with anyio.fail_after(FORM_SECONDS):
            async for piece in request.stream():
                body += piece
                if len(body) > FORM_BYTES:
                    return 413
        fields = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=10)
    except TimeoutError:
        return 408
    except (ValueError, ClientDisconnect):
        return 400
    return {name: values[0] for name, values in fields.items()}


def _network(address: str) -> str:
    """An address as a sender: of IPv6, the network that one household or machine has."""
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    return str(int(parsed) >> 64) if isinstance(parsed, IPv6Address) and not parsed.ipv4_mapped else str(parsed)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()

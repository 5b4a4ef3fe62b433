"""What keeps logins apart at Gradio's own routes, which know files and sessions but not whose they are.

Everything under Gradio's prefix passes here. A session's name is taken as the login's own, so that another's cannot be
named; a file is served, and may be named by an event, if it was lent to the login or is an image in its conversations;
what the page does not use is closed. Nothing is done while no login is needed. Conversations are kept apart in
interface.history.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import anyio.to_thread
from gradio.processing_utils import save_file_to_cache
from gradio.route_utils import API_PREFIX
from gradio.utils import get_upload_folder
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from engines.errors import HistoryUnavailable
from interface.history import History
from interface.logins import login_of

IMAGE = re.compile(r"([0-9a-f]{64})(\.small)?\.webp")
OPEN = frozenset(
    {"startup-events", "theme.css", "info", "openapi.json", "queue/status", "app_id", "user", "login_check"}
)
"""Routes that tell nothing of anybody."""
NAMED = ("queue/data", "upload", "upload_progress")
"""Routes whose query names a session or an upload."""
EVENTS = re.compile(r"queue/join/?|(run|api)/[^/]+/?")
OWN = ("session_hash", "upload_id")


class Files:
    """Which files a login may read. What is lent is forgotten with the process, as Gradio deletes it then."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._lent: dict[str, set[str | None]] = {}
        self._lock = threading.Lock()

    def lend(self, login: str | None, path: str | Path) -> None:
        """Lets a login read a file, or everybody for None."""
        with self._lock:
            if len(self._lent) % 1000 == 999:
                self._lent = {path: logins for path, logins in self._lent.items() if os.path.exists(path)}
            self._lent.setdefault(_real(path), set()).add(login)

    def lend_copy(self, login: str | None, path: str | Path) -> str:
        """Lends the copy that Gradio makes of a file that it shows; returns where that is."""
        copy = save_file_to_cache(path, get_upload_folder())
        self.lend(login, copy)
        return copy

    def may_read(self, login: str, path: str) -> bool:
        real = _real(path)
        image = IMAGE.fullmatch(os.path.basename(real))
        if image and os.path.dirname(real) == _real(self._history.images):
            try:
                return self._history.of(login).has_image(image[1])
            except HistoryUnavailable:
                return False
        with self._lock:
            return bool(self._lent.get(real, set()) & {login, None})

    def without_foreign(self, login: str, data: Any) -> Any:
        """What an event was sent, where every file that the login may not read is one that is not there."""
        match data:
            case dict():
                return {
                    key: self._or_gone(login, value)
                    if key == "path" and isinstance(value, str)
                    else self.without_foreign(login, value)
                    for key, value in data.items()
                }
            case list():
                return [self.without_foreign(login, one) for one in data]
        return data

    def _or_gone(self, login: str, path: str) -> str:
        return path if self.may_read(login, path) else os.path.join(get_upload_folder(), "gone", Path(path).name)


class Separation:
    """To stand behind the door, which says who asks, and right before Gradio."""

    def __init__(self, app: ASGIApp, files: Files) -> None:
        self.app, self._files = app, files

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        login = login_of(Request(scope)) if scope["type"] == "http" else ""
        before, prefix, route = scope["path"].partition(f"{API_PREFIX}/") if login else ("", "", "")
        if not prefix or route.rstrip("/") in OPEN:
            await self.app(scope, receive, send)
        elif route.startswith(("file=", "file/")):
            if await anyio.to_thread.run_sync(self._files.may_read, login, route[5:]):
                await self.app(scope, receive, send)
            else:
                # In the words in which Gradio speaks of a file that is not there.
                await JSONResponse({"detail": f"File not allowed: {route[5:]}."}, 403)(scope, receive, send)
        elif route in NAMED:
            pairs = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            own = [(name, _own(login, value) if name in OWN else value) for name, value in pairs]
            scope = {**scope, "query_string": urlencode(own).encode()}
            await self.app(scope, receive, self._lending(login, send) if route == "upload" else send)
        elif route.startswith("heartbeat/"):
            session = _own(login, route.removeprefix("heartbeat/"))
            await self.app({**scope, "path": f"{before}{prefix}heartbeat/{session}"}, receive, send)
        elif EVENTS.fullmatch(route) and scope["method"] == "POST":
            await self._event(login, scope, receive, send)
        else:
            await JSONResponse({"detail": "Not Found"}, 404)(scope, receive, send)

    def _lending(self, login: str, send: Send) -> Send:
        """Lends the login what it has uploaded, before it is told where that is."""
        start: Message = {}
        body = b""

        async def lending(message: Message) -> None:
            nonlocal start, body
            if message["type"] == "http.response.start":
                start = message
                return
            body += message.get("body", b"")
            if message.get("more_body"):
                return
            for path in json.loads(body) if start["status"] == 200 else ():
                self._files.lend(login, path)
            await send(start)
            await send({"type": "http.response.body", "body": body})

        return lending

    async def _event(self, login: str, scope: Scope, receive: Receive, send: Send) -> None:
        """What is read here is written anew, so that Gradio cannot read it otherwise."""
        try:
            data = json.loads(await Request(scope, receive).body())
            if isinstance(data, dict) and isinstance(data.get("session_hash"), str):
                data["session_hash"] = _own(login, data["session_hash"])
            data = await anyio.to_thread.run_sync(self._files.without_foreign, login, data)
        except ClientDisconnect:
            return
        except (ValueError, RecursionError):
            await JSONResponse({"detail": "Invalid JSON."}, 400)(scope, receive, send)
            return
        body = json.dumps(data).encode()
        scope = {**scope, "headers": list(scope["headers"])}
        MutableHeaders(scope=scope)["content-length"] = str(len(body))
        await self.app(scope, partial(_next, [{"type": "http.request", "body": body}], receive), send)


def middleware(files: Files) -> Middleware:
    return Middleware(Separation, files=files)


async def _next(first: list[Message], receive: Receive) -> Message:
    return first.pop() if first else await receive()


def _own(login: str, name: str) -> str:
    """The login's own session or upload of a name: no other login's can be the same."""
    return f"{hashlib.sha256(login.encode()).hexdigest()[:32]}.{name}"


def _real(path: str | Path) -> str:
    """As Gradio reads a path: made absolute first, then followed."""
    try:
        return os.path.normcase(os.path.realpath(os.path.abspath(path)))
    except (ValueError, OSError):  # what no system takes for a path
        return ""

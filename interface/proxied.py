"""What a reverse proxy in front of the app needs: it may keep its path prefix or take it away, and must not gather
what is streamed."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


def middleware() -> Middleware:
    """To stand before all others, so that they know paths without a prefix only."""
    return Middleware(Proxied)


class Proxied:
    """Takes the prefix (`root_path`) off a request that came with it, and marks streams as such."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        prefix, path = scope.get("root_path", ""), scope["path"]
        if prefix and path == prefix:
            # The page's addresses are relative: without the slash they would go past the prefix.
            query = scope["query_string"].decode("latin-1")
            return await RedirectResponse(f"{prefix}/" + (query and f"?{query}"))(scope, receive, send)
        if prefix and path.startswith(f"{prefix}/"):
            scope = {**scope, "path": path.removeprefix(prefix)}
        await self.app(scope, receive, _unbuffered(send))


def _unbuffered(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message.setdefault("headers", []))
            if headers.get("content-type", "").startswith("text/event-stream"):
                headers["x-accel-buffering"] = "no"  # nginx and what descends from it; others do not gather events
            message["headers"] = headers.raw
        await send(message)

    return marked

"""launch.py, where a header says which login a request came with: for tests of what is kept apart behind the door."""

from __future__ import annotations

import sys

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import launch
from interface import separation
from interface.logins import LOGIN


class ByHeader:
    """Stands where the door does, or behind one that lets everybody in."""

    def __init__(self, app: ASGIApp, files: separation.Files) -> None:
        self.app = separation.Separation(app, files)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", ())).get(b"x-login", b"").decode()
        await self.app({**scope, "state": {**scope.get("state", {}), LOGIN: name}}, receive, send)


if __name__ == "__main__":
    separation.middleware = lambda files: Middleware(ByHeader, files=files)
    sys.exit(launch.main())

"""launch.py, where a header says which login a request came with: for tests of what is kept apart behind the door."""

from __future__ import annotations

import sys

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

import launch
from interface import guards
from interface.logins import LOGIN


class ByHeader:
    """Stands where the door does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = dict(scope.get("headers", ())).get(b"x-login", b"").decode()
        await self.app({**scope, "state": {**scope.get("state", {}), LOGIN: name}}, receive, send)


if __name__ == "__main__":
    guards_of = guards.middleware
    guards.middleware = lambda *who: [*guards_of(*who), Middleware(ByHeader)]  # type: ignore[assignment]
    sys.exit(launch.main())

"""Who asks: the name that the door wrote beside a request. The one place where anything else learns of it."""

from __future__ import annotations

from typing import Any

LOGIN = "login"
"""The key of a request's state under which the door leaves the name."""


def login_of(request: Any) -> str:
    """The login that a Gradio or Starlette request came with; "" while no login is needed."""
    scope = getattr(getattr(request, "request", request), "scope", None) or {}
    return str(scope.get("state", {}).get(LOGIN, ""))

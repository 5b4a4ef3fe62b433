"""Who a request comes from, by its key. The one place to put a login in front of the API."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from starlette.requests import Request

from interface.api.errors import ApiError


class Keys:
    """`entries` are "NAME:KEY", or a bare key; while there are none, nobody needs one."""

    def __init__(self, entries: Sequence[str]) -> None:
        split = (one.rpartition(":") for one in entries)
        self._owners = [(name or f"key {n}", _digest(key)) for n, (name, _, key) in enumerate(split, 1)]

    def owner_of(self, request: Request) -> str:
        """The key's name, or without keys the address that the request comes from. Raises ApiError (401)."""
        if not self._owners:
            return request.client.host if request.client else ""
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not key.strip():
            raise ApiError(401, "api.no_key", "invalid_api_key")
        given, found = _digest(key.strip()), ""
        for name, digest in self._owners:  # all of them, so that the time says nothing
            found = name if hmac.compare_digest(given, digest) else found
        if not found:
            raise ApiError(401, "api.wrong_key", "invalid_api_key")
        return found


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()

"""Who is signed in, in which browser. In memory: a new start asks everyone again."""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

MOST = 100
"""Sessions of one login; the one that was used longest ago goes for another."""


class Sessions:
    """A session ends `idle` seconds after its last request, `lifetime` after sign-in, and at sign-out.

    Tokens are random, and only their hashes are kept. Times are the wall clock's: a sleeping computer's go on.
    """

    def __init__(self, idle: float, lifetime: float, clock: Callable[[], float] = time.time) -> None:
        self._idle, self._lifetime, self._clock = idle, lifetime, clock
        self._open: dict[bytes, _Session] = {}

    def open(self, login: str) -> str:
        """A new session's token."""
        now, token = self._clock(), secrets.token_urlsafe(32)
        self._open = {key: one for key, one in self._open.items() if self._lasts(one, now)}
        own = [key for key, one in self._open.items() if one.login == login]
        for key in sorted(own, key=lambda key: self._open[key].used)[: max(0, len(own) - MOST + 1)]:
            del self._open[key]
        self._open[_hash(token)] = _Session(login, now, now)
        return token

    def login(self, token: str) -> str:
        """Whose session it is, which has been used now; "" if there is none."""
        now, key = self._clock(), _hash(token)
        found = self._open.get(key)
        if found is None or not self._lasts(found, now):
            self._open.pop(key, None)
            return ""
        self._open[key] = replace(found, used=now)
        return found.login

    def stands(self, token: str) -> bool:
        """Whether the session has not ended. Asking does not use it."""
        found = self._open.get(_hash(token))
        return found is not None and self._lasts(found, self._clock())

    def close(self, token: str) -> None:
        self._open.pop(_hash(token), None)

    def _lasts(self, one: _Session, now: float) -> bool:
        return now - one.used < self._idle and now - one.opened < self._lifetime


@dataclass(frozen=True, slots=True)
class _Session:
    login: str
    opened: float
    used: float


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()

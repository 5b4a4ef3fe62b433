"""Names and passwords: where they come from, and whether one is right. And who asks, for whoever wants to know."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.errors import ConfigError

LOGIN = "login"
"""The key of a request's state under which the door leaves the name."""

SHORTEST = 8
LONGEST = 256
"""Characters of a password."""

LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
"""32 that cannot be taken for each other: 16 of them are 80 bits."""
GENERATED_NAME = "desk"


def login_of(request: Any) -> str:
    """The login that a Gradio or Starlette request came with; "" while no login is needed."""
    scope = getattr(getattr(request, "request", request), "scope", None) or {}
    return str(scope.get("state", {}).get(LOGIN, ""))


@dataclass(frozen=True, slots=True)
class Login:
    """A name and its password, as they were given."""

    name: str
    password: str = field(repr=False)


def generated() -> Login:
    """A login with a password that can be read aloud."""
    letters = "".join(secrets.choice(LETTERS) for _ in range(16))
    return Login(GENERATED_NAME, "-".join(letters[start : start + 4] for start in range(0, 16, 4)))


def given(entries: Sequence[str], file: Path | None) -> tuple[Login, ...]:
    """The logins of "NAME:PASSWORD" entries and of a file's lines.

    Raises ConfigError for one that is malformed or named twice, and for a file that is missing or holds none.
    """
    logins = [_login(entry, "auth", number) for number, entry in enumerate(entries, 1)]
    if file is not None:
        logins += _of_file(file)
    names = [one.name for one in logins]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError("login_twice", name=name)
    return tuple(logins)


def readable_by_others(file: Path) -> bool:
    """Whether more than its owner may read the file; Windows does not say it in this way."""
    return os.name == "posix" and bool(file.expanduser().stat().st_mode & (stat.S_IRGRP | stat.S_IROTH))


def _of_file(file: Path) -> list[Login]:
    try:
        lines = file.expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        detail = getattr(error, "strerror", None) or "UTF-8"
        raise ConfigError("login_file_unreadable", file=file, detail=detail) from None
    logins = [
        _login(line, file.name, number)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not logins:
        raise ConfigError("login_file_empty", file=file)
    return logins


def _login(entry: str, where: str, number: int) -> Login:
    """Raises ConfigError without the entry in it: it may be a password."""
    name, colon, password = entry.partition(":")
    name = unicodedata.normalize("NFC", name.strip())
    if not colon or not name or len(name) > 64 or not (name.isprintable() and password.isprintable()):
        raise ConfigError("login_malformed", where=where, number=number)
    if not SHORTEST <= len(password) <= LONGEST:
        raise ConfigError("login_password", where=where, number=number, least=SHORTEST, most=LONGEST)
    return Login(name, password)


class Passwords:
    """The hashes of some logins' passwords. A wrong name takes as long as a wrong password."""

    def __init__(self, logins: Sequence[Login]) -> None:
        self._hashes = {one.name: _hashed(one.password) for one in logins}
        self._nobodys = _hashed(secrets.token_urlsafe(16))

    def login(self, name: str, password: str) -> str:
        """The login that the password opens; "" if it opens none. Takes some 50 ms and 16 MiB, on purpose."""
        name = unicodedata.normalize("NFC", name.strip())
        salt, expected = self._hashes.get(name, self._nobodys)
        right = hmac.compare_digest(_hashed(password, salt)[1], expected)
        return name if right and name in self._hashes else ""


def _hashed(password: str, salt: bytes | None = None) -> tuple[bytes, bytes]:
    salt = secrets.token_bytes(16) if salt is None else salt
    text = unicodedata.normalize("NFC", password).encode("utf-8", "surrogateescape")
    return salt, hashlib.scrypt(text, salt=salt, n=2**14, r=8, p=1)

"""Whether a login is needed, and which: decided once, at the start."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from configs.errors import ConfigError
from configs.schema import AppConfig, ServerConfig
from interface.i18n import LANGS, Lang, t
from interface.logins import Login, generated, given, readable_by_others

KEYS_FILE = "api-keys.txt"


@dataclass(frozen=True, slots=True)
class Entrance:
    """Who may come in. Without `logins` nobody is asked; `made` is the one that was made up for this start."""

    logins: tuple[Login, ...] = ()
    keys: tuple[str, ...] = field(default=(), repr=False)
    made: Login | None = None
    unguarded: bool = False
    """Others can reach the app, and are asked for nothing: that was typed."""

    @classmethod
    def of(cls, config: AppConfig, no_auth: bool) -> Entrance:
        """The entrance that a configuration needs. Raises ConfigError for logins that cannot be used."""
        server = config.server
        logins = given(server.auth, Path(server.auth_file) if server.auth_file else None)
        if no_auth and logins:
            raise ConfigError("login_contradiction")
        if logins:
            return cls(logins, server.api_keys or kept_keys(config.data / KEYS_FILE, logins))
        if no_auth or not reachable(server):
            return cls(keys=server.api_keys, unguarded=reachable(server))
        made = generated()
        return cls((made,), server.api_keys or (_key(made.name),), made)

    def lines(self, config: AppConfig, lang: Lang) -> list[str]:
        """What the terminal says of it, once. A password only if it was made up for this start: in both languages."""
        server, said = config.server, []
        if self.made is not None:
            said += [t("login.made", one, name=self.made.name, password=self.made.password) for one in LANGS]
            if not server.api_keys:
                said.append(t("login.made_key", lang, secret=self.keys[0].partition(":")[2]))
        elif self.logins and not server.api_keys:
            said.append(t("login.kept_keys", lang, file=config.data / KEYS_FILE))
        if self.unguarded:
            said += [t("login.unguarded", one) for one in LANGS]
        if server.auth_file and readable_by_others(Path(server.auth_file)):
            said.append(t("login.file_open", lang, file=server.auth_file))
        return said


def reachable(server: ServerConfig) -> bool:
    """Whether anyone but this computer's own people can reach the app."""
    try:
        loopback = server.host == "localhost" or ip_address(server.host).is_loopback
    except ValueError:
        loopback = False
    return server.share or not loopback


def kept_keys(file: Path, logins: Sequence[Login]) -> tuple[str, ...]:
    """A key of the API for each login, the same at each start: they are in a file that only its owner may read.

    They are random rather than made from the password, which could be guessed by them unthrottled. A line that is
    deleted gets a new key, and that of a login which is gone is forgotten. Raises ConfigError if it cannot be written.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        known = {name: line for line in lines for name, colon, key in [line.rpartition(":")] if colon and key}
        keys = tuple(known.get(one.name) or _key(one.name) for one in logins)
        text = "\n".join([f"# {t('login.keys_file', lang)}" for lang in LANGS] + [*keys]) + "\n"
        file.touch(mode=0o600)
        file.chmod(0o600)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError("data_unwritable", folder=file.parent, detail=error.strerror or str(error)) from None
    return keys


def _key(name: str) -> str:
    return f"{name}:sk-{secrets.token_urlsafe(32)}"

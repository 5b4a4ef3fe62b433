"""The checks of `launch.py doctor` that look at the app's own things: configuration, a running app, conversations, and
how a person gets to the page. The others are in engines/checkup."""

from __future__ import annotations

import http.client
import shutil
import sqlite3
import sys
import tempfile
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from configs.errors import ConfigError
from configs.load import HERE, ROOT, load_catalogue, load_config
from configs.schema import AppConfig, Catalogue
from engines.checkup import network
from engines.checkup.finding import Finding, failed, note, ok, problem
from engines.errors import AppError, StoreTooNew
from engines.library import Library
from interface.data_lock import in_use
from interface.history import MIGRATIONS
from interface.messages import plan_dict
from interface.store_file import is_damaged

SECRETS = ("key", "auth", "password", "token", "login")
"""What the name of a setting has in it whose value nobody else is to see."""
DESKTOP = sys.platform in ("win32", "darwin")
ANSWER = 3.0
"""Seconds that a running app is given to answer."""


def configuration(
    overrides: Mapping[str, object], environ: Mapping[str, str], folder: Path = HERE
) -> tuple[AppConfig, Catalogue, list[Finding]]:
    """The configuration and the catalogue of a start with these flags, or as much of them as can be read."""
    found: list[Finding] = []
    flags = {key: value for key, value in overrides.items() if value is not None}
    only_data = {key: value for key, value in flags.items() if key == "data"}
    config = AppConfig(ROOT / Path(str(only_data.get("data", "data"))))
    for given, variables in ((flags, environ), (flags, {}), (only_data, {})):
        try:
            config = load_config(given, variables, folder / "app.toml")
            break
        except ConfigError as error:
            found = found or [failed("configuration", _without_secret(error))]
        except OSError as error:
            found = found or [_unreadable(folder / "app.toml", error)]
    catalogue = Catalogue(())
    try:
        catalogue = load_catalogue(folder / "models.toml")
    except ConfigError as error:
        found.append(failed("configuration.models", error))
    except OSError as error:
        found.append(_unreadable(folder / "models.toml", error))
    return config, catalogue, found or [ok("configuration", "configuration_ok", models=len(catalogue.models))]


def _without_secret(error: ConfigError) -> ConfigError:
    """The error without a value that may be a key: what a doctor says is shown to others."""
    where = f"{error.facts.get('where', '')} {error.facts.get('name', '')}".lower()
    secret = "value" in error.facts and any(word in where for word in SECRETS)
    return ConfigError(error.code, **(error.facts | {"value": "…"})) if secret else error


def _unreadable(file: Path, error: OSError) -> Finding:
    broken = ConfigError("config_syntax", file=file.name, detail=error.strerror or str(error))
    return failed(f"configuration.{file.stem}", broken)


def library(config: AppConfig, catalogue: Catalogue) -> tuple[Library | None, list[Finding]]:
    """The models of the catalogue and those that were added; None if what is kept of these cannot be read."""
    try:
        return Library(config, catalogue), []
    except ConfigError as error:
        file = config.data / "added-models.json"
        detail = str(error.facts.get("detail", error.code))
        return None, [problem("configuration.added", "added_broken", file=str(file), detail=detail)]


def fit(library: Library, model: str) -> list[Finding]:
    """What the guard says of the model to start with. Of one that is not in the list, that."""
    try:
        plan = library.plan(model)
    except AppError as error:
        return [failed("fit", error)]
    facts = {"title": library.spec(model).title, "need": plan.need.total, "device": plan.device.name}
    if plan.verdict != "refuse":
        return [ok("fit", "fit_ok", free=plan.device.free, **facts)]
    said = plan_dict(plan)
    return [problem("fit", "fit_refused", reasons=said["reasons"], remedies=said["remedies"], **facts)]


def running(config: AppConfig, exact: bool) -> list[Finding]:
    """An app that uses the data folder now, and whether it answers; and the port."""
    server, address = config.server, in_use(config.data)
    own = urlsplit(address).port if address else None
    if address is None:
        found = ok("app", "app_none")
    elif not address:
        found = note("app", "app_starting", folder=str(config.data))
    elif _answers(address):
        found = ok("app", "app_there", address=address)
    else:
        holder = network.listener(own or 0)
        found = problem("app", "app_silent", address=address, pid=holder.pid if holder else 0)
    return [found, network.port(server.host, server.port, exact, ours=own == server.port)]


def _answers(address: str) -> bool:
    """Whether anything comes back, a login page included. No proxy is asked."""
    place = urlsplit(address)
    secure = place.scheme == "https"
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=ANSWER)
    try:
        connection.request("HEAD", place.path or "/")
        connection.getresponse()
        return True
    except (OSError, http.client.HTTPException) as error:
        return secure and "CERTIFICATE" in str(error)
    finally:
        connection.close()


def conversations(file: Path, running: bool) -> list[Finding]:
    """Whether the conversations' file is whole. It is read beside a running app, and never written."""
    found = [_conversations(file, running)]
    aside = sorted(one.name for one in file.parent.glob(f"{file.stem}.damaged-*{file.suffix}"))
    return [*found, *([note("conversations.aside", "store_aside", files=aside)] if aside else [])]


def _conversations(file: Path, running: bool) -> Finding:
    try:
        size = file.stat().st_size
        if _damaged(file, running):
            return problem("conversations", "store_damaged", file=str(file))
        return ok("conversations", "store_ok", size=size)
    except (FileNotFoundError, NotADirectoryError):
        return ok("conversations", "store_none")
    except StoreTooNew as error:
        return failed("conversations", error)
    except (OSError, sqlite3.Error) as error:
        return problem("conversations", "store_unreadable", file=str(file), detail=str(error))


def _damaged(file: Path, running: bool) -> bool:
    """To read a log that a killed app has left, SQLite would write: that is done to a copy."""
    known, log = len(MIGRATIONS), file.with_name(f"{file.name}-wal")
    with file.open("rb"):
        pass  # is_damaged takes a file that may not be read for a sound one
    if running:
        return is_damaged(file, known)
    if not log.exists() or not log.stat().st_size:
        return is_damaged(file, known, immutable=True)
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copy(file, scratch))
        shutil.copy(log, scratch)
        return is_damaged(copy, known)


def browser(port: int, environ: Mapping[str, str], user: str, host: str, desktop: bool = DESKTOP) -> Finding:
    """How a person gets to the page: a browser here, or a forwarded port from where they sit.

    `desktop`: the system always has a display.
    """
    facts = {"address": f"http://127.0.0.1:{port}"}
    client = environ.get("SSH_CONNECTION", "").split()
    if client or not (desktop or environ.get("DISPLAY") or environ.get("WAYLAND_DISPLAY")):
        there = client[2] if len(client) == 4 else host
        door = f" -p {client[3]}" if len(client) == 4 and client[3] != "22" else ""
        command = f"ssh -L {port}:127.0.0.1:{port}{door} {user}@{there}"
        return note("browser", "browser_ssh" if client else "browser_no_display", command=command, **facts)
    try:
        name = str(getattr(webbrowser.get(), "name", ""))
    except webbrowser.Error:
        return note("browser", "browser_none", **facts)
    return ok("browser", "browser_ok", browser=name or environ.get("BROWSER", sys.platform), **facts)


def terminal(encoding: str | None, windows: bool) -> Finding:
    """Whether a terminal can show what the app says in Chinese."""
    facts = {"encoding": encoding or "?"}
    try:
        "书生案头".encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return problem("terminal", "terminal_windows" if windows else "terminal_ascii", **facts)
    return ok("terminal", "terminal_ok", **facts)


def share_helper(home: Path) -> Finding:
    """The program that Gradio makes share links with, which it fetches when the first one is made. `home` is where
    Hugging Face's libraries keep what they fetch."""
    here = sorted((home / "gradio" / "frpc").glob("frpc_*"))
    return ok("share", "share_here", file=str(here[-1])) if here else ok("share", "share_absent")


def hugging_home() -> Path:
    """Where Hugging Face's libraries, and Gradio, keep what they fetch."""
    from huggingface_hub.constants import HF_HOME

    return Path(HF_HOME)

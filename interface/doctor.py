"""`launch.py doctor`: looks at what goes wrong for people, says what it found, and what to do about it.

Runs every check beside the others, and writes nothing but the log, where there is one. Knows no check from within.
"""

from __future__ import annotations

import getpass
import json
import logging
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

from configs.load import ROOT
from configs.schema import AppConfig, Catalogue
from engines import probe
from engines.acquire import locate
from engines.checkup import card, folders, host, hubs, interpreter, network
from engines.checkup.finding import Check, Finding, failed, note, side_by_side
from engines.errors import AppError
from engines.library import Library
from engines.preferences import Preferred
from interface import checkup
from interface.data_lock import in_use
from interface.doctor_text import report, worded
from interface.i18n import Lang, lang_of, t

TORCH, ALL, NETWORK = 8.0, 9.5, 2.5
"""Seconds for importing torch, for everything together, and for a connection."""
INTERRUPTED = 130
"""The exit code that shells know for Ctrl-C."""
SHARED = Path("/dev/shm")  # noqa: S108  only its size is looked at


def run(overrides: Mapping[str, object], exact_port: bool, as_json: bool, lang: Lang) -> int:
    """Checks and prints; the exit code is 0 if nothing is a problem, else 1. `overrides` are launch.py's flags."""
    environ = dict(os.environ)
    config, catalogue, found = checkup.configuration(overrides, environ)
    chosen = str(overrides.get("lang") or config.interface.lang)
    lang = lang if chosen == "auto" else lang_of(chosen)
    _log_to(config.data / "logs")
    found.append(checkup.terminal(sys.stdout.encoding, sys.platform == "win32"))
    if hasattr(sys.stdout, "reconfigure"):  # what it finds is to be read where not every letter can be shown
        sys.stdout.reconfigure(errors="replace")
    try:
        with _waiting(t("doctor.looking", lang)):
            library, broken = checkup.library(config, catalogue)
            found += broken + _found(Doctor(config, catalogue, library, environ, exact_port).checks())
    except KeyboardInterrupt:
        return INTERRUPTED
    here = {"python": shlex.quote(_short(sys.executable)), "port": config.server.port}
    lines = [worded(one, lang, here) for one in found]
    healthy = all(one.state != "problem" for one in found)
    if as_json:
        checks = [
            {"id": one.check, "state": one.state, "facts": one.facts, "line": one.line, "remedy": one.remedy}
            for one in lines
        ]
        print(json.dumps({"checks": checks, "ok": healthy}, ensure_ascii=False, indent=2, default=str))
    else:
        colour = sys.stdout.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        print("\n".join(report(lines, lang, colour)))
    return 0 if healthy else 1


class Doctor:
    """The checks of one start, each with what it looks at."""

    def __init__(
        self, config: AppConfig, catalogue: Catalogue, library: Library | None, environ: Mapping[str, str],
        exact_port: bool,
    ) -> None:  # fmt: skip
        self.config, self.catalogue, self.library = config, library.catalogue if library else catalogue, library
        self.environ, self.exact_port, self.model = environ, exact_port, config.models.model

    @cached_property
    def driver(self) -> probe.Driver:
        """Asked for by the checks only: a broken driver may let one wait for long."""
        return probe.driver()

    def checks(self) -> dict[str, Check]:
        """Every check by its name, in the order in which they are told; those of models where these are known."""
        models = ("fit", "models") if self.library is None else ()
        return {name: check for name, check in self._checks().items() if name not in models}

    def _checks(self) -> dict[str, Check]:
        config, environ, user = self.config, self.environ, _user()
        store = config.data / "conversations.sqlite3"
        return {
            "python": partial(
                interpreter.python, platform.python_version(), sys.maxsize.bit_length() + 1, sys.executable,
                sys.prefix, sys.base_prefix, environ,
            ),
            "packages": self.packages,
            "card": lambda: card.card(self.driver, environ),
            "torch": lambda: card.torch(card.import_torch(TORCH), self.driver, TORCH),
            "card.memory": lambda: card.memory(probe.device_memory()),
            "image_engines": lambda: interpreter.image_engines(probe.vision_backends(), self.has_card),
            "memory": self.memory,
            "fit": partial(checkup.fit, self.library, self.model),
            "shared_memory": partial(host.shared_memory, SHARED),
            "open_files": lambda: host.open_files(host.open_files_limit()),
            "data": partial(folders.permissions, config.data, user),
            "disk": self.disk,
            "models": partial(folders.models, self.library, self.model),
            "conversations": lambda: checkup.conversations(store, in_use(config.data) is not None),
            "clock": lambda: host.clock(time.time(), (ROOT / "configs").glob("*.toml")),
            "proxy": partial(network.proxies, environ, NETWORK),
            "hub": self.reach,
            "localhost": network.localhost,
            "app": partial(checkup.running, config, self.exact_port),
            "browser": partial(checkup.browser, config.server.port, environ, user, platform.node()),
            "share": lambda: checkup.share_helper(checkup.hugging_home()),
        }  # fmt: skip

    @property
    def has_card(self) -> bool:
        return self.driver.state == "ok"

    def packages(self) -> list[Finding]:
        return interpreter.packages(ROOT / ("requirements-cuda.txt" if self.has_card else "requirements.txt"))

    def disk(self) -> list[Finding]:
        return folders.room(self.config.data, folders.needed(self.library, self.model) if self.library else 0)

    def memory(self) -> Finding:
        total, free = probe.host_memory()
        programs = probe.host_programs(frozenset([os.getpid()]))
        return host.memory(total, free, probe.swap_memory(), self.config.memory.host_margin, programs)

    def reach(self) -> list[Finding]:
        if self.config.models.offline:
            return [note("hub", "hub_offline")]
        models, preferred = self.catalogue.models, Preferred(self.config.data / "preferences.json").now
        asked = hubs.asks(models, self.model, self.config.models.sources, preferred, self.environ)
        needs_pypi = any(spec.demo and locate(spec, self.config) is None for spec in models)
        return hubs.reach(asked, self.environ, needs_pypi)


def _found(checks: Mapping[str, Check]) -> list[Finding]:
    """What the checks find; of one that fails or hangs itself, that."""
    found: list[Finding] = []
    for name, answer in zip(checks, side_by_side(list(checks.values()), ALL), strict=True):
        if isinstance(answer, TimeoutError):
            found.append(note(name, "check_slow", seconds=ALL))
        elif isinstance(answer, AppError):
            found.append(failed(name, answer))
        elif isinstance(answer, Exception):
            found.append(note(name, "check_failed", kind=type(answer).__name__))
        else:
            found += [answer] if isinstance(answer, Finding) else answer
    return found


def _user() -> str:
    """Whose account this is; a container may run as one that has no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        return str(os.getuid()) if hasattr(os, "getuid") else ""


def _short(executable: str) -> str:
    """This Python as a person would type it in the app's folder."""
    path = Path(executable)
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else executable


def _log_to(folder: Path) -> None:
    """Into the app's log, if there is one: what is checked is not changed, and nothing but findings is printed."""
    handler: logging.Handler = logging.NullHandler()
    if os.access(folder, os.W_OK | os.X_OK):
        handler = logging.FileHandler(folder / "app.log", encoding="utf-8", delay=True)
        handler.handleError = lambda record: None  # type: ignore[method-assign]  it may be what is wrong
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s %(message)s")


@contextmanager
def _waiting(line: str) -> Iterator[None]:
    """A line that stands there until the findings do."""
    shown = sys.stderr.isatty()
    if shown:
        print(line, end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)

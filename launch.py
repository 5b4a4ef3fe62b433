"""The command line: serve (the default), chat, plan, models, doctor. Wires everything, and owns the signals.

`python launch.py --help` lists the flags. Heavy libraries are imported when a command needs them, never here.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
import signal
import sys
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass, field
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import NoReturn

import interface.needs  # noqa: F401  first: says what is not installed
from configs.errors import ConfigError
from configs.load import PREFIX, SECRET, load_catalogue, load_config
from configs.schema import AppConfig
from engines.errors import AppError, ModelUnknown
from engines.library import Library
from interface import reach, terminal
from interface.i18n import Lang, lang_of, t
from interface.messages import explain

COMMANDS = ("serve", "chat", "plan", "models", "doctor")


@dataclass(frozen=True, slots=True)
class Arguments:
    """The command line. None means that a flag was not given, and configuration decides."""

    command: str = "serve"
    target: str | None = None
    """The model of `plan`; what to do with `models` (get, remove) and to which."""
    model_argument: str | None = None
    host: str | None = None
    port: int | None = None
    root_path: str | None = None
    browser: bool | None = None
    data: Path | None = None
    allow_hosts: list[str] | None = None
    share: bool | None = None
    auth: list[str] | None = field(default=None, repr=False)
    auth_file: str | None = None
    no_auth: bool = False
    offline: bool | None = None
    lang: str | None = None
    model: str | None = None
    fake: bool = False
    memory: int | None = None
    total: int | None = None
    context: int | None = None
    backend: str | None = None
    force: bool | None = None
    explain: bool = False
    json: bool = False

    @property
    def overrides(self) -> dict[str, object]:
        """What goes before configuration, by its keys."""
        keys = ("host", "port", "root_path", "browser", "data", "offline", "lang", "model", "backend", "force")
        keys += ("allow_hosts", "share", "auth", "auth_file")
        return {key: getattr(self, key) for key in keys}


def parse_args(argv: Sequence[str]) -> Arguments:
    """The command line as a value. Raises ConfigError for a flag or command that does not exist."""
    argv = list(argv)
    place = _place_of_command(argv)
    command = "serve" if place is None else argv.pop(place)
    if command not in COMMANDS:
        raise ConfigError.unknown("config_unknown_command", command, COMMANDS)
    values = vars(_parser(command).parse_args(argv))
    return Arguments(command, **{name: value for name, value in values.items() if value is not None})


def _place_of_command(argv: Sequence[str]) -> int | None:
    """Where the first word stands that is neither a flag nor a flag's value; None if there is none."""
    flags = {name: flag for command in COMMANDS for name, flag in _parser(command)._option_string_actions.items()}
    value = False
    for place, word in enumerate(argv):
        if value:
            value = False
        elif not word.startswith("-"):
            return place
        elif word in flags:
            value = flags[word].nargs is None
        elif word.split("=")[0] not in flags:
            return None  # what stands after a flag that does not exist may be its value
    return None


class _Parser(argparse.ArgumentParser):
    """argparse, but an unknown flag names the nearest one, and every failure is a ConfigError."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        values, unknown = self.parse_known_args(args)
        if unknown:
            known = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise ConfigError.unknown("config_unknown_flag", unknown[0].split("=")[0], known)
        return values

    def error(self, message: str) -> NoReturn:
        raise ConfigError(
            "config_value", file=self.prog, where="command line", value=_without_secrets(sys.argv[1:]), detail=message
        )


def _without_secrets(argv: Sequence[str]) -> str:
    """A command line as it may be shown."""
    return re.sub(r"--auth[ =](\S+)", "--auth …", " ".join(argv))


def _parser(command: str) -> _Parser:
    parser = _Parser(prog=f"launch.py {command}", description=_HELP[command], allow_abbrev=False)
    add = parser.add_argument
    add(
        "--data", type=lambda text: Path(text).expanduser().absolute(), help="folder for models, conversations and logs"
    )
    add("--lang", choices=("auto", "en", "zh"), help="language of the page and the terminal")
    add(
        "--offline",
        action="store_true",
        default=None,
        help="never use the network, for a model or for an image that a request names",
    )
    add("--fake", action="store_true", default=None, help="answer with the scripted engine, to try the app itself")
    if command not in ("models", "doctor"):
        backends = ("auto", "turbomind", "pytorch", "native")
        add("--backend", choices=backends, help="engine for image models; auto lets the guard choose")
        add("--force", action="store_true", default=None, help="load against the guard's word")
    if command in ("serve", "chat"):
        add("--model", help="the model to start with")
    if command == "serve":
        add("--host", help="address to listen on; 127.0.0.1 is this computer only")
        add(
            "--allow-host",
            action="append",
            dest="allow_hosts",
            metavar="NAME",
            help="a name that a proxy of yours uses",
        )
        add("--share", action="store_true", default=None, help="also at a public address of Gradio's, with a login")
        add(
            "--auth", action="append", metavar="NAME:PASSWORD", help="a login; others here can see it, a file is better"
        )
        add("--auth-file", metavar="FILE", help="logins, one NAME:PASSWORD a line")
        add("--no-auth", action="store_true", default=None, help="ask nobody for a login, wherever the app listens")
        add("--port", type=int, help="port to listen on; 0 takes any free one")
        add("--root-path", metavar="PATH", help="the path under which a proxy serves the page, e.g. /desk")
        add("--no-browser", dest="browser", action="store_false", default=None, help="do not open a browser")
    if command == "plan":
        add("target", metavar="MODEL", help="a model of the catalogue")
        add("--memory", type=parse_size, metavar="SIZE", help="plan for a card with so much free memory, e.g. 7.4GiB")
        add("--total", type=parse_size, metavar="SIZE", help="that card's whole memory")
        add("--context", type=parse_count, metavar="TOKENS", help="tokens of conversation to make room for")
        add("--explain", action="store_true", default=None, help="add what was measured on this machine")
        add("--json", action="store_true", default=None, help="print one JSON object, sizes in bytes")
    if command == "doctor":
        add("--model", help="the model that the app would start with")
        add("--host", help="address that it would listen on")
        add("--port", type=int, help="port that it would listen on")
        add("--json", action="store_true", default=None, help="print one JSON object, sizes in bytes")
    if command == "models":
        add("target", nargs="?", choices=("get",), help="get: download a model")
        add("model_argument", nargs="?", metavar="MODEL")
    return parser


_HELP = {
    "serve": "Serve the page (the default command). Others: chat, plan, models, doctor.",
    "chat": "Chat in the terminal. Piped input is answered, and only the answer is printed.",
    "plan": "What the memory guard says about a model, here or on a card described by hand. Exit code 0 load, 3 not.",
    "models": "List the models and how they are; `models get MODEL` downloads one.",
    "doctor": "Look at what may keep the app from working, and say what to do. Exit code 0 no problem, 1 problems.",
}

_UNITS = {"b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_UNITS |= {"kb": 10**3, "mb": 10**6, "gb": 10**9}


def parse_size(text: str) -> int:
    """Bytes of "7.4GiB", "800 MB" or "12345"."""
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
    unit = text.strip()[len(number) :].lower() or "b"
    try:
        size = int(float(number) * _UNITS[unit])
    except (KeyError, ValueError, OverflowError):
        size = 0
    if size <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a size like 7.4GiB")
    return size


def parse_count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code: 0 done, 1 failed, 2 wrong command line or configuration, 3 the guard said no."""
    lang = lang_of(os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG"))
    try:
        arguments = parse_args(sys.argv[1:] if argv is None else argv)
        if arguments.command == "doctor":  # it has to run where the rest of this does not
            from interface import doctor

            return doctor.run(arguments.overrides, arguments.port is not None, arguments.json, lang)
        config = load_config(arguments.overrides, os.environ)
        lang = lang if config.interface.lang == "auto" else lang_of(config.interface.lang)
        _prepare(config, lang)
        library = Library(config, load_catalogue(), fake=arguments.fake)
        library.spec(config.models.model)
        return _run(arguments, library, lang)
    except (ConfigError, AppError) as error:
        print(explain(error, lang).line, file=sys.stderr)
        return 2 if isinstance(error, ConfigError | ModelUnknown) else 1


def _run(arguments: Arguments, library: Library, lang: Lang) -> int:
    match arguments.command:
        case "plan":
            given = arguments
            return terminal.plan(
                library, given.target or "", given.memory, given.total, given.context, given.explain, given.json, lang
            )
        case "models" if arguments.target == "get":
            return terminal.get(library, arguments.model_argument or library.config.models.model, lang)
        case "models":
            return terminal.models(library, lang)
        case "chat":
            # What it raises runs every `finally` on the way out: the answer is cut and its worker ended.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            # A shell that starts it in the background has Ctrl-C ignored, and Python leaves that as it is.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return terminal.chat(library, lang)
        case _:
            return serve(library, lang, arguments.port is not None, arguments.no_auth)


def serve(library: Library, lang: Lang, exact_port: bool, no_auth: bool = False) -> int:
    """Serves the page until a signal ends it: then answers are cut and saved, and no process stays behind."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        # A second signal does not wait.
        signal.signal(number, lambda *_: os._exit(1) if stop.is_set() else stop.set())
    # The other commands need no page, and start in a tenth of the time without Gradio.
    from interface import app, share
    from interface.data_lock import DataLock
    from interface.desk import Desk
    from interface.entrance import Entrance

    config = library.config
    entrance = Entrance.of(config, no_auth)
    lock = DataLock(config.data)
    port = app.free_port(config.server.host, config.server.port, exact_port)
    if port is None:
        raise ConfigError("port_taken", port=config.server.port)
    desk = Desk.open(library)
    damaged = desk.history.set_aside
    demo = app.build(desk, login=bool(entrance.logins))
    address = app.serve(desk, demo, port, entrance)
    lock.serving(address)
    if damaged is not None:
        print(explain(damaged, lang).line)
    if port != config.server.port and config.server.port:
        print(t("app.port_taken", lang, wanted=config.server.port, port=port))
    print(t("app.serving", lang, url=address))
    for line in entrance.lines(config, lang):
        print(line)
    hint = reach.ssh_hint(config.server.host, port, lang, os.environ)
    if reach.is_far(os.environ):
        print(hint)
    print(t("app.stop_hint", lang, data=config.data), flush=True)
    if config.server.browser and reach.has_display():
        webbrowser.open(address)
    desk.start()
    link = share.link(config, port, hint, lang) if config.server.share else None
    stop.wait()
    print(t("app.stopping", lang), flush=True)
    if link is not None:
        link.close()
    desk.close()
    demo.close(verbose=False)
    lock.release()
    return 0


def _prepare(config: AppConfig, lang: Lang) -> None:
    """The process's environment and its log, before any library reads them."""
    logs = config.data / "logs"
    try:
        logs.mkdir(parents=True, exist_ok=True)
        handler = RotatingFileHandler(logs / "app.log", maxBytes=2**20, backupCount=2, encoding="utf-8")
    except OSError as error:
        raise ConfigError("data_unwritable", folder=config.data, detail=error.strerror or str(error)) from None
    logging.basicConfig(level=logging.INFO, handlers=[handler], format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    for key in SECRET:  # read by now, and nothing for the processes that engines run in
        os.environ.pop(PREFIX + key.upper(), None)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["GRADIO_TEMP_DIR"] = str(config.data / "uploads")
    # The server would believe X-Forwarded-For from this computer, where tunnels come out. Who has a proxy that sets it
    # right may say so in the server's own variable.
    os.environ.setdefault("FORWARDED_ALLOW_IPS", "")
    for name, scheme in reach.settle_proxies(os.environ, config.server.host).items():
        print(t("app.proxy_left_out", lang, name=name, scheme=scheme), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())

"""The command line as a value: the commands, their flags, and what is said of a flag that does not exist."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from configs.errors import ConfigError

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
    weights: str | None = None
    force: bool | None = None
    explain: bool = False
    json: bool = False

    @property
    def overrides(self) -> dict[str, object]:
        """What goes before configuration, by its keys."""
        keys = ("host", "port", "root_path", "browser", "data", "offline", "lang", "model", "backend")
        keys += ("weights", "force", "allow_hosts", "share", "auth", "auth_file")
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
        weights = ("auto", "full", "quantized")
        add(
            "--weights",
            choices=weights,
            help="of text models; auto rounds them where memory is short, or without a card",
        )
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

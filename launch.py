"""The command line: serve (the default), chat, plan, models, doctor. Wires everything, and owns the signals.

`python launch.py --help` lists the flags (interface/arguments.py).
Heavy libraries are imported when a command needs them, never here.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
import webbrowser
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler

import interface.needs  # noqa: F401  first: says what is not installed
from configs.errors import ConfigError
from configs.load import PREFIX, SECRET, load_catalogue, load_config
from configs.schema import AppConfig
from engines.errors import AppError, ModelUnknown
from engines.library import Library
from interface import reach, terminal
from interface.arguments import Arguments, parse_args
from interface.data_lock import DataLock
from interface.engine_room import EngineRoom
from interface.entrance import Entrance
from interface.i18n import Lang, lang_of, t
from interface.messages import explain


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; the exit code: 0 done, 1 failed, 2 wrong command line or configuration, 3 the guard said no."""
    lang = lang_of(os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG"))
    try:
        arguments = parse_args(sys.argv[1:] if argv is None else argv)
        if arguments.command == "doctor":  # it has to run where the rest of this does not
            from interface import doctor

            signal.signal(signal.SIGINT, signal.default_int_handler)
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
    config = library.config
    entrance = Entrance.of(config, no_auth)
    lock = DataLock(config.data)
    port = reach.free_port(config.server.host, config.server.port, exact_port)
    if port is None:
        raise ConfigError("port_taken", port=config.server.port)
    room = EngineRoom.open(library)
    try:
        room.get_ready()  # while Gradio is imported, which takes most of the start
        return _serve(room, entrance, lock, port, stop, lang)
    finally:
        room.close()


def _serve(room: EngineRoom, entrance: Entrance, lock: DataLock, port: int, stop: threading.Event, lang: Lang) -> int:
    gc.disable()  # nearly all that is made from here on stays: to look through it again and again only takes time
    # The other commands need no page, and start in a tenth of the time without Gradio.
    import interface.swift_gradio  # noqa: F401  before Gradio
    from interface import app, share
    from interface.desk import Desk

    config = room.library.config
    desk = Desk.open(room.library, room)
    damaged = desk.history.set_aside
    demo = app.build(desk, login=bool(entrance.logins))
    address = app.serve(desk, demo, port, entrance)
    gc.freeze()
    gc.enable()
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

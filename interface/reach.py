"""How a person gets to the app: a free port, its own address, an ssh tunnel from another computer, and proxies out of
the way."""

from __future__ import annotations

import errno
import getpass
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from ipaddress import ip_address

from configs.errors import ConfigError
from interface.i18n import Lang, t

ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  a table
LOOPBACK = ("localhost", "127.0.0.1", "::1")
PORTS_TRIED = 40
LOCAL = "127.0.0.1"
PROXIES = ("http_proxy", "https_proxy", "all_proxy")


def near(host: str) -> str:
    """Where an app that listens on `host` is found from the same computer."""
    return ANY.get(host, host)


def bracketed(host: str) -> str:
    """The host as it stands in an address."""
    return f"[{host}]" if ":" in host else host


def address(host: str, port: int) -> str:
    """What to open on the same computer."""
    return f"http://{bracketed(near(host))}:{port}/"


def free_port(host: str, wanted: int, exact: bool) -> int | None:
    """`wanted` if it is free, else, unless `exact`, the next one that is; None if there is none. 0 takes any.

    Raises ConfigError where no port would help: `host` is none of this machine's addresses, or may not be used.
    """
    for port in [wanted] if exact else range(wanted, min(wanted + PORTS_TRIED, 65536)):
        try:
            found = _bound(host, port)
            # Gradio tries the port there, too, wherever it is to listen.
            return found if host == LOCAL else _bound(LOCAL, found)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise ConfigError("host_unusable", host=host, port=port, detail=error.strerror or str(error)) from None
    return None


def _bound(host: str, port: int) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server itself will: a port in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        return int(probe.getsockname()[1])


def has_display() -> bool:
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def is_far(environ: Mapping[str, str]) -> bool:
    """Whether whoever started the app is likely to sit at another computer."""
    return "SSH_CONNECTION" in environ or not has_display()


def ssh_hint(host: str, port: int, lang: Lang, environ: Mapping[str, str]) -> str:
    """What to type at another computer to open the app there, also where the port is taken on that side.

    The machine goes by the address at which its ssh server was reached for this session, if that says anything.
    """
    _, _, machine, ssh_port = (*environ.get("SSH_CONNECTION", "").split(), "", "", "", "")[:4]
    if not machine or ip_address(machine.partition("%")[0]).is_loopback:
        machine = socket.gethostname()
    login = f"-p {ssh_port} {_user()}@{machine}" if ssh_port not in ("", "22") else f"{_user()}@{machine}"
    target, other = f"{bracketed(near(host))}:{port}", port + 1 if port < 65535 else port - 1
    return t(
        "app.ssh", lang, ssh=f"ssh -N -L {port}:{target} {login}", url=address("127.0.0.1", port),
        other=f"{other}:{target}", other_url=address("127.0.0.1", other),
    )  # fmt: skip


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's number without a name
        return "USER"


def settle_proxies(environ: MutableMapping[str, str], host: str) -> dict[str, str]:
    """Keeps the app's own addresses away from proxies, and takes out those that would keep it from starting.

    Gradio asks the app's own address at the start, by a client that opens every proxy that the environment names, used
    or not, and fails on one that it cannot use. Returns the variables that were taken out, with their schemes.
    """
    for name in ("no_proxy", "NO_PROXY"):
        listed = [part for part in environ.get(name, "").split(",") if part]
        environ[name] = ",".join(dict.fromkeys([*listed, *LOOPBACK, host]))
    known = ("http", "https", "socks5", "socks5h")
    left_out: dict[str, str] = {}
    for name in [*PROXIES, *(name.upper() for name in PROXIES)]:
        scheme, separator, rest = environ.get(name, "").partition("://")
        if separator and scheme.lower() == "socks":  # as GNOME's settings write it
            scheme, environ[name] = "socks5", f"socks5://{rest}"
        if separator and scheme.lower() not in known:
            left_out[name] = scheme
            del environ[name]
    return left_out

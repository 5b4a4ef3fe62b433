"""What is between the app and others: proxies, the name localhost, the port."""

from __future__ import annotations

import contextlib
import errno
import importlib.util
import ipaddress
import socket
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

import psutil

from configs.errors import ConfigError
from engines.checkup.finding import Finding, failed, note, ok, problem, side_by_side
from engines.child import LOOPBACK

VARIABLES = ("http_proxy", "https_proxy", "all_proxy")
PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
SOCKS = {"socksio": "socksio", "socks": "pysocks"}
"""What httpx and requests need for a SOCKS proxy, and the packages that have it."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where something listens. As text it has no user and no password."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, text: str) -> Address | None:
        """Of "http://user:password@host:8080" or "host:8080"; None if that is no address."""
        try:
            parts: SplitResult = urlsplit(text if "://" in text else f"http://{text}")
            port = parts.port or PORTS.get(parts.scheme, 0)
        except ValueError:
            return None
        host = parts.hostname or ""
        return cls(parts.scheme, host, port) if port and host and not set(host) & set(" \t") else None

    def __str__(self) -> str:
        usual = self.port == PORTS.get(self.scheme) and self.scheme in ("http", "https")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if usual else f":{self.port}")

    def unreachable(self, seconds: float) -> str:
        """Why no connection is made: "unresolved" or "unconnected"; "" if there is one."""
        try:
            found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return "unresolved"
        for family, kind, protocol, _, place in found:
            with contextlib.suppress(OSError), socket.socket(family, kind, protocol) as tried:
                tried.settimeout(seconds / min(len(found), 2))
                tried.connect(place)
                return ""
        return "unconnected"


def proxies(
    environ: Mapping[str, str], seconds: float, installed: Callable[[str], bool] | None = None
) -> list[Finding]:
    """The proxies that the environment names: do they answer, and can everything here speak to them?"""
    installed = installed or (lambda name: importlib.util.find_spec(name) is not None)
    named = {name: environ[name] for one in VARIABLES for name in (one, one.upper()) if environ.get(name, "").strip()}
    if not named:
        return [ok("proxy", "proxy_none")]
    places: dict[Address, list[str]] = {}
    found = []
    for name, text in named.items():
        place = Address.of(text.strip())
        if place is None or place.scheme not in PORTS:
            found.append(problem(f"proxy.{name}", "proxy_malformed", name=name))
        else:
            places.setdefault(place, []).append(name)
    answers = side_by_side([lambda place=place: place.unreachable(seconds) for place in places], seconds + 0.5)  # type: ignore[misc]
    for (place, names), answer in zip(places.items(), answers, strict=True):
        facts = {"names": names, "name": names[0], "proxy": str(place)}
        missing = [package for module, package in SOCKS.items() if not installed(module)]
        if answer != "":
            found.append(problem(f"proxy.{names[0]}", "proxy_dead", **facts))
        elif place.scheme.startswith("socks") and missing:
            found.append(problem(f"proxy.{names[0]}", "proxy_socks", packages=missing, **facts))
        else:
            found.append(ok(f"proxy.{names[0]}", "proxy_ok", **facts))
    return [*found, *_bypass(environ)]


def _bypass(environ: Mapping[str, str]) -> list[Finding]:
    """Whether programs here would ask the proxy for this very computer. For its own part the app sees to that."""
    listed = {part.strip() for name in ("no_proxy", "NO_PROXY") for part in environ.get(name, "").split(",")}
    lacking = [] if "*" in listed else [name for name in LOOPBACK[:2] if name not in listed]
    return [note("proxy.no_proxy", "proxy_bypass", lacking=lacking, wanted=",".join(LOOPBACK))] if lacking else []


def proxy_for(url: str, environ: Mapping[str, str]) -> Address | None:
    """The proxy that the clients use for an address: the environment's, or else the one that the system has set."""
    parts, loopback = urlsplit(url), set(LOOPBACK)
    # The variables in lower case go first, as everywhere.
    set_here = {name.lower(): value for name, value in sorted(environ.items()) if name.lower().endswith("_proxy")}
    chosen = {name.removesuffix("_proxy"): value for name, value in set_here.items()} or urllib.request.getproxies()
    bypassed = urllib.request.proxy_bypass_environment(parts.hostname or "", {"no": chosen.get("no", "")})  # type: ignore[attr-defined]
    text = chosen.get(parts.scheme) or chosen.get("all")
    if not text or bypassed or (parts.hostname in loopback):
        return None
    return Address.of(text.strip())


def localhost(look_up: Callable[[str], Iterable[str]] | None = None) -> Finding:
    """Whether the name localhost means this computer."""
    try:
        addresses = list(dict.fromkeys((look_up or _look_up)("localhost")))
    except OSError:
        addresses = []
    if not addresses:
        return problem("localhost", "localhost_unknown")
    foreign = [one for one in addresses if not ipaddress.ip_address(one.partition("%")[0]).is_loopback]
    if foreign:
        return problem("localhost", "localhost_elsewhere", addresses=foreign)
    if not any("." in one for one in addresses):
        return note("localhost", "localhost_ipv6_only", addresses=addresses)
    return ok("localhost", "localhost_ok", addresses=addresses)


def port(host: str, number: int, exact: bool, ours: bool) -> Finding:
    """Whether the app could listen there. `exact`: the port was asked for by number; `ours`: the app holds it now."""
    facts = {"host": host, "port": number}
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, number))
            return ok("port", "port_any" if not number else "port_free", **facts)
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            detail = error.strerror or str(error)
            return failed("port", ConfigError("host_unusable", host=host, port=number, detail=detail))
    if ours:
        return ok("port", "port_ours", **facts)
    holder = listener(number)
    facts |= {"program": holder.name() if holder else "", "pid": holder.pid if holder else 0}
    code = "port_taken" if exact else "port_next"
    return (problem if exact else note)("port", code if holder else f"{code}_unseen", **facts)


def listener(number: int) -> psutil.Process | None:
    """The program that listens on a port; None if the system does not say."""
    try:
        held = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN]
        pids = [one.pid for one in held if one.laddr.port == number and one.pid]
        return psutil.Process(pids[0]) if pids else None
    except psutil.Error:
        return None


def _look_up(name: str) -> list[str]:
    return [str(place[0]) for *_, place in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]

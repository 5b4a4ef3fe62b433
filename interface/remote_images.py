"""Images that a request names by address, fetched so that nobody can have the server knock on its own network's doors.

A host is resolved once, every address that it has must be a public one, and the connection goes to an address that was
checked; a redirect is a new address and checked like the first. Size, time and type are limited.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import Any, NoReturn
from urllib.request import getproxies, proxy_bypass

import anyio
import httpx

from engines.errors import ImageNotFetched

REDIRECTS = 3
SECONDS = 20.0
CONNECT_SECONDS = 5.0
PORTS = (80, 443)
"""Those below 1024. What listens on others there is no web server, and must not be spoken to in somebody's name."""
TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
HEADERS = {"accept": "image/*", "accept-encoding": "identity", "user-agent": "shusheng-desk"}

_UNICAST = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_RELAYS = IPv4Network("192.88.99.0/24")

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]


def is_public(address: str) -> bool:
    """Whether an address is one of the public internet; one that carries another inside is what it carries."""
    try:
        ip = ip_address(address)
    except ValueError:  # a scope, as in fe80::1%eth0
        return False
    if isinstance(ip, IPv6Address):
        inner = ip.ipv4_mapped or (IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None)
        if inner is not None:
            return is_public(str(inner))
        return ip in _UNICAST and ip.is_global and ip.sixtofour is None
    return ip.is_global and not ip.is_multicast and not ip.is_reserved and ip not in _RELAYS


async def resolve(host: str, port: int) -> Sequence[str]:
    """Every address of a host. Raises OSError."""
    found = await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


@dataclass(frozen=True, slots=True)
class RemoteImages:
    """Fetches images of at most `max_bytes`. Tests put a server of their own in by `resolve` and `public`."""

    max_bytes: int
    offline: bool = False
    resolve: Resolve = resolve
    public: Callable[[str], bool] = is_public
    seconds: float = SECONDS

    async def fetch(self, url: str) -> bytes:
        """The file behind a public http or https address. Raises ImageNotFetched(url, reason)."""
        if self.offline:
            _refuse(url, "offline")
        try:
            with anyio.fail_after(self.seconds):
                return await self._followed(url)
        except TimeoutError:
            _refuse(url, "slow", seconds=self.seconds)

    async def _followed(self, url: str) -> bytes:
        here = url
        for _ in range(REDIRECTS + 1):
            found = await self._hop(here, url)
            if isinstance(found, bytes):
                return found
            here = found
        _refuse(url, "redirects", limit=REDIRECTS)

    async def _hop(self, here: str, url: str) -> bytes | str:
        """What one address holds, or where it points to."""
        target = _parsed(here, url)
        port = target.port or (443 if target.scheme == "https" else 80)
        try:
            addresses = await self.resolve(target.raw_host.decode("ascii"), port)
        except (OSError, UnicodeError):
            _refuse(url, "unresolved", host=target.host)
        if not addresses or not all(self.public(one) for one in addresses):
            _refuse(url, "not_public", host=target.host)
        for address in addresses:
            with contextlib.suppress(httpx.ConnectError, httpx.ConnectTimeout):
                return await self._asked(target, address, url)
        _refuse(url, "unreachable", host=target.host)

    async def _asked(self, target: httpx.URL, address: str, url: str) -> bytes | str:
        # The name goes into Host and into TLS, where certificates are checked against it; the connection, and with it
        # the line to a proxy, takes the address.
        headers = HEADERS | {"host": target.netloc.decode("ascii")}
        extensions: dict[str, Any] = {"sni_hostname": target.raw_host.decode("ascii").rstrip(".")}
        timeout = httpx.Timeout(self.seconds, connect=CONNECT_SECONDS)
        async with httpx.AsyncClient(
            verify=_certificates(os.environ.get("SSL_CERT_FILE")),
            trust_env=False,
            proxy=_proxy(target),
            timeout=timeout,
        ) as client:
            asked = target.copy_with(host=address)
            request = client.build_request("GET", asked, headers=headers, extensions=extensions)
            try:
                answer = await client.send(request, stream=True)
                try:
                    return await self._read(answer, target, url)
                finally:
                    await answer.aclose()
            except (httpx.ConnectError, httpx.ConnectTimeout):
                raise
            except (httpx.HTTPError, httpx.InvalidURL):
                _refuse(url, "unreachable", host=target.host)

    async def _read(self, answer: httpx.Response, target: httpx.URL, url: str) -> bytes | str:
        if answer.has_redirect_location:
            return str(target.join(answer.headers["location"]))
        if answer.status_code != 200:
            _refuse(url, "status", status=answer.status_code)
        kind = answer.headers.get("content-type", "").partition(";")[0].strip().lower()
        if not kind.startswith(TYPES) or answer.headers.get("content-encoding", "identity") != "identity":
            _refuse(url, "type", type=kind)
        data = bytearray()
        length = answer.headers.get("content-length", "0")
        if length.isdecimal() and int(length) > self.max_bytes:
            _refuse(url, "too_many_bytes", limit=self.max_bytes)
        async for piece in answer.aiter_raw():
            data += piece
            if len(data) > self.max_bytes:
                _refuse(url, "too_many_bytes", limit=self.max_bytes)
        return bytes(data)


def _parsed(here: str, url: str) -> httpx.URL:
    try:
        target = httpx.URL(here)
    except (httpx.InvalidURL, UnicodeError):
        _refuse(url, "malformed")
    if target.scheme not in ("http", "https") or not target.host:
        _refuse(url, "malformed")
    if target.userinfo:
        _refuse(url, "userinfo")
    if target.port is not None and target.port not in PORTS and not 1024 <= target.port < 65536:
        _refuse(url, "port", port=target.port)
    return target


@cache
def _certificates(own: str | None) -> ssl.SSLContext:
    """Whom to believe, `own` included. Kept, because reading them takes a tenth of a second."""
    return ssl.create_default_context(cafile=own) if own else httpx.create_ssl_context(trust_env=False)


def _proxy(target: httpx.URL) -> str | None:
    """The proxy that the environment names for this address, if it is one of HTTP."""
    proxies = {} if proxy_bypass(target.host) else getproxies()
    proxy = proxies.get(target.scheme) or proxies.get("all", "")
    return (proxy if "://" in proxy else f"http://{proxy}") if proxy and not proxy.startswith("socks") else None


def _refuse(url: str, reason: str, **facts: object) -> NoReturn:
    raise ImageNotFetched(url=url if len(url) <= 200 else url[:200] + "…", reason=reason, **facts)

"""Servers elsewhere that speak OpenAI's API: how they are reached, what they list, and what their refusals are called.

Proxies of the environment are used as by any program, but not for what lies in one's own network: addresses that are
not public, and names without a dot. httpx2 is the client because it reads server-sent events itself, within bounds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import os
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from configs.schema import Remote, server_of
from engines.errors import ServerError

if TYPE_CHECKING:
    import httpx2

MOST_LISTED = 2**20
MOST_QUOTED = 300
"""Characters of a server's own words that are passed on."""
LIST_SECONDS = 10.0
OWN_NETWORK = (".local", ".internal", ".lan", ".localhost")


def key_of(remote: Remote) -> str:
    """The key that the servers want, "" if none is named. Raises ServerError("no_key") if its variable is not set."""
    key = os.environ.get(remote.key_env, "").strip() if remote.key_env else ""
    if remote.key_env and not (key and key.isascii() and key.isprintable()):
        raise ServerError(server=remote.servers, reason="no_key", variable=remote.key_env)
    return key


def client(address: str, remote: Remote) -> httpx2.AsyncClient:
    """A client for one address. It goes where it was sent and nowhere else, for it has the key with it."""
    import httpx2

    key = key_of(remote)
    return httpx2.AsyncClient(
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx2.Timeout(None, connect=remote.connect, write=remote.silence),
        trust_env=not is_near(urlsplit(address).hostname or ""),
        follow_redirects=False,
    )


def is_near(host: str) -> bool:
    """Whether a host is of one's own network, by its name alone."""
    try:
        return not ipaddress.ip_address(host).is_global
    except ValueError:
        return "." not in host or host.endswith(OWN_NETWORK)


async def listed(address: str, remote: Remote, seconds: float = LIST_SECONDS) -> list[dict[str, Any]]:
    """The models that a server has, as it describes them; none where it keeps no list. Raises ServerError."""
    with named(address):
        try:
            async with asyncio.timeout(seconds), client(address, remote) as http:
                async with http.stream("GET", f"{address}/models") as response:
                    if response.status_code in (404, 405):
                        return []
                    if response.status_code != 200:
                        raise await refusal(response, address, remote)
                    body = bytearray()
                    async for piece in response.aiter_bytes():
                        body += piece
                        if len(body) > MOST_LISTED:
                            raise malformed(address)
        except TimeoutError:
            raise ServerError(server=server_of(address), reason="silent", seconds=seconds) from None
    try:
        models = json.loads(bytes(body))["data"]
        return [dict(one) for one in models if isinstance(one["id"], str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise malformed(address) from None


async def refusal(response: httpx2.Response, address: str, remote: Remote) -> ServerError:
    """What a status other than 200 means, with the server's own words where they help."""
    body = b""
    async for piece in response.aiter_bytes():
        body += piece
        if len(body) > 2**16:
            break
    status, server = response.status_code, server_of(address)
    if status in (401, 403):
        # Servers like to quote the key that they do not know.
        return ServerError(server=server, reason="key", status=status, variable=remote.key_env)
    detail = quoted(body, key_of(remote))
    if status == 404:
        return ServerError(server=server, reason="model", model=remote.model, detail=detail)
    if status == 429:
        after = response.headers.get("retry-after", "")
        return ServerError(server=server, reason="busy", seconds=int(after) if after.isdecimal() else None)
    reason = "broken" if status >= 500 else "rejected"
    return ServerError(server=server, reason=reason, status=status, detail=detail)


def quoted(body: bytes | str, key: str = "") -> str:
    """The sentence in a server's error, however it is wrapped."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    with contextlib.suppress(ValueError, RecursionError):
        value = json.loads(text)
        text = _sentence(value) if isinstance(value, dict) else value if isinstance(value, str) else text
    text = " ".join((text.replace(key, "…") if key else text).split())
    return text if len(text) <= MOST_QUOTED else text[:MOST_QUOTED] + "…"


def _sentence(value: Mapping[str, Any]) -> str:
    """Where OpenAI, LMDeploy, vLLM, FastAPI and LMDeploy's proxy put it."""
    inner = value.get("error")
    for one in (inner, value) if isinstance(inner, dict) else (value,):
        for name in ("message", "detail", "text", "error"):
            if isinstance(one.get(name), str):
                return str(one[name])
    return json.dumps(value, ensure_ascii=False)


def malformed(address: str, detail: str = "") -> ServerError:
    return ServerError(server=server_of(address), reason="malformed", detail=detail)


@contextlib.contextmanager
def named(address: str) -> Iterator[None]:
    """Around talk with a server: the client's failures by our names."""
    import httpx2

    try:
        yield
    except httpx2.ConnectTimeout:
        raise ServerError(server=server_of(address), reason="unconnected", why="slow") from None
    except (httpx2.ConnectError, httpx2.ProxyError, httpx2.UnsupportedProtocol) as error:
        why = "proxy" if isinstance(error, httpx2.ProxyError) else _why(error)
        raise ServerError(server=server_of(address), reason="unconnected", why=why) from None
    except (httpx2.DecodingError, httpx2.SSEError, httpx2.InvalidURL, httpx2.LocalProtocolError) as error:
        raise malformed(address, type(error).__name__) from None
    except httpx2.TransportError:
        raise ServerError(server=server_of(address), reason="cut") from None


def _why(error: BaseException) -> str:
    """Why no connection came about, from what is behind the client's error."""
    seen: list[BaseException] = [error]
    for one in seen:
        if isinstance(one, socket.gaierror):
            return "unresolved"
        if isinstance(one, ssl.SSLError):
            return "tls"
        if isinstance(one, ConnectionRefusedError):
            return "refused"
        behind = [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]
        seen += [another for another in behind if another is not None and another not in seen]
    return "unreachable"

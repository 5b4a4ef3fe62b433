"""A public link to the app, by Gradio's tunnel. It is made beside the running app, which goes on without it.

Gradio's own `share=True` would hold up the start, read from its helper without a limit of time, leave it running when
the app is killed, and start whatever stands in its place.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import re
import secrets
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
from gradio import networking, tunneling
from gradio.exceptions import ChecksumMismatchError

from configs.schema import AppConfig
from engines.errors import ShareFailed
from interface.i18n import Lang, t
from interface.messages import explain
from interface.reach import near

log = logging.getLogger(__name__)

CERTIFICATE = "share-server.pem"
MADE = re.compile(r"start proxy success: (\S+)")

# Ends the helper when the app ends, however that ends: its own input is closed then.
KEEPER = """
import os, subprocess, sys, threading
try:
    helper = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stderr=subprocess.STDOUT)
except OSError as error:
    print(error.strerror or error, flush=True)
    os._exit(126)
threading.Thread(target=lambda: (os.read(0, 1), helper.kill()), daemon=True).start()
os._exit(helper.wait() & 127)
"""
NOT_STARTED = 126


@dataclass(frozen=True, slots=True)
class Server:
    """Where links are made. `certificate` is what it has to prove itself by; None for a server of one's own."""

    address: str
    scheme: str
    certificate: Path | None


def link(config: AppConfig, port: int, instead: str, lang: Lang) -> Link:
    """Begins to make a link, and says in the terminal what becomes of it; `instead` is for who gets none."""

    def say(*lines: str) -> None:
        print(*lines, sep="\n", flush=True)

    say(t("app.sharing", lang))
    return Link(
        config.server.host, port, config.data,
        made=lambda url: say(t("app.shared", lang, url=url)),
        failed=lambda error: say(explain(error, lang).line, instead),
    )  # fmt: skip


class Link:
    """A link in the making, then held until `close`.

    From a thread of its own, `made` is told the link's address, and `failed` why there is none, or none any more.
    """

    def __init__(
        self, host: str, port: int, data: Path, made: Callable[[str], None], failed: Callable[[ShareFailed], None]
    ) -> None:
        self._host, self._port, self._data, self._made, self._failed = near(host), port, data, made, failed
        self._keeper: subprocess.Popen[bytes] | None = None
        self._closed, self._late = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="share", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ends the link, or the making of it. May be called again."""
        self._closed.set()
        self._end()
        self._thread.join(1)  # it may be waiting for a server, and ends with the app

    def _run(self) -> None:
        try:
            where = server(self._data)
            self._hold(command_of(helper(), where, self._host, self._port), where.scheme)
        except ShareFailed as failure:
            error = failure
        except Exception as failure:  # whatever it is, the app goes on, and a person is told
            log.exception("no link")
            error = ShareFailed(reason="unknown", detail=_said(failure))
        if not self._closed.is_set():
            log.warning("%s", error)
            self._failed(error)

    def _hold(self, command: list[str], scheme: str) -> None:
        """Raises ShareFailed when the helper has ended."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        # In a group of its own: Ctrl-C in the terminal is the app's to handle.
        with subprocess.Popen([sys.executable, "-c", KEEPER, *command], start_new_session=True, **pipes) as keeper:  # type: ignore[call-overload]
            self._keeper = keeper
            if self._closed.is_set():
                self._end()
            address, last = self._read(keeper, scheme)
        if keeper.returncode == NOT_STARTED:
            raise ShareFailed(reason="helper_refused", path=command[0], detail=last)
        raise ShareFailed(reason="ended" if address else "slow" if self._late.is_set() else "refused", detail=last)

    def _read(self, keeper: subprocess.Popen[bytes], scheme: str) -> tuple[str, str]:
        """The link's address, if one was made, and the helper's last words, once it has ended."""
        limit = threading.Timer(tunneling.TUNNEL_TIMEOUT_SECONDS, lambda: (self._late.set(), self._end()))
        limit.start()
        address = last = ""
        for line in keeper.stdout or ():
            last = line.decode("utf-8", "replace").strip() or last
            if not address and (found := MADE.search(last)):
                limit.cancel()
                address = f"{scheme}://{urlsplit(found[1]).netloc}"
                self._made(address)
            elif not address and "login to server failed" in last:  # it would try again without an end
                self._end()
        limit.cancel()
        return address, last

    def _end(self) -> None:
        if self._keeper is not None:
            with contextlib.suppress(OSError):
                self._keeper.stdin.close()  # type: ignore[union-attr]


def server(data: Path) -> Server:
    """Gradio's server for links, or the one that GRADIO_SHARE_SERVER_ADDRESS names. Raises ShareFailed."""
    own = networking.GRADIO_SHARE_SERVER_ADDRESS
    if own:
        return Server(own, "http", None)
    try:
        answer = httpx.get(networking.GRADIO_API_SERVER, timeout=30).raise_for_status().json()[0]
        address, certificate = f"{answer['host']}:{int(answer['port'])}", str(answer["root_ca"])
    except (httpx.HTTPError, OSError, ValueError, LookupError, TypeError) as error:
        name = urlsplit(networking.GRADIO_API_SERVER).netloc
        raise ShareFailed(reason="offline", server=name, detail=_said(error)) from None
    path = data / CERTIFICATE
    path.write_text(certificate, encoding="utf-8")
    return Server(address, "https", path)


def helper() -> Path:
    """Gradio's helper program, downloaded if it is not here, and what Gradio says it is. Raises ShareFailed."""
    path, url = Path(tunneling.BINARY_PATH), tunneling.BINARY_URL
    try:
        tunneling.Tunnel.download_binary()
        right = tunneling.CHECKSUMS.get(url)
        if right is not None and hashlib.sha256(path.read_bytes()).hexdigest() != right:
            raise ShareFailed(reason="helper_changed", path=str(path), url=url)
        path.chmod(path.stat().st_mode | 0o100)
    except ChecksumMismatchError:
        path.unlink(missing_ok=True)  # Gradio leaves it, and would start it the next time
        raise ShareFailed(reason="helper_missing", path=str(path), url=url, detail="SHA-256") from None
    except (httpx.HTTPError, OSError) as error:
        raise ShareFailed(reason="helper_missing", path=str(path), url=url, detail=_said(error)) from None
    return path


def command_of(program: Path, where: Server, host: str, port: int) -> list[str]:
    """How Gradio starts its helper; a test compares."""
    command = [str(program), "http", "-n", secrets.token_urlsafe(32), "-l", str(port), "-i", host]
    command += ["--uc", "--sd", "random", "--ue", "--server_addr", where.address, "--disable_log_color"]
    if where.certificate is not None:
        command += ["--tls_enable", "--tls_trusted_ca_file", str(where.certificate)]
    return command


def _said(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__

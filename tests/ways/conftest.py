"""The real programs that carry the app elsewhere, each on loopback, with its own keys in a folder of the test's."""

from __future__ import annotations

import getpass
import io
import os
import shutil
import signal
import socket
import subprocess
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e.conftest import browser, open_page, pytest_runtest_makereport, tabs, trusted
from tools.served import free_port

__all__ = ["browser", "open_page", "pytest_runtest_makereport", "tabs", "trusted"]

PATHS = os.environ["PATH"] + os.pathsep + "/usr/sbin"
LOCAL = "127.0.0.1"


def program(name: str) -> str:
    """Where it is. It may be missing only where `make test` could not have installed it."""
    found = shutil.which(name, path=PATHS)
    if found is None:
        assert os.getuid() or not shutil.which("apt-get"), f"{name} is missing: sh tools/debian.sh"
        pytest.skip(f"needs {name}, and may not install it")
    return found


def until(condition: Callable[[], bool], what: Callable[[], str], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, what()
        time.sleep(0.02)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOCAL, port)) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


class Daemon:
    """A server in the foreground, with its words in a file."""

    def __init__(self, folder: Path, *command: str) -> None:
        self._log = folder / f"{Path(command[0]).name}.log"
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)

    def ready(self, condition: Callable[[], bool]) -> None:
        until(lambda: self.process.poll() is not None or condition(), self.said)
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self, by: signal.Signals = signal.SIGTERM) -> None:
        self.process.send_signal(by)
        self.process.wait(10)


def ask_about(page: Page, photo: bytes) -> None:
    """On the image tab, until it is answered."""
    page.get_by_role("tab", name="Image Q&A").click()
    file: Any = {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": photo}
    page.locator("#image-prompt input[type=file]").set_input_files([file])
    expect(page.locator("#image-prompt").get_by_label("File thumbnail")).to_have_count(1)
    box = page.locator("#image-prompt textarea")
    box.fill("what is it?")
    box.press("Enter")
    expect(page.locator("#image-chat").get_by_test_id("bot")).to_have_text("1 image: 4000x3000. what is it?")


# -- ssh --------------------------------------------------------------------------------------------------------------

SSHD = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/me.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
"""


class Sshd:
    """Debian's OpenSSH server for this user, and tunnels through it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        for name in ("host", "me"):
            made = [program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
            subprocess.run(made, check=True)
        (folder / "config").write_text(SSHD.format(port=self._port, folder=folder))
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as its service does
        self._server = Daemon(folder, program("sshd"), "-D", "-e", "-f", str(folder / "config"))
        self._server.ready(lambda: listens(self._port))

    def tunnel(self, here: int, there: int) -> Daemon:
        """`ssh -N -L`, once the app answers at its near end."""
        options = ["-F", "/dev/null", "-i", str(self._folder / "me"), "-o", "StrictHostKeyChecking=no"]
        options += ["-o", f"UserKnownHostsFile={self._folder / 'known'}", "-o", "ExitOnForwardFailure=yes"]
        line = ["-N", "-L", f"{here}:127.0.0.1:{there}", "-p", str(self._port), f"{getpass.getuser()}@{LOCAL}"]
        tunnel = Daemon(self._folder, program("ssh"), *options, *line)
        tunnel.ready(lambda: answers(f"http://{LOCAL}:{here}/manifest.json"))
        return tunnel

    def stop(self) -> None:
        self._server.stop()


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd"))
    yield server
    server.stop()


# -- nginx ------------------------------------------------------------------------------------------------------------

NGINX = """
daemon off;
pid {folder}/pid;
error_log stderr;
{user}
events {{}}
http {{
    access_log off;
    # Large enough that a stream which is gathered does not come in drops all the same.
    proxy_buffer_size 1m;
    proxy_buffers 8 1m;
    proxy_busy_buffers_size 2m;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""


class Nginx:
    """Debian's nginx with these `server` blocks, and a certificate that the test has signed itself."""

    def __init__(self, folder: Path, port: int, servers: str) -> None:
        config = folder / "nginx.conf"
        user = "user root;" if os.getuid() == 0 else ""  # the test's folder is not for nginx's own
        config.write_text(NGINX.format(folder=folder, user=user, servers=servers))
        self._server = Daemon(folder, program("nginx"), "-p", str(folder), "-c", str(config), "-e", "stderr")
        self._server.ready(lambda: listens(port))

    def stop(self) -> None:
        self._server.stop(signal.SIGQUIT)

    @staticmethod
    def certificate(folder: Path) -> tuple[Path, Path]:
        """A certificate for localhost, and its key."""
        cert, key = folder / "desk.pem", folder / "desk.key"
        made = [program("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        made += ["-keyout", str(key), "-out", str(cert), "-days", "2", "-subj", "/CN=localhost"]
        made += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
        subprocess.run(made, check=True, capture_output=True)
        return cert, key

    @staticmethod
    def hash_of(key: Path) -> str:
        """By which Chromium knows it: of its public half, SHA-256 in base64."""
        made = ["openssl", "pkey", "-in", str(key), "-pubout", "-outform", "DER"]
        public = subprocess.run(made, check=True, capture_output=True).stdout
        return b64encode(sha256(public).digest()).decode()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A photograph of 12 megabytes and 12 megapixels."""
    noise = np.random.default_rng(12).integers(0, 256, (3000, 4000), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(noise).convert("RGB").save(data, "JPEG", quality=95)
    assert len(data.getvalue()) > 12e6
    return data.getvalue()

"""The app by itself, where machines differ: proxies in the environment, IPv6, a port that is taken, no display."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.app.test_http import Page, rows, until
from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask
from tools.served import ROOT, Served


@contextlib.contextmanager
def dead_proxy() -> Iterator[tuple[str, list[str]]]:
    """A proxy that hangs up on everyone, and who came."""
    came: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            with contextlib.suppress(OSError):
                while True:
                    caller, address = server.accept()
                    came.append(str(address))
                    caller.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", came
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


def answered(app: Served) -> str:
    """What the app answers to a question."""
    conversation = Page(app).ask("two words")
    return str(until(lambda: [text for text, status in rows(app, conversation) if status == "complete"][1:])[0])


def test_a_dead_proxy_in_the_environment_is_asked_nothing(tmp_path: Path) -> None:
    with dead_proxy() as (url, came):
        names = ("http_proxy", "https_proxy", "all_proxy")
        proxies = {name: url for one in names for name in (one, one.upper())}
        app = Served(tmp_path, "--fake", "--host", "127.0.0.2", environ=proxies | {"no_proxy": "", "NO_PROXY": ""})
        assert answered(app) == "two words " and httpx.get(app.url + "v1/models").status_code == 200
        assert app.stop() == 0 and came == []


def test_all_of_ipv6_and_a_socks_proxy_as_a_desktop_names_it(tmp_path: Path) -> None:
    app = Served(tmp_path, "--fake", "--host", "::", "--no-auth", environ={"all_proxy": "socks://127.0.0.1:9/"})
    assert app.url.startswith("http://[::1]:") and answered(app) == "two words "
    assert app.stop() == 0 and "Traceback" not in app.output


@pytest.fixture(scope="module")
def ipv6(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = Served(tmp_path_factory.mktemp("ipv6"), "--fake", "--host", "::1")
    yield app
    assert app.stop() == 0, app.output


def test_ipv6_loopback_in_a_browser(ipv6: Served, open_page: OpenPage) -> None:
    assert ipv6.url.startswith("http://[::1]:")
    page = open_page(ipv6.url)
    ask(page, "hello")
    expect(answers(page)).to_have_text("hello")


def test_a_taken_port_gives_way_to_the_next_free_one_unless_it_was_asked_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        environ = {
            "SHUSHENG_PORT": str(port),
            "SSH_CONNECTION": "192.0.2.1 50000 192.0.2.2 2222",
            "LANG": "zh_CN.UTF-8",
        }
        app = Served(tmp_path / "a", "--fake", own_port=True, environ=environ)
        found = int(app.url.rstrip("/").rsplit(":")[-1])
        assert port < found < port + 40 and f"端口 {port} 已被占用，改用 {found}。" in app.output
        assert f"ssh -N -L {found}:127.0.0.1:{found} -p 2222 " in app.output and "@192.0.2.2\n" in app.output
        asked = subprocess.run(
            [sys.executable, "launch.py", "--fake", "--port", str(port), "--data", str(tmp_path / "b")],
            cwd=ROOT, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert asked.returncode == 2 and f"Another program listens on port {port}." in asked.stderr
        assert app.stop() == 0


@pytest.mark.parametrize("host", ["::1", "127.0.0.2"])
def test_a_port_that_is_taken_on_127_0_0_1_is_taken(host: str) -> None:
    """Gradio tries it there, wherever it is to listen."""
    from interface.reach import free_port

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert free_port(host, port, exact=True) is None
        assert (free_port(host, port, exact=False) or 0) > port

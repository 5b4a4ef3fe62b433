"""The public link: made, lost, and not to be had. Gradio's server and helper have stand-ins on loopback."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio import networking, tunneling

from engines.errors import ShareFailed
from interface import share
from interface.i18n import LANGS
from interface.messages import explain
from tests.ways.conftest import LOCAL, listens, until
from tools.served import ROOT, Served, free_port

HERE = Path(__file__).parent
HELPER = f"#!{sys.executable}\n{(HERE / 'frpc.py').read_text(encoding='utf-8')}".encode()


@pytest.fixture(scope="module")
def hub() -> Iterator[tuple[str, int]]:
    """Gradio's address for links, with its helper beside it; and the port that links are carried from."""
    carried = free_port()
    answers = {
        "/v3/tunnel-request": json.dumps([{"host": LOCAL, "port": carried, "root_ca": "a certificate"}]).encode(),
        "/frpc": HELPER,
        "/other": b"something else",
        "/odd": b"{}",
    }

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path in answers else 403)
            self.end_headers()
            self.wfile.write(answers.get(self.path, b""))

        def log_message(self, *_: Any) -> None: ...

    with http.server.ThreadingHTTPServer((LOCAL, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{LOCAL}:{server.server_port}", carried
        server.shutdown()
        thread.join()


# -- by the program ---------------------------------------------------------------------------------------------------


def shared(folder: Path, hub: tuple[str, int], *flags: str) -> Served:
    environ = {"GRADIO_STANDIN": hub[0], "HF_HOME": str(folder / "hf"), "PYTHONPATH": str(ROOT)}
    app = Served(folder / "data", "--fake", "--share", *flags, environ=environ, program=str(HERE / "shared_app.py"))
    until(lambda: "https://abc.gradio.live" in app.output or "no public link" in app.output, lambda: app.output)
    return app


def test_a_link_leads_to_the_app_and_ends_with_it(tmp_path: Path, hub: tuple[str, int]) -> None:
    app = shared(tmp_path, hub, "--no-auth")
    assert "Public link: https://abc.gradio.live (for a week at most" in app.output
    link, public = f"http://{LOCAL}:{hub[1]}/", {"host": "abc.gradio.live"}
    assert httpx.get(link + "config", headers=public).status_code == 200
    assert httpx.get(link + "config", headers={"host": "abc.gradio.live.evil.example"}).status_code == 400
    upload = {"files": ("x.txt", b"x")}
    for origin, status in (("https://abc.gradio.live", 200), ("https://other.gradio.live", 403)):
        sent = httpx.post(link + "gradio_api/upload", files=upload, headers=public | {"origin": origin})
        assert sent.status_code == status
    assert app.stop() == 0 and "Traceback" not in app.output
    until(lambda: not listens(hub[1]), lambda: "the helper was left behind")


def test_an_app_that_is_killed_leaves_no_link_behind_and_a_link_has_a_login(
    tmp_path: Path, hub: tuple[str, int]
) -> None:
    app = shared(tmp_path, hub)
    assert httpx.get(f"http://{LOCAL}:{hub[1]}/config", headers={"host": "abc.gradio.live"}).status_code == 401
    app.process.kill()
    app.process.wait()
    until(lambda: not listens(hub[1]), lambda: "the helper was left behind")


def test_without_a_link_the_app_says_what_to_do_and_goes_on(tmp_path: Path) -> None:
    """The real thing, behind a proxy that is not there: nothing of it reaches Gradio's server."""
    dead = {name: f"http://{LOCAL}:9" for name in ("http_proxy", "https_proxy", "all_proxy")}
    environ = dead | {"HF_HOME": str(tmp_path / "hf"), "GRADIO_SHARE_SERVER_ADDRESS": "", "LANG": "zh_CN.UTF-8"}
    app = Served(tmp_path / "data", "--fake", "--share", "--no-auth", environ=environ)
    port = app.url.rstrip("/").rsplit(":")[-1]
    until(lambda: "Address already in use" in app.output.partition("公开链接没有建成")[2], lambda: app.output)
    said = app.output.partition("公开链接没有建成")[2]
    assert "连不上负责分配链接的服务器 api.gradio.app（" in said and "应用在本机照常运行" in said
    assert re.search(rf"^  ssh -N -L {port}:127\.0\.0\.1:{port} \S+@\S+$", said, re.M)
    assert httpx.get(app.url).status_code == 200
    assert app.stop() == 0 and "Traceback" not in app.output + (app.data / "logs" / "app.log").read_text()


# -- what may fail ----------------------------------------------------------------------------------------------------


@pytest.fixture
def standin(tmp_path: Path, hub: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Gradio's names, for stand-ins that do as they should."""
    monkeypatch.setattr(networking, "GRADIO_API_SERVER", f"{hub[0]}/v3/tunnel-request")
    monkeypatch.setattr(tunneling, "BINARY_URL", f"{hub[0]}/frpc")
    monkeypatch.setattr(tunneling, "BINARY_FOLDER", tmp_path / "frpc")
    monkeypatch.setattr(tunneling, "BINARY_PATH", str(tmp_path / "frpc" / "frpc"))
    monkeypatch.setitem(tunneling.CHECKSUMS, f"{hub[0]}/frpc", hashlib.sha256(HELPER).hexdigest())
    return monkeypatch


def outcome(folder: Path) -> tuple[list[str], ShareFailed]:
    """The links that were made, and how it ended."""
    made: list[str] = []
    errors: list[ShareFailed] = []
    link = share.Link(LOCAL, 1, folder, made.append, errors.append)
    until(lambda: bool(errors), lambda: f"no outcome, {made}")
    link.close()
    for lang in LANGS:
        assert str(errors[0].facts.get("path", "")) in explain(errors[0], lang).line
    return made, errors[0]


def helper(standin: pytest.MonkeyPatch, script: str) -> None:
    """Puts a helper of one's own where Gradio looks, and has it be the right one."""
    path = Path(tunneling.BINARY_PATH)
    path.parent.mkdir()
    path.write_text(script)
    standin.setitem(tunneling.CHECKSUMS, tunneling.BINARY_URL, hashlib.sha256(script.encode()).hexdigest())


@pytest.mark.parametrize("answer", ["http://127.0.0.1:9/", "odd", "other", "missing"])
def test_no_server_for_links(tmp_path: Path, hub: tuple[str, int], standin: pytest.MonkeyPatch, answer: str) -> None:
    standin.setattr(networking, "GRADIO_API_SERVER", answer if "//" in answer else f"{hub[0]}/{answer}")
    made, error = outcome(tmp_path)
    assert made == [] and error.facts["reason"] == "offline" and error.facts["server"].startswith(LOCAL)


def test_a_helper_that_cannot_be_had_is_named_with_its_place(
    tmp_path: Path, hub: tuple[str, int], standin: pytest.MonkeyPatch
) -> None:
    for wrong, right in (("missing", None), ("other", "0" * 64)):
        standin.setattr(tunneling, "BINARY_URL", f"{hub[0]}/{wrong}")
        if right:
            standin.setitem(tunneling.CHECKSUMS, f"{hub[0]}/{wrong}", right)
        made, error = outcome(tmp_path)
        assert made == [] and error.facts["reason"] == "helper_missing" and error.facts["url"] == f"{hub[0]}/{wrong}"
        assert error.facts["path"] == tunneling.BINARY_PATH and not Path(tunneling.BINARY_PATH).exists()


def test_what_is_not_the_helper_is_not_started(tmp_path: Path, standin: pytest.MonkeyPatch) -> None:
    helper(standin, f"#!/bin/sh\ntouch {tmp_path}/started\n")
    standin.setitem(tunneling.CHECKSUMS, tunneling.BINARY_URL, "0" * 64)
    made, error = outcome(tmp_path)
    assert made == [] and error.facts["reason"] == "helper_changed" and not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("script", "reason", "detail", "links"),
    [
        ("no program\0", "helper_refused", "Exec format error", 0),
        ("#!/bin/sh\necho connection refused\nexit 1\n", "refused", "connection refused", 0),
        ("#!/bin/sh\necho 'login to server failed: no'; exec sleep 99\n", "refused", "login to server failed: no", 0),
        ("#!/bin/sh\nexec sleep 99\n", "slow", "", 0),
        ("#!/bin/sh\necho 'start proxy success: http://a.gradio.live'; echo bye; exit 3\n", "ended", "bye", 1),
    ],
)  # fmt: skip
def test_a_helper_that_makes_no_link_or_loses_it(
    tmp_path: Path, standin: pytest.MonkeyPatch, script: str, reason: str, detail: str, links: int
) -> None:
    helper(standin, script)
    if reason == "slow":
        standin.setattr(tunneling, "TUNNEL_TIMEOUT_SECONDS", 0.2)
    made, error = outcome(tmp_path)
    assert made == ["https://a.gradio.live"][:links]
    assert (error.facts["reason"], error.facts["detail"]) == (reason, detail)


def test_what_nobody_has_thought_of_is_said_too(tmp_path: Path, standin: pytest.MonkeyPatch) -> None:
    _, error = outcome(tmp_path / "no such folder")
    assert error.facts["reason"] == "unknown" and "No such file" in error.facts["detail"]


def test_a_link_that_is_closed_says_nothing(tmp_path: Path, standin: pytest.MonkeyPatch) -> None:
    helper(standin, f"#!/bin/sh\necho $$ >{tmp_path}/pid\nexec sleep 99\n")
    said: list[Any] = []
    link = share.Link(LOCAL, 1, tmp_path, said.append, said.append)
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", lambda: "not started")
    link.close()
    link.close()
    until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists(), lambda: "left behind")
    assert said == []


def test_the_helper_is_started_as_gradio_starts_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    started: list[list[str]] = []

    class Stopped(Exception): ...

    def stopped(command: list[str], **_: Any) -> None:
        started.append(command)
        raise Stopped

    monkeypatch.setattr(tunneling.subprocess, "Popen", stopped)
    for certificate in (None, "c.pem"):
        with pytest.raises(Stopped):
            tunneling.Tunnel("h", 7, LOCAL, 1, "token", certificate)._start_tunnel("frpc")
        where = share.Server("h:7", "https", Path(certificate) if certificate else None)
        ours = share.command_of(Path("frpc"), where, LOCAL, 1)
        ours[ours.index("-n") + 1] = "token"
        assert ours == started[-1]
    tunneling.CURRENT_TUNNELS.clear()

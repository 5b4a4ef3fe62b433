"""The app behind a notebook server's proxy, which takes its prefix away and tells of it in no header Gradio reads."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, say, stop_button
from tests.ways import notebook_proxy
from tests.ways.conftest import LOCAL, Daemon, ask_about, listens
from tools.served import Served, free_port


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page's address at the notebook server."""
    folder, port = tmp_path_factory.mktemp("jupyter"), free_port()
    prefix = f"/user/x/proxy/{port}"
    app = Served(folder / "app", "--fake", "--root-path", prefix)
    proxy = Daemon(folder, sys.executable, notebook_proxy.__file__, str(port), prefix, app.url)
    proxy.ready(lambda: listens(port))
    yield f"http://{LOCAL}:{port}{prefix}/"
    proxy.stop()
    assert app.stop() == 0, app.output


def test_a_photo_is_asked_about(url: str, open_page: OpenPage, photo: bytes) -> None:
    ask_about(open_page(url), photo)


def test_the_page_works_without_the_slash_that_people_leave_out(url: str, open_page: OpenPage) -> None:
    page = open_page(url.rstrip("/"), used_up=True)
    outside: list[str] = []
    page.on("request", lambda one: outside.append(one.url) if not one.url.startswith(url) else None)
    say(page, "fake: words=9 after=5 hang")
    expect(answers(page)).to_have_text("word0 word1 word2 word3 word4")
    expect(stop_button(page)).to_be_visible()
    assert outside == []


def test_uploads_and_the_api_are_under_the_prefix(url: str, photo: bytes) -> None:
    origin = url[: url.index("/user")]
    assert httpx.get(url + "v1/models").json()["object"] == "list"
    for sender, status in ((origin, 200), ("http://evil.example", 403)):
        sent = httpx.post(
            url + "gradio_api/upload", files={"files": ("p.jpg", photo)}, headers={"origin": sender}, timeout=60
        )
        assert sent.status_code == status

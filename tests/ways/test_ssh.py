"""The app through `ssh -L`, by Debian's OpenSSH at both ends."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, questions, say, stop_button
from tests.ways.conftest import Sshd, ask_about
from tools.served import Served, free_port

CUT = (
    "the stream was cut",
    "ERR_CONNECTION",
    "ERR_EMPTY_RESPONSE",
    "ERR_INCOMPLETE",
    "Failed to fetch",
    "network error",
)
"""What Gradio and the browser print when the tunnel is gone."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = Served(tmp_path_factory.mktemp("ssh"), "--fake")
    yield app
    assert app.stop() == 0, app.output


class Far:
    """The app as another computer sees it: at a port of its own that leads into a tunnel."""

    def __init__(self, sshd: Sshd, app: Served) -> None:
        self._sshd, self._there, self.port = sshd, int(app.url.rstrip("/").rsplit(":")[-1]), free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.open()

    def open(self) -> None:
        self.tunnel = self._sshd.tunnel(self.port, self._there)

    def cut(self) -> None:
        self.tunnel.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def far(sshd: Sshd, app: Served) -> Iterator[Far]:
    far = Far(sshd, app)
    yield far
    far.tunnel.stop()


def test_a_photo_goes_up_through_the_tunnel_whole(far: Far, photo: bytes) -> None:
    answer = httpx.post(far.url + "gradio_api/upload", files={"files": ("photo.jpg", photo)}, timeout=60)
    (path,) = answer.json()
    assert answer.status_code == 200 and Path(path).read_bytes() == photo


def test_a_photo_is_asked_about_through_the_tunnel(far: Far, open_page: OpenPage, photo: bytes) -> None:
    ask_about(open_page(far.url), photo)


def test_a_tunnel_that_is_cut_and_opened_again_loses_nothing_and_repeats_nothing(far: Far, open_page: OpenPage) -> None:
    page = open_page(far.url, CUT)
    say(page, "fake: words=150 delay=0.1")
    expect(answers(page)).to_contain_text("word9 ")
    expect(stop_button(page)).to_be_visible()
    address = page.url
    far.cut()
    expect(page.locator("#connection")).to_contain_text("The connection is lost")
    page.get_by_label("Message", exact=True).fill("typed meanwhile")
    far.open()
    expect(page.locator("#connection")).to_have_count(0)
    expect(answers(page)).to_have_text(re.compile("^word0 word1 word2 "))
    expect(answers(page)).to_have_text(" ".join(f"word{n}" for n in range(150)), timeout=60_000)
    expect(questions(page)).to_have_count(1)
    expect(page.get_by_label("Message", exact=True)).to_have_value("typed meanwhile")
    assert page.url == address

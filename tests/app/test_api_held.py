"""The API with its runner in view: connections that drop, a full queue, keys, images by address, an app that ends."""

from __future__ import annotations

import io
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import uvicorn
from openai import OpenAI
from PIL import Image
from starlette.applications import Starlette

from configs.load import load_catalogue, load_config
from configs.schema import Limits
from engines.library import Library
from interface.api import routes
from interface.api.images import RequestImages
from interface.api.keys import Keys
from interface.api.routes import Api
from interface.desk import Desk
from interface.guards import middleware
from interface.remote_images import RemoteImages
from tests.app.test_api import TEXT, VISION, ask, question
from tests.app.test_http import until
from tests.interface.test_remote_images import ALLOWED, Site, named


class Held:
    """The API behind the guards on a free port, its desk at hand."""

    def __init__(
        self, data: Path, limits: Limits | None = None, site: bool = False, keys: tuple[str, ...] = ()
    ) -> None:
        config = load_config({"data": data}, {})
        self.desk = Desk.open(Library(replace(config, limits=limits or config.limits), load_catalogue(), fake=True))
        remote = RemoteImages(10**6, resolve=named(ALLOWED), public=lambda address: address == ALLOWED)
        images = RequestImages(config, remote if site else None)
        app = Starlette(routes=Api(self.desk, images, Keys(keys)).routes(), middleware=middleware("127.0.0.1", ()))
        self._server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, daemon=True)
        self._thread.start()
        until(lambda: self._server.started)
        self._clients: list[OpenAI] = []
        self.port = self._server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def client(self, **how: Any) -> OpenAI:
        self._clients.append(OpenAI(base_url=self.url, **{"api_key": "none", "max_retries": 0, **how}))
        return self._clients[-1]

    @property
    def idle(self) -> bool:
        status = self.desk.runner.status()
        return not status.running and not status.waiting

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.desk.close()
        self._server.should_exit = True
        self._thread.join(10)


Hold = Callable[..., Held]


@pytest.fixture
def hold(tmp_path: Path) -> Iterator[Hold]:
    held: list[Held] = []

    def one(**how: Any) -> Held:
        held.append(Held(tmp_path, **how))
        return held[-1]

    yield one
    for each in held:
        each.close()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("script", ["prefill=600", "words=100000 delay=0.01"])
def test_a_dropped_connection_stops_the_engine(hold: Hold, stream: bool, script: str) -> None:
    held = hold()
    body = {"model": TEXT, "messages": question("fake: " + script), "stream": stream, "max_tokens": 30000}
    request = httpx.Request("POST", held.url + "/chat/completions", json=body)
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    with socket.create_connection(("127.0.0.1", held.port)) as line:
        line.sendall(f"POST /v1/chat/completions HTTP/1.1\r\n{head}\r\n".encode() + request.content)
        until(lambda: held.desk.runner.status().running and held.desk.runner.status().engaged)
        if stream and "words" in script:
            assert line.recv(100).startswith(b"HTTP/1.1 200")
    # Sooner than anything else would: no page follows it, and nothing is abandoned before 20 s.
    until(lambda: held.idle, 10)
    assert ask(held.client(), "still here?").choices[0].message.content == "still here? "


def test_a_question_in_the_queue_leaves_it_with_its_connection(hold: Hold) -> None:
    held = hold()
    with ask(held.client(), "fake: words=100000 delay=0.01", max_tokens=30000, stream=True) as stream:
        next(stream)
        with pytest.raises(openai.APITimeoutError):
            ask(held.client(timeout=0.5), "me too")
        until(lambda: held.desk.runner.status().waiting == 0)
        assert held.desk.runner.status().running == 1
    until(lambda: held.idle)


def test_past_the_queue_is_429_with_a_time_to_come_again(hold: Hold) -> None:
    held = hold(limits=Limits(max_waiting=1))
    client = held.client()
    first = ask(client, "fake: words=100000 delay=0.01", max_tokens=30000, stream=True)
    next(first)
    waiting = threading.Thread(target=lambda: ask(client, "second"))
    waiting.start()
    until(lambda: held.desk.runner.status().waiting == 1)
    for stream in (False, True):
        with pytest.raises(openai.RateLimitError) as caught:
            ask(client, "third", stream=stream)
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert caught.value.code == "rate_limit_exceeded"
    first.close()
    waiting.join(10)
    until(lambda: held.idle)


def test_an_app_that_ends_says_so_in_the_stream(hold: Hold) -> None:
    held = hold()
    stream = ask(held.client(), "fake: words=100000 delay=0.01", max_tokens=30000, stream=True)
    next(stream)
    held.desk.runner.close()
    with pytest.raises(openai.APIError, match="being ended"):
        list(stream)


def test_an_engine_that_dies_in_the_middle_of_a_stream_is_named(hold: Hold) -> None:
    said = ""
    with pytest.raises(openai.APIError, match="SIGKILL"):
        for chunk in ask(hold().client(), "fake: words=9 delay=0.05 die=SIGKILL after=5", stream=True):
            said += chunk.choices[0].delta.content or ""
    assert said.startswith("word0 word1 ")


def test_a_stream_that_has_nothing_to_say_yet_shows_that_it_lives(hold: Hold, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "HEADERS_AFTER", 0.0)
    monkeypatch.setattr(routes, "ALIVE_EVERY", 0.0)
    held = hold()
    body = {"model": TEXT, "messages": question("fake: prefill=1 words=2"), "stream": True}
    text = httpx.post(held.url + "/chat/completions", json=body).text
    assert 0 < text.index(": still working") < text.index("word0") < text.index("[DONE]")
    chunks = list(ask(held.client(), "fake: prefill=1 words=2", stream=True))
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == "word0 word1 "


def test_keys_are_asked_for_where_there_are_some(hold: Hold) -> None:
    held = hold(keys=("ann:sk-one", "sk-two"))
    for key in ("sk-one", "sk-two"):
        assert held.client(api_key=key).models.list().data
    for key in ("sk-three", "ann", "ann:sk-one", "sk-one2"):
        with pytest.raises(openai.AuthenticationError):
            held.client(api_key=key).models.list()
    for path in ("/models", f"/models/{TEXT}", "/chat/completions", "/nothing"):
        assert httpx.get(held.url + path).status_code == 401
    assert httpx.post(held.url + "/chat/completions", content=b"x").status_code == 401


def test_an_image_by_address(hold: Hold) -> None:
    site, data = Site(ALLOWED), io.BytesIO()
    Image.new("RGB", (60, 50), "navy").save(data, "JPEG")
    site.answers["/cat.jpg"] = (200, {"content-type": "image/jpeg"}, data.getvalue())
    site.answers["/page"] = (200, {"content-type": "text/html"}, b"<html>")
    client = hold(site=True).client()
    here = f"http://pictures.example:{site.port}"
    answer = ask(client, "a cat?", f"{here}/cat.jpg")
    assert answer.choices[0].message.content == "1 image: 60x50. a cat? "
    for path, reason in (("/page", "text/html"), ("/none", "404")):
        with pytest.raises(openai.BadRequestError, match=reason) as caught:
            ask(client, "a cat?", here + path)
        assert caught.value.code == "invalid_image_url"
    site.shutdown()
    site.server_close()


def test_no_address_of_this_machine_is_asked(hold: Hold) -> None:
    canary, client = Site("127.0.0.1"), hold().client()
    for host in ("127.0.0.1", "localhost", "2130706433", "[::ffff:127.0.0.1]", "[::1]", "169.254.169.254"):
        with pytest.raises(openai.BadRequestError, match="not a public address"):
            ask(client, "x", f"http://{host}:{canary.port}/x.png")
    assert canary.asked == []
    canary.shutdown()
    canary.server_close()


def test_the_loaded_model_that_sees_comes_first(hold: Hold) -> None:
    held = hold()
    client = held.client()
    assert client.models.list().data[0].id == TEXT
    held.desk.runner.load(TEXT).result()
    held.desk.runner.load(VISION).result()
    assert [one.id for one in client.models.list().data][:2] == [VISION, TEXT]

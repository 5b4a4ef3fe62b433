"""The app over real HTTP: what it answers to whom, and what becomes of an answer whose listener is gone."""

from __future__ import annotations

import json
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from interface.guards import middleware
from tools.served import Served

POLICY_PARTS = ("default-src 'self'", "img-src 'self' data: blob:", "frame-src 'none'", "object-src 'none'")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = Served(tmp_path_factory.mktemp("app"), "--fake", environ={"SHUSHENG_ABANDON_AFTER": "0.5"})
    yield app
    assert app.stop() == 0, app.output


def until(condition: Callable[[], Any], seconds: float = 15) -> Any:
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, "the condition was not reached"
        time.sleep(0.02)
    return result


def test_pages_carry_the_policy_that_keeps_them_from_loading_elsewhere(app: Served) -> None:
    answer = httpx.get(app.url)
    assert answer.status_code == 200
    for part in POLICY_PARTS:
        assert part in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost", 200), ("127.0.0.1:9999", 200), ("[::1]:80", 200), ("evil.example", 400), ("", 400)],
)
def test_only_our_own_names_are_answered(app: Served, host: str, status: int) -> None:
    assert httpx.get(app.url, headers={"host": host}).status_code == status


def asked_for(host: str, served_on: str, *allow_hosts: str, **headers: str) -> httpx.Response:
    """What the guards of an app that is served on `served_on` say to a request for `host`."""
    inner = Starlette(
        routes=[Route("/", lambda request: PlainTextResponse("in"), methods=["GET", "POST"])],
        middleware=middleware(served_on, allow_hosts),
    )
    with TestClient(inner, base_url=f"http://{host}") as client:
        return client.request("POST" if "origin" in headers else "GET", "/", headers=headers)


@pytest.mark.parametrize("served_on", ["0.0.0.0", "::"])
def test_an_app_for_the_whole_network_goes_by_its_addresses_and_no_foreign_name(served_on: str) -> None:
    for host in ("192.0.2.7:7860", "[2001:db8::1]", "localhost:7860", socket.gethostname().lower(), "127.0.0.1"):
        assert asked_for(host, served_on).text == "in", host
    for host in ("rebound.example", "192.0.2.7.evil.example", "1.2.3"):
        assert asked_for(host, served_on).status_code == 400, host
    assert asked_for("chat.example", served_on, "*.example").text == "in"
    assert asked_for("192.0.2.7", "127.0.0.1").status_code == 400


def test_a_refusal_says_what_to_set_in_the_readers_language() -> None:
    english = asked_for("foreign.example", "127.0.0.1").text
    assert '"foreign.example"' in english and "allow_hosts" in english
    assert "allow_hosts" in (chinese := asked_for("f.example", "127.0.0.1", **{"accept-language": "zh-CN"}).text)
    assert "这个应用不叫" in chinese
    assert "refused" in asked_for("localhost", "127.0.0.1", origin="http://evil.example").text


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1"])
def test_another_sites_page_cannot_post(app: Served, origin: str) -> None:
    files = {"files": ("x.txt", b"x")}
    for path in ("gradio_api/upload", "gradio_api/queue/join"):
        assert httpx.post(app.url + path, headers={"origin": origin}, files=files).status_code == 403


def test_our_own_page_and_programs_can_post(app: Served) -> None:
    files = {"files": ("x.txt", b"x")}
    assert httpx.post(app.url + "gradio_api/upload", files=files).status_code == 200
    own = app.url.rstrip("/")
    assert httpx.post(app.url + "gradio_api/upload", headers={"origin": own}, files=files).status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "//etc/passwd", "../../etc/passwd", "/proc/self/environ", "launch.py", "configs/app.toml",
     "conversations.sqlite3", "logs/app.log"],
)  # fmt: skip
def test_no_file_of_the_machine_is_served(app: Served, path: str) -> None:
    for name in (path, str(app.data / path)):
        assert httpx.get(app.url + "gradio_api/file=" + name).status_code in (403, 404)


# -- an answer and its listener ---------------------------------------------------------------------------------------


class Page:
    """A page as Gradio's own script speaks to the app: events by number, answers over one stream."""

    def __init__(self, app: Served) -> None:
        self._app = app
        self._config = httpx.get(app.url + "config").json()
        self._session = f"page{time.monotonic_ns()}"

    def call(self, name: str, data: list[Any]) -> httpx.Response:
        (number,) = [one["id"] for one in self._config["dependencies"] if one["api_name"] == name][:1]
        body = {"data": data, "fn_index": number, "session_hash": self._session}
        return httpx.post(self._app.url + "gradio_api/queue/join", json=body)

    def stream(self) -> Any:
        return httpx.stream(
            "GET", self._app.url + "gradio_api/queue/data", params={"session_hash": self._session}, timeout=30
        )

    def ask(self, text: str) -> str:
        """The conversation's id, once the question has been taken."""
        self.call("ask", [text, "", "", "smollm2-135m-instruct", "", 0.2, 0.9, 1.1, 8000, -1])
        with self.stream() as stream:
            for line in stream.iter_lines():
                message = json.loads(line.removeprefix("data: ")) if line else {}
                if message.get("msg") == "process_completed":
                    return str(message["output"]["data"][1])
        raise AssertionError("no answer")


def rows(app: Served, conversation: str) -> list[tuple[str, str]]:
    with sqlite3.connect(app.data / "conversations.sqlite3") as db:
        return db.execute(
            "SELECT text, status FROM messages WHERE conversation = ? ORDER BY id", (conversation,)
        ).fetchall()


def test_an_answer_whose_page_is_gone_is_stopped_and_kept(app: Served) -> None:
    page = Page(app)
    conversation = page.ask("fake: words=100000 delay=0.01")
    page.call("follow", [conversation, "smollm2-135m-instruct", ""])
    with page.stream() as stream:
        next(line for line in stream.iter_lines() if "word3" in line)
    until(lambda: rows(app, conversation)[-1][1] == "stopped")
    text = rows(app, conversation)[-1][0]
    assert text.startswith("word0 word1 ")


def test_a_followed_answer_is_not_stopped(app: Served) -> None:
    page = Page(app)
    conversation = page.ask("fake: words=150 delay=0.02")
    page.call("follow", [conversation, "smollm2-135m-instruct", ""])
    with page.stream() as stream:
        next(line for line in stream.iter_lines() if "process_completed" in line)
    assert until(lambda: rows(app, conversation)[-1])[1] == "complete"


def test_updates_come_about_twenty_times_a_second_however_fast_the_engine_is(app: Served) -> None:
    page = Page(app)
    conversation = page.ask("fake: words=4000 delay=0.0005")
    page.call("follow", [conversation, "smollm2-135m-instruct", ""])
    with page.stream() as stream:
        updates = sum("process_generating" in line for line in stream.iter_lines())
    # The engine's own clock: however slow the machine is, the answer took so long, and could be redrawn so often.
    with sqlite3.connect(app.data / "conversations.sqlite3") as db:
        (usage,) = db.execute("SELECT usage FROM messages WHERE usage IS NOT NULL ORDER BY id DESC").fetchone()
    possible = 20 * json.loads(usage)["seconds"]
    assert possible / 4 < updates < possible + 10, "deltas are gathered: neither one by one, nor all at the end"


def test_the_event_names_are_stable(app: Served) -> None:
    names = {one["api_name"] for one in httpx.get(app.url + "config").json()["dependencies"]}
    assert {"ask", "follow", "stop", "retry", "edit", "undo", "open", "refresh", "download", "load"} <= names
    assert {"image_ask", "image_follow", "image_stop"} <= names


def test_the_log_holds_no_traceback(app: Served) -> None:
    assert "Traceback" not in (app.data / "logs" / "app.log").read_text(encoding="utf-8") + app.output


def test_data_is_where_it_was_asked_for(app: Served) -> None:
    assert {"conversations.sqlite3", "logs"} <= {path.name for path in Path(app.data).iterdir()}

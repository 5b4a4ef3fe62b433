"""A stream that is open when its session ends."""

from __future__ import annotations

import asyncio

import pytest
from starlette.types import Message, Receive, Scope, Send

from configs.load import load_config
from interface.door import Door, Reception
from interface.logins import Login


@pytest.mark.parametrize("kind", ["text/event-stream", "text/plain"])
def test_a_stream_ends_with_its_session_and_a_file_that_is_on_its_way_does_not(kind: str) -> None:
    reception = Reception([Login("ann", "correct horse")], load_config({}, {}).server, "en", 7860)
    token = reception.sessions.open("ann")
    got: list[Message] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind.encode())]})
        for piece in (b"one", b"two", b"three"):
            await send({"type": "http.response.body", "body": piece, "more_body": piece != b"three"})
            if piece == b"one":
                reception.sessions.close(token)

    async def send(message: Message) -> None:
        got.append(message)

    cookie = [(b"cookie", f"{reception.session_cookie}={token}".encode())]
    scope = {"type": "http", "method": "GET", "path": "/gradio_api/queue/data", "headers": cookie, "query_string": b""}
    asyncio.run(Door(app, reception)(scope, never, send))
    said = [message.get("body", b"") for message in got[1:]]
    assert said == ([b"one", b""] if kind == "text/event-stream" else [b"one", b"two", b"three"])
    assert not got[-1].get("more_body")


async def never() -> Message:
    raise AssertionError("nobody reads the request")

"""Answers of servers elsewhere, against real HTTP: a server that behaves, and one for each way not to."""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from configs.schema import ModelSpec, Remote
from engines.base import GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.errors import Cancelled, ServerError
from engines.memory import LoadSettings
from engines.remote import RemoteEngine, body_of
from engines.servers import is_near, quoted
from tests.peer import MODEL, Peer, Talk

SETTINGS = LoadSettings("remote", "cpu", "bfloat16", 0)
ASK = [Message.of("user", "hello")]
COUNT = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}

Serve = Callable[..., Peer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    peers: list[Peer] = []

    def one(script: Callable[[Talk], None] = lambda talk: answer(talk)) -> Peer:
        peers.append(Peer(script))
        return peers[-1]

    yield one
    for peer in peers:
        peer.close()


def answer(talk: Talk, usage: Any = COUNT) -> None:
    talk.sse()
    talk.event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
    talk.say("one ", "two", finish="stop")
    if usage is not None:
        talk.event({"choices": [], "usage": usage})
    talk.event("[DONE]")


def engine_of(*urls: str, **how: Any) -> RemoteEngine:
    return RemoteEngine(Remote(urls=urls, **how), SETTINGS)


def said(engine: RemoteEngine, **settings: Any) -> tuple[str, Usage]:
    pieces: list[str] = []
    usage = engine.generate(ASK, GenerationSettings(**settings), pieces.append)
    return "".join(pieces), usage


def failure_of(engine: RemoteEngine) -> tuple[str, dict[str, Any]]:
    """What was said before it failed, and the failure's facts."""
    pieces: list[str] = []
    with pytest.raises(ServerError) as caught:
        engine.generate(ASK, GenerationSettings(), pieces.append)
    return "".join(pieces), caught.value.facts


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"127.0.0.1:{server.getsockname()[1]}"


def test_an_answer_with_the_servers_own_count(serve: Serve) -> None:
    peer = serve()
    engine = engine_of(peer.url, parallel=3)
    text, usage = said(engine)
    assert text == "one two" and engine.parallel == 3 and engine.memory() == 0 and engine.count_tokens(ASK) is None
    assert (usage.prompt_tokens, usage.cached_tokens, usage.new_tokens, usage.reason) == (7, 3, 2, "stop")
    assert usage.context == 4096 and not usage.estimated and 0 < usage.first_token_s <= usage.seconds
    ((_, body),) = peer.asked
    assert body["model"] == MODEL and body["stream"] and body["stream_options"] == {"include_usage": True}


@pytest.mark.parametrize("usage", [None, {"prompt_tokens": None}, {"completion_tokens": "2"}])
def test_without_a_count_its_pieces_are_counted_and_that_is_said(serve: Serve, usage: Any) -> None:
    text, counted = said(engine_of(serve(lambda talk: answer(talk, usage)).url))
    assert text == "one two" and counted.estimated and (counted.new_tokens, counted.context) == (2, 0)


def test_settings_are_openais_and_of_others_those_that_are_taken() -> None:
    settings = GenerationSettings(5, 0.1, 0.2, 7, 1.1, 3)
    body = body_of(ASK, settings, Remote("http://x", model="m"))
    assert body["messages"] == [{"role": "user", "content": "hello"}]
    given = {name: body[name] for name in ("max_tokens", "temperature", "top_p", "top_k", "repetition_penalty", "seed")}
    assert given == {
        "max_tokens": 5,
        "temperature": 0.1,
        "top_p": 0.2,
        "top_k": 7,
        "repetition_penalty": 1.1,
        "seed": 3,
    }
    strict = Remote("http://x", fields=())
    cut = [*ASK, Message.of("assistant", "so far")]
    assert not {"top_k", "repetition_penalty", "continue_final_message"} & body_of(cut, settings, strict).keys()
    assert body_of(cut, settings, Remote("http://x"))["continue_final_message"] is True
    usual = body_of(ASK, GenerationSettings(), Remote("http://x"))
    assert not {"top_k", "repetition_penalty", "seed", "continue_final_message"} & usual.keys()


@pytest.mark.parametrize(("detail", "sent"), [("auto", {}), ("medium", {}), ("high", {"detail": "high"})])
def test_images_go_as_the_gate_stored_them(tmp_path: Path, detail: Any, sent: dict[str, str]) -> None:
    file = tmp_path / "x.webp"
    Image.new("RGB", (30, 20), "teal").save(file, "WEBP")
    message = Message("user", (ImagePart("x", file, 30, 20), TextPart("what is it?")))
    body = body_of([message], GenerationSettings(detail=detail), Remote("http://x"))
    image, text = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "what is it?"}
    url = image["image_url"].pop("url")
    assert base64.b64decode(url.removeprefix("data:image/webp;base64,")) == file.read_bytes()
    assert image == {"type": "image_url", "image_url": sent}


def test_a_cancel_closes_the_connection(serve: Serve) -> None:
    def talkative(talk: Talk) -> None:
        talk.sse()
        talk.until_hung_up()

    peer = serve(talkative)
    pieces: list[str] = []

    def enough(text: str) -> None:
        if len(pieces) == 3:
            raise Cancelled
        pieces.extend([text] if text else [])

    usage = engine_of(peer.url).generate(ASK, GenerationSettings(), enough)
    assert usage.reason == "cancelled" and usage.new_tokens == 4
    assert peer.hung_up.wait(5)


def test_a_cancel_before_the_first_word_does_too(serve: Serve) -> None:
    def silent(talk: Talk) -> None:
        talk.connection.settimeout(10)
        if talk.connection.recv(1) == b"":
            talk.server.hung_up.set()

    def never(text: str) -> None:
        raise Cancelled

    peer = serve(silent)
    began = time.monotonic()
    assert engine_of(peer.url).generate(ASK, GenerationSettings(), never).reason == "cancelled"
    assert peer.hung_up.wait(5) and time.monotonic() - began < 5


def test_the_key_goes_along_and_is_in_no_error(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLUSTER_KEY", " s3cret-key\n")
    peer = serve()
    engine = engine_of(peer.url, key_env="CLUSTER_KEY")
    said(engine)
    assert peer.asked[0][0]["authorization"] == "Bearer s3cret-key"
    peer.script = lambda talk: talk.reply(400, {"error": {"message": "your key s3cret-key is fine, the rest is not"}})
    _, facts = failure_of(engine)
    assert facts["reason"] == "rejected" and facts["detail"] == "your key … is fine, the rest is not"
    peer.script = lambda talk: talk.reply(401, {"error": {"message": "Incorrect API key provided: s3c****key"}})
    assert "s3c" not in str(failure_of(engine)[1])
    monkeypatch.delenv("CLUSTER_KEY")
    with pytest.raises(ServerError) as caught:
        engine_of(peer.url, key_env="CLUSTER_KEY")
    assert caught.value.facts["reason"] == "no_key" and caught.value.facts["variable"] == "CLUSTER_KEY"


@pytest.mark.parametrize(
    ("status", "body", "headers", "facts"),
    [
        (401, {"error": {"message": "no"}}, {}, {"reason": "key", "status": 401}),
        (403, b"<html>", {}, {"reason": "key", "status": 403}),
        (404, {"object": "error", "message": "no such model"}, {}, {"reason": "model", "detail": "no such model"}),
        (429, {}, {"retry_after": "7"}, {"reason": "busy", "seconds": 7}),
        (429, {}, {"retry_after": "Wed, 21 Oct 2026 07:28:00 GMT"}, {"reason": "busy", "seconds": None}),
        (400, {"detail": "unknown field top_k"}, {}, {"reason": "rejected", "detail": "unknown field top_k"}),
        (307, b"", {"location": "http://elsewhere/"}, {"reason": "rejected", "status": 307}),
        (500, b"x" * 100_000, {}, {"reason": "broken", "status": 500, "detail": "x" * 300 + "…"}),
        (503, {"error": "loading"}, {}, {"reason": "broken", "detail": "loading"}),
        # LMDeploy's proxy, when all its nodes are gone.
        (200, b'"{\\"error_code\\": -10400, \\"text\\": \\"no model\\"}"', {}, {"reason": "malformed"}),
        (200, {"choices": []}, {}, {"reason": "malformed"}),
    ],
)  # fmt: skip
def test_refusals_by_name(serve: Serve, status: int, body: Any, headers: dict[str, str], facts: dict[str, Any]) -> None:
    peer = serve(lambda talk: talk.reply(status, body, **headers))
    engine = engine_of(peer.url)
    text, found = failure_of(engine)
    assert text == "" and found["server"] == peer.name and {name: found[name] for name in facts} == facts
    assert len(peer.asked) == 1, "what was sent is not sent again"
    peer.script = answer
    assert said(engine)[0] == "one two", "the next question finds it well"


def begin(talk: Talk) -> None:
    talk.sse()
    talk.say("one ")


def cut(talk: Talk) -> None:
    begin(talk)


def reset(talk: Talk) -> None:
    begin(talk)
    talk.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
    talk.connection.close()


def lost_node(talk: Talk) -> None:
    """As LMDeploy's proxy does when the node that answers dies."""
    begin(talk)
    talk.raw(b'{"error_code": -10402, "text": "Failed to get response"}\n')


def half_json(talk: Talk) -> None:
    begin(talk)
    talk.event('{"choices": [{"delta": {"con')


def no_choice(talk: Talk) -> None:
    begin(talk)
    talk.event({"choices": "what?"})


def list_of_things(talk: Talk) -> None:
    begin(talk)
    talk.event([1])


def in_stream(talk: Talk) -> None:
    begin(talk)
    talk.event({"error": {"message": "CUDA out of memory", "type": "server_error"}})


def mute(talk: Talk) -> None:
    begin(talk)
    time.sleep(3)


@pytest.mark.parametrize(
    ("script", "reason", "detail"),
    [
        (cut, "cut", ""),
        (reset, "cut", ""),
        (lost_node, "cut", ""),
        (half_json, "malformed", ""),
        (no_choice, "malformed", ""),
        (list_of_things, "malformed", ""),
        (in_stream, "broken", "CUDA out of memory"),
        (mute, "silent", ""),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_stream_that_breaks_keeps_what_was_said(
    serve: Serve, script: Callable[[Talk], None], reason: str, detail: str
) -> None:
    peer = serve(script)
    text, facts = failure_of(engine_of(peer.url, silence=0.5))
    assert (text, facts["reason"], facts["server"]) == ("one ", reason, peer.name)
    assert detail in facts.get("detail", "") and len(peer.asked) == 1


def test_too_slow_a_first_word(serve: Serve) -> None:
    def slow(talk: Talk) -> None:
        talk.sse()
        for _ in range(30):
            talk.raw(b": still here\n\n")
            time.sleep(0.1)

    _, facts = failure_of(engine_of(serve(slow).url, first_token=0.5))
    assert facts["reason"] == "silent" and facts["seconds"] == 0.5


def test_the_next_address_is_tried_where_nothing_was_sent(serve: Serve) -> None:
    gone, peer = closed_port(), serve()
    engine = engine_of(f"http://{gone}/v1", peer.url)
    assert said(engine)[0] == said(engine)[0] == "one two"
    peer.close()
    _, facts = failure_of(engine)
    assert facts == {"server": f"{gone}, {peer.name}", "reason": "unconnected", "why": "refused"}


def test_one_that_dies_in_an_answer_is_named_and_later_ones_come_from_the_other(serve: Serve) -> None:
    first, second = serve(cut), serve()
    engine = engine_of(first.url, second.url)
    text, facts = failure_of(engine)
    assert (text, facts["server"], facts["reason"]) == ("one ", first.name, "cut") and not second.asked
    first.close()
    assert said(engine)[0] == "one two" and len(second.asked) == 1


@pytest.mark.parametrize(
    ("address", "why"),
    [("http://no-such-host-anywhere.invalid/v1", "unresolved"), ("https://{plain}/v1", "tls")],
)
def test_why_no_connection_came_about(serve: Serve, monkeypatch: pytest.MonkeyPatch, address: str, why: str) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ServerError) as caught:
        engine_of(address.format(plain=serve().name))
    assert caught.value.facts["reason"] == "unconnected" and caught.value.facts["why"] == why


def test_a_proxy_of_the_environment_is_for_what_is_far_away(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = serve()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{closed_port()}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert said(engine_of(peer.url))[0] == "one two"
    with pytest.raises(ServerError) as caught:
        engine_of("http://models.example.com/v1")
    assert caught.value.facts["why"] == "refused", "it is the proxy that refused"
    near = ("gpu1", "localhost", "127.0.0.1", "::1", "10.0.0.7", "192.168.1.2", "gpu1.local", "fd00::1", "169.254.1.1")
    assert all(is_near(host) for host in near) and not any(is_near(host) for host in ("api.example.com", "8.8.8.8"))


def test_the_model_is_the_one_named_or_the_first(serve: Serve) -> None:
    peer = serve()
    with pytest.raises(ServerError) as caught:
        engine_of(peer.url, model="other")
    assert caught.value.facts == {"server": peer.name, "reason": "model", "model": "other", "detail": MODEL}
    peer.list = lambda talk: talk.reply(200, {"data": [{"id": "a"}, {"id": "b", "max_model_len": 512}]})
    assert said(engine_of(peer.url))[1].context == 0
    assert said(engine_of(peer.url, model="b"))[1].context == 512 and peer.asked[-1][1]["model"] == "b"
    window = RemoteEngine(Remote(peer.url, model="b"), LoadSettings("remote", "cpu", "bfloat16", 256))
    assert said(window)[1].context == 256, "what is configured counts"


@pytest.mark.parametrize("script", [lambda talk: talk.reply(404, {}), lambda talk: talk.reply(200, {"data": []})])
def test_a_server_without_a_list_is_asked_for_the_model_that_is_named(
    serve: Serve, script: Callable[[Talk], None]
) -> None:
    peer = serve()
    peer.list = script
    assert said(engine_of(peer.url, model="m"))[0] == "one two"
    with pytest.raises(ServerError) as caught:
        engine_of(peer.url)
    assert caught.value.facts["reason"] == "unnamed"


@pytest.mark.parametrize(
    "script",
    [
        lambda talk: talk.reply(200, b"<html>"),
        lambda talk: talk.reply(200, {"data": [{}]}),
        lambda talk: talk.reply(200, {"data": "x"}),
        lambda talk: talk.reply(200, b'{"data": [' + b" " * 2**21),
    ],
)
def test_a_list_that_is_none(serve: Serve, script: Callable[[Talk], None]) -> None:
    peer = serve()
    peer.list = script
    with pytest.raises(ServerError) as caught:
        engine_of(peer.url)
    assert caught.value.facts["reason"] == "malformed"


def test_a_servers_words_however_they_are_wrapped() -> None:
    assert quoted(b'{"error": {"message": "a\\n b"}}') == quoted(b'{"detail": "a b"}') == quoted("a  b") == "a b"
    assert quoted(b'"a b"') == quoted(b'{"error": "a b"}') == quoted(b'{"text": "a b", "error_code": 1}') == "a b"
    assert quoted(b"\xff") and quoted(b"[" * 100_000) and quoted(b"") == ""


@pytest.mark.parametrize(
    "address",
    ["", "gpu1:23333", "ftp://gpu1", "http://", "http://me:key@gpu1", "http://gpu1/v1?key=1", "http://a:99999"],
)
def test_what_is_no_servers_address(address: str) -> None:
    with pytest.raises(ValueError):
        Remote(address)


def test_an_entry_is_of_a_server_or_describes_files() -> None:
    spec = ModelSpec("far", "Far", "text", remote=Remote("http://gpu1:23333/", urls=("http://gpu1:23333/v1",)))
    assert spec.remote is not None and spec.remote.addresses == ("http://gpu1:23333/v1",)
    with pytest.raises(ValueError, match="architecture"):
        ModelSpec("near", "Near", "text")

"""The API as programs use it: OpenAI's own client over real HTTP, on the page's address."""

from __future__ import annotations

import asyncio
import base64
import io
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI, OpenAI
from PIL import Image

from tests.app.test_http import until
from tools.served import Served

TEXT, VISION = "smollm2-135m-instruct", "internvl2-2b"


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    limits = {"SHUSHENG_MAX_REQUEST": "3000000", "SHUSHENG_OFFLINE": "true"}
    app = Served(tmp_path_factory.mktemp("app"), "--fake", environ=limits)
    yield app
    assert app.stop() == 0, app.output
    assert "Traceback" not in (app.data / "logs" / "app.log").read_text(encoding="utf-8") + app.output


@pytest.fixture(scope="module")
def client(app: Served) -> Iterator[OpenAI]:
    with OpenAI(base_url=app.url + "v1", api_key="none", max_retries=0) as client:
        yield client


def data_url(size: tuple[int, int] = (30, 20)) -> str:
    data = io.BytesIO()
    Image.new("RGB", size, "teal").save(data, "PNG")
    return "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()


def question(text: str, *urls: str) -> list[Any]:
    if not urls:
        return [{"role": "user", "content": text}]
    images = [{"type": "image_url", "image_url": {"url": url}} for url in urls]
    return [{"role": "user", "content": [{"type": "text", "text": text}, *images]}]


def ask(client: OpenAI, text: str, *urls: str, **fields: Any) -> Any:
    model = VISION if urls else TEXT
    return client.chat.completions.create(**{"model": model, "messages": question(text, *urls), **fields})


def test_the_tutorials_script(app: Served) -> None:
    """As it stands in LMDeploy's tutorial, but for the port and the image, which it has from the network."""
    loader = OpenAI(api_key="none", base_url=app.url + "v1")
    ask(loader, "load it", data_url())

    client = OpenAI(api_key="YOUR_API_KEY", base_url=f"{app.url}v1")
    model_name = client.models.list().data[0].id
    response = client.chat.completions.create(
        model=model_name,
        messages=[
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "describe this image"},
                    {"type": "image_url", "image_url": {"url": data_url((40, 30))}},
                ],
            }
        ],
        temperature=0.8,
        top_p=0.8,
    )
    assert model_name == VISION
    (choice,) = response.choices
    assert choice.message.content == "1 image: 40x30. describe this image "
    assert (choice.message.role, choice.finish_reason, response.model) == ("assistant", "stop", VISION)
    usage = response.usage
    assert usage is not None and usage.completion_tokens == 6 and usage.prompt_tokens == 3 and usage.total_tokens == 9


def test_models(client: OpenAI) -> None:
    ask(client, "load it")
    models = {one.id: one for one in client.models.list().data}
    assert {TEXT, VISION} <= models.keys()
    found = client.models.retrieve(VISION)
    assert found == models[VISION] and found.object == "model" and found.created > 10**9
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gpt-4o")
    assert caught.value.code == "model_not_found" and "gpt-4o" in caught.value.message


def test_a_stream_is_the_answer_in_pieces_and_the_usage_comes_last(client: OpenAI) -> None:
    whole = ask(client, "fake: words=30 delay=0.01")
    stream = ask(client, "fake: words=30 delay=0.01", stream=True, stream_options={"include_usage": True})
    *chunks, last = list(stream)
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in chunks[-2:]] == [None, "stop"]
    assert len(chunks) > 4 and len({one.id for one in [*chunks, last]}) == 1
    assert last.choices == [] and last.usage == whole.usage and chunks[0].usage is None
    plain = list(ask(client, "fake: words=3", stream=True))
    assert all(one.choices and one.usage is None for one in plain)


def test_a_stream_ends_as_openais_does_and_is_not_gathered_on_the_way(app: Served) -> None:
    body = {"model": TEXT, "messages": question("fake: words=2"), "stream": True}
    answer = httpx.post(app.url + "v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-accel-buffering"] == "no" and answer.headers["cache-control"] == "no-cache"
    assert answer.text.endswith("data: [DONE]\n\n")


def test_async_and_async_streaming(app: Served) -> None:
    async def both() -> tuple[Any, list[Any]]:
        async with AsyncOpenAI(base_url=app.url + "v1", api_key="none") as client:
            fields: Any = {"model": TEXT, "messages": question("fake: words=5")}
            whole = await client.chat.completions.create(**fields)
            return whole, [one async for one in await client.chat.completions.create(**fields, stream=True)]

    whole, chunks = asyncio.run(both())
    assert whole.choices[0].message.content == "word0 word1 word2 word3 word4 "
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == whole.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_sequence_ends_the_answer_and_does_not_show(client: OpenAI, stream: bool) -> None:
    text = "fake: words=100000 delay=0.002"
    answer = ask(client, text, stop=["never", "d3 wo"], max_tokens=30000, stream=stream)
    if stream:
        chunks = list(answer)
        said = "".join(one.choices[0].delta.content or "" for one in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        said, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (said, reason) == ("word0 word1 word2 wor", "stop")


def test_what_looked_like_a_stop_sequence_to_the_end_is_shown(client: OpenAI) -> None:
    assert ask(client, "fake: words=2", stop="word1 word2").choices[0].message.content == "word0 word1 "


def test_the_longest_answer(client: OpenAI) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = ask(client, "fake: words=20", **{name: 3})
        assert answer.choices[0].finish_reason == "length" and answer.usage.completion_tokens == 3


def test_the_conversation_so_far_and_a_system_prompt_are_sent_back(client: OpenAI) -> None:
    first = ask(client, "one two")
    messages = [{"role": "system", "content": "be brief"}, *question("one two"), first.choices[0].message.model_dump(),
                *question("three")]  # fmt: skip
    answer = ask(client, "", messages=messages)
    assert answer.choices[0].message.content == "three " and answer.usage.prompt_tokens == 7


@pytest.mark.parametrize(
    ("fields", "error", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, "model"),
        ({"temperature": 3}, openai.BadRequestError, "temperature"),
        ({"n": 2}, openai.BadRequestError, "n"),
        ({"extra_body": {"foo": 1}}, openai.BadRequestError, "foo"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"messages": question("x " * 9000)}, openai.BadRequestError, "messages"),
        ({"messages": question("x", data_url())}, openai.BadRequestError, "messages[0].content[1].image_url"),
        ({"messages": question("x" * 3_000_000)}, openai.APIStatusError, None),
        ({"messages": question("fake: error=1")}, openai.InternalServerError, None),
        ({"messages": question("fake: die=SIGKILL")}, openai.InternalServerError, None),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_errors_are_openais(
    client: OpenAI, fields: dict[str, Any], error: type[openai.APIStatusError], param: str | None, stream: bool
) -> None:
    with pytest.raises(error) as caught:
        ask(client, "x", **fields, stream=stream)
    assert type(caught.value) is error and caught.value.param == param
    assert caught.value.message and "Traceback" not in str(caught.value.body)


@pytest.mark.parametrize(
    ("url", "error", "word"),
    [
        ("data:image/png;base64,AAAA", openai.UnprocessableEntityError, "no image"),
        ("data:image/png;base64,A", openai.BadRequestError, "base64"),
        ("data:image/png,x", openai.BadRequestError, "data URL"),
        ("data:", openai.BadRequestError, "data URL"),
        (data_url((400, 4)), openai.UnprocessableEntityError, "400 x 4 pixels"),
        ("https://example.com/x.png", openai.BadRequestError, "offline"),
        ("cat.png", openai.BadRequestError, "offline"),
    ],
)
def test_images_that_cannot_be_used(app: Served, client: OpenAI, url: str, error: type[Exception], word: str) -> None:
    with pytest.raises(error) as caught:
        ask(client, "x", data_url(), url)
    assert word in caught.value.message  # type: ignore[attr-defined]
    assert not list((app.data / "requests").iterdir()), "what was sent along is not kept"


def test_images_count_by_message(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="9 images"):
        ask(client, "x", *[data_url()] * 9)
    messages = [*question("x", *[data_url()] * 8), {"role": "assistant", "content": "y"}, *question("z", data_url())]
    assert ask(client, "", data_url(), messages=messages).choices[0].message.content == "1 image: 30x20. z "


def test_images_are_neither_kept_nor_served(app: Served, client: OpenAI) -> None:
    stream = ask(client, "fake: words=1000 delay=0.005", data_url((50, 40)), stream=True)
    next(stream)
    (folder,) = (app.data / "requests").iterdir()
    for path in folder.iterdir():
        assert httpx.get(f"{app.url}gradio_api/file={path}").status_code in (403, 404)
    stream.close()
    until(lambda: not folder.exists())
    assert not list((app.data / "images").iterdir())


def test_eight_clients_at_once(client: OpenAI) -> None:
    def one(n: int) -> str:
        if n % 2:
            return str(ask(client, f"fake: words=40 delay=0.002 after={n}").choices[0].message.content)
        chunks = ask(client, f"number {n}", data_url((30 + n, 20)), stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(one, range(8)))
    words = "".join(f"word{n} " for n in range(40))
    assert answers == [words if n % 2 else f"1 image: {30 + n}x20. number {n} " for n in range(8)]


def test_guards_stand_before_it(app: Served) -> None:
    address, body = app.url + "v1/chat/completions", {"model": TEXT, "messages": question("x")}
    assert httpx.post(address, json=body, headers={"origin": "http://evil.example"}).status_code == 403
    assert httpx.get(app.url + "v1/models", headers={"host": "evil.example"}).status_code == 400
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = httpx.post(address, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 400 and answer.json()["error"]["code"] == "unsupported_content_type"


@pytest.mark.parametrize("body", [b"", b"{", b"[" * 100_000, b'{"a": NaN}', b"\xff", b"null", b"[]"])
def test_what_is_no_json_object(app: Served, body: bytes) -> None:
    answer = httpx.post(
        app.url + "v1/chat/completions", content=body, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "body",
    [
        '{"model": "\\ud800", "messages": [{"role": "user", "content": "x"}]}',
        '{"model": "smollm2-135m-instruct", "messages": [{"role": "user", "content": "x"}], "\\ud800": 1}',
        '{"model": "smollm2-135m-instruct", "messages": [{"role": "\\udfff", "content": "x"}]}',
        '{"model": "' + "x" * 2_000_000 + '", "messages": [{"role": "user", "content": "x"}]}',
        '{"model": "m", "messages": [{"role": "user", "content": "x"}], "' + "x" * 2_000_000 + '": 1}',
    ],
    ids=["model", "name", "role", "long model", "long name"],
)
def test_what_is_wrong_is_quoted_within_bounds(app: Served, body: str) -> None:
    answer = httpx.post(app.url + "v1/chat/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404) and len(answer.content) < 5000 and answer.json()["error"]["message"]


def test_other_addresses_and_methods(app: Served) -> None:
    for method, path, status in [
        ("GET", "v1/embeddings", 404), ("POST", "v1/completions", 404), ("GET", "v1/chat/completions", 405),
        ("DELETE", "v1/models", 405), ("GET", "v1/", 404),
    ]:  # fmt: skip
        answer = httpx.request(method, app.url + path)
        assert answer.status_code == status and answer.json()["error"]["message"], path


def test_errors_in_chinese_for_who_asks_for_it(app: Served) -> None:
    answer = httpx.post(app.url + "v1/chat/completions", json={}, headers={"accept-language": "zh-CN,zh;q=0.9"})
    assert answer.json()["error"]["message"] == "缺少必需的参数“model”。"


def test_a_request_that_is_too_large_is_refused_before_it_is_read(app: Served) -> None:
    host = httpx.URL(app.url)
    with socket.create_connection((host.host, host.port), timeout=10) as line:
        line.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: 1000000000000\r\n\r\n{"
        )
        assert line.recv(1000).startswith(b"HTTP/1.1 413 ")
    # One that does not say how large it is, too.
    pieces = (b" " * 100_000 for _ in range(1000))
    answer = httpx.post(app.url + "v1/chat/completions", content=pieces, headers={"content-type": "application/json"})
    assert answer.status_code == 413

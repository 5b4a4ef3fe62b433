"""The API on a real engine: a tiny InternVL2 in a real worker, and the guard that refuses it. What it says is noise."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from openai import OpenAI

from engines.checkpoints import load_tokenizer
from tests.app.test_api import VISION, ask, data_url, question
from tests.internvl2_checkpoint import make_internvl2
from tools.served import Served


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    models = tmp_path_factory.mktemp("models")
    folder = make_internvl2(models / VISION, window=8192)
    # The catalogue knows the published tokenizer.model's hash, which no other can have.
    load_tokenizer(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer.model").unlink()
    return models


def served(models: Path, data: Path, **environ: str) -> Served:
    mine = {"SHUSHENG_FOLDERS": str(models), "SHUSHENG_OFFLINE": "true", "SHUSHENG_BACKEND": "native"}
    return Served(data, "--model", VISION, environ=mine | environ)


@pytest.fixture(scope="module")
def client(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    # The guard plans for the model of full size, which need not fit here.
    app = served(models, tmp_path_factory.mktemp("app"), SHUSHENG_FORCE="true")
    yield OpenAI(base_url=app.url + "v1", api_key="none")
    assert app.stop() == 0, app.output


def test_an_image_and_a_question_and_the_same_again_in_pieces(client: OpenAI) -> None:
    assert client.models.list().data[0].id == VISION
    answer = ask(client, "What is it?", data_url((500, 400)), max_tokens=20, temperature=0)
    assert answer.choices[0].finish_reason in ("length", "stop") and 0 < answer.usage.completion_tokens <= 20
    without = client.chat.completions.create(model=VISION, messages=question("What is it?"), max_tokens=1)
    assert without.usage and answer.usage.prompt_tokens > without.usage.prompt_tokens
    *chunks, last = ask(client, "What is it?", data_url((500, 400)), max_tokens=20, temperature=0, stream=True,
                        stream_options={"include_usage": True})  # fmt: skip
    assert "".join(one.choices[0].delta.content or "" for one in chunks) == answer.choices[0].message.content
    assert last.usage.completion_tokens == answer.usage.completion_tokens
    assert last.usage.prompt_tokens == answer.usage.prompt_tokens


def test_a_seed_makes_an_answer_come_again(client: OpenAI) -> None:
    once, again, other = (
        ask(client, "Tell me more.", data_url(), max_tokens=12, temperature=1.5, seed=seed).choices[0].message.content
        for seed in (5, 5, 6)
    )
    assert once == again != other


def test_detail_is_what_an_image_takes(client: OpenAI) -> None:
    tokens = []
    for detail in ("low", "high"):
        parts = [{"type": "text", "text": "?"},
                 {"type": "image_url", "image_url": {"url": data_url((896, 448)), "detail": detail}}]  # fmt: skip
        answer = ask(client, "", data_url(), messages=[{"role": "user", "content": parts}], max_tokens=1)
        tokens.append(answer.usage.prompt_tokens)
    assert tokens[0] < tokens[1]


def test_a_question_that_is_too_long(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=VISION, messages=question("far too long " * 20_000))
    assert caught.value.code == "context_length_exceeded"


def test_what_the_guard_refuses_and_what_is_not_here(models: Path, tmp_path: Path) -> None:
    app = served(models, tmp_path, SHUSHENG_HOST_MARGIN=str(2**50), SHUSHENG_GPU_MARGIN=str(2**50))
    client = OpenAI(base_url=app.url + "v1", api_key="none")
    for stream in (False, True):
        with pytest.raises(openai.InternalServerError) as caught:
            ask(client, "x", data_url(), stream=stream)
        assert caught.value.status_code == 503 and "Does not fit" in caught.value.message
        assert caught.value.response.headers["x-should-retry"] == "false"
    assert [one.id for one in client.models.list().data] == [VISION]
    for call in (
        client.models.retrieve,
        lambda model: client.chat.completions.create(model=model, messages=question("x")),
    ):
        with pytest.raises(openai.NotFoundError) as missing:
            call("internvl2-2b-awq")
        assert missing.value.code == "model_not_found"
        assert "models get internvl2-2b-awq" in missing.value.message
    assert app.stop() == 0

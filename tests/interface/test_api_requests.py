"""What a request to the API may hold, what its errors name, and text up to a stop sequence."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat.completion_create_params import CompletionCreateParamsBase

from configs.schema import Defaults
from engines import errors
from engines.base import TextPart
from interface.api.errors import ApiError, refusal, stated
from interface.api.requests import LABELS, NEUTRAL, ImageAt, read_request
from interface.api.stops import Stops

HELLO = [{"role": "user", "content": "hello"}]
IMAGE = {"type": "image_url", "image_url": {"url": "data:,"}}


def body(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": HELLO, **fields}


def asking(*parts: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(parts)}]


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"model": None}, "model", "missing_required_parameter"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"model": 5}, "model", "invalid_type"),
        ({"messages": {}}, "messages", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "invalid_value"),
        ({"messages": HELLO * 2049}, "messages", "array_above_max_length"),
        ({"messages": [{"role": "user", "content": "x" * 2**20}, *HELLO]}, "messages", "context_length_exceeded"),
        ({"messages": ["x"]}, "messages[0]", "invalid_type"),
        ({"messages": [{"content": "x"}]}, "messages[0].role", "missing_required_parameter"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "missing_required_parameter"),
        ({"messages": [*HELLO, {"role": "tool", "content": "x"}]}, "messages[1].role", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x", "foo": 1}]}, "messages[0].foo", "unknown_parameter"),
        ({"messages": asking({"text": "x"})}, "messages[0].content[0].type", "missing_required_parameter"),
        ({"messages": asking({"type": "input_audio"})}, "messages[0].content[0].type", "invalid_value"),
        ({"messages": asking({"type": "text"})}, "messages[0].content[0].text", "missing_required_parameter"),
        ({"messages": asking({"type": "image_url", "image_url": "data:,"})}, "messages[0].content[0].image_url",
         "invalid_type"),
        ({"messages": asking({"type": "image_url", "image_url": {"url": "x", "detail": "fine"}})},
         "messages[0].content[0].image_url.detail", "invalid_value"),
        ({"messages": [{"role": "system", "content": [IMAGE]}, *HELLO]}, "messages[0].content[0].type",
         "invalid_value"),
        ({"temperature": "0.8"}, "temperature", "invalid_type"),
        ({"temperature": True}, "temperature", "invalid_type"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"top_p": float("inf")}, "top_p", "invalid_type"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_completion_tokens": 10**6}, "max_completion_tokens", "invalid_value"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "invalid_value"),
        ({"seed": 1.0}, "seed", "invalid_type"),
        ({"stop": 5}, "stop", "invalid_type"),
        ({"stop": ["a", 5]}, "stop[1]", "invalid_type"),
        ({"stop": ["a", ""]}, "stop", "invalid_value"),
        ({"stop": list("abcde")}, "stop", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_type"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "invalid_value"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options.usage", "unknown_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"logprobs": True}, "logprobs", "unsupported_parameter"),
        ({"presence_penalty": 0.5}, "presence_penalty", "unsupported_parameter"),
        ({"logit_bias": {"5": 1}}, "logit_bias", "unsupported_parameter"),
        ({"tools": [{"type": "function"}]}, "tools", "unsupported_parameter"),
        ({"response_format": {"type": "json_object"}}, "response_format", "unsupported_parameter"),
        ({"reasoning_effort": "low"}, "reasoning_effort", "unsupported_parameter"),
        ({"min_p": 0.1}, "min_p", "unknown_parameter"),
        ({"temprature": 1}, "temprature", "unknown_parameter"),
    ],
)  # fmt: skip
def test_the_first_field_that_is_wrong_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(body(**fields))
    for lang in ("en", "zh"):
        status, stated_ = stated(caught.value, lang)
        error = stated_["error"]
        assert (status, error["param"], error["code"]) == (400, param, code)
        assert error["type"] == "invalid_request_error" and (
            param in error["message"] or "'stream'" in error["message"]
        )


@pytest.mark.parametrize("value", [[], "x", None, 5])
def test_a_body_that_is_no_object(value: Any) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(value)
    assert caught.value.param == "body"


def test_what_only_labels_a_request_or_says_what_is_so_anyway_is_taken() -> None:
    labels = {"user": "me", "metadata": {"a": "b"}, "store": True, "service_tier": "auto", "safety_identifier": "x"}
    neutral = {
        "n": 1, "tools": [], "logit_bias": {}, "logprobs": False, "presence_penalty": 0, "frequency_penalty": 0.0,
        "response_format": {"type": "text"}, "modalities": ["text"], "tool_choice": None,
    }  # fmt: skip
    assert read_request(body(**labels, **neutral)) == read_request(body())


@pytest.mark.parametrize("name", CompletionCreateParamsBase.__annotations__)
def test_no_field_of_openais_is_unknown(name: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_request(body(**{name: {"of": "no field's type"}}))
        raise ApiError(0, "", "taken")
    assert caught.value.code != "unknown_parameter"


def test_the_documentation_says_what_becomes_of_each() -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    fields = {*LABELS, *NEUTRAL, *CompletionCreateParamsBase.__annotations__} - {"stream_options"}
    assert not [name for name in fields if f"`{name}`" not in text]


def test_settings_are_the_requests_or_the_models_own() -> None:
    own = Defaults(max_new_tokens=77, temperature=0.3, top_p=0.7, repetition_penalty=1.1)
    settings = read_request(body()).settings(own)
    assert (settings.max_new_tokens, settings.temperature, settings.top_p, settings.seed) == (77, 0.3, 0.7, None)
    given = read_request(body(max_completion_tokens=9, temperature=0, top_p=0, seed=-1)).settings(own)
    assert (given.max_new_tokens, given.temperature, given.top_p, given.seed) == (9, 0.0, 0.01, 2**32 - 1)
    assert given.repetition_penalty == 1.1
    more = read_request(body(top_k=5, repetition_penalty=1.5)).settings(own)
    assert (more.top_k, more.repetition_penalty) == (5, 1.5)
    assert read_request(body(max_tokens=8, max_completion_tokens=8)).settings(own).max_new_tokens == 8


@pytest.mark.parametrize(
    ("details", "detail"),
    [((), "auto"), (("low",), "low"), (("low", "auto"), "auto"), (("auto", "high"), "high"), ((None,), "auto")],
)
def test_the_finest_detail_of_the_images_counts(details: tuple[str | None, ...], detail: str) -> None:
    images = [{"type": "image_url", "image_url": {"url": "data:,", "detail": one}} for one in details]
    request = read_request(body(messages=asking({"type": "text", "text": "x"}, *images)))
    assert request.settings(Defaults()).detail == detail


def test_messages_become_turns_with_one_system_prompt_first() -> None:
    said = {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "annotations": []}
    messages = [
        {"role": "system", "content": "a"}, *asking({"type": "text", "text": "b\ud800"}, IMAGE), said,
        {"role": "developer", "content": [{"type": "text", "text": "c"}]}, 
        {"role": "user", "content": "d", "name": "n"},
    ]  # fmt: skip
    turns = read_request(body(messages=messages)).turns
    assert [one.role for one in turns] == ["system", "user", "assistant", "user"]
    assert turns[0].parts == (TextPart("a"), TextPart("c"))
    assert turns[1].parts == (TextPart("b\ufffd"), ImageAt("data:,", "auto", "messages[1].content[1].image_url"))


@pytest.mark.parametrize("seed", range(50))
def test_stop_sequences_never_show_however_the_text_is_cut(seed: int) -> None:
    chance = random.Random(seed)
    text = "".join(chance.choices("abc", k=60))
    stops = ["".join(chance.choices("abc", k=chance.randint(1, 6))) for _ in range(chance.randint(0, 4))]
    whole, shown, left = Stops(stops), "", text
    while left:
        size = chance.randint(1, 5)
        shown += whole.feed(left[:size])
        left = left[size:]
        assert text.startswith(shown) and not any(stop in shown for stop in stops)
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    shown += whole.rest()
    assert whole.found == bool(places) and not any(stop in shown for stop in stops)
    if not places:
        assert shown == text


def test_what_may_become_a_stop_sequence_is_held_back_and_nothing_else() -> None:
    stops = Stops(["\n\nUser:", "###"])
    assert [stops.feed(piece) for piece in ("Hi", "\n", "\n", "Us", "!", " #", "#", "a", "\n\nUser", ": no")] == [
        "Hi", "", "", "", "\n\nUs!", " ", "", "##a", "", "",
    ]  # fmt: skip
    assert stops.found and stops.rest() == "" and stops.feed("more") == ""


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.PromptTooLong(tokens=9, limit=8), 400, "context_length_exceeded"),
        (errors.TooManyImages(images=9, limit=8), 400, "too_many_images"),
        (errors.ImageRejected(name="x", reason="empty"), 422, "invalid_image"),
        (errors.ImageNotFetched(url="x", reason="offline"), 400, "invalid_image_url"),
        (errors.ModelMissing(model="m", tried=()), 404, "model_not_found"),
        (errors.ModelUnknown(model="m", nearest="", known="n"), 404, "model_not_found"),
        (errors.ModelCorrupt(file="f", problem="hash"), 503, "model_unusable"),
        (errors.Busy(waiting=16, limit=16), 429, "rate_limit_exceeded"),
        (errors.OutOfMemory(model="m", stage="answer"), 503, "not_enough_memory"),
        (errors.EngineDied(model="m", signal="SIGKILL", exit_code=-9, stage="answer"), 500, "engine_error"),
        (errors.AppError(), 500, "internal_error"),
    ],
    ids=lambda value: getattr(value, "code", value),
)
def test_every_failure_has_openais_shape(error: errors.AppError, status: int, code: str) -> None:
    answer = refusal(error, "en")
    assert answer.status_code == status and stated(error, "en")[1]["error"]["code"] == code
    assert ("retry-after" in answer.headers) == (status == 429)
    assert (answer.headers.get("x-should-retry") == "false") == (code == "model_unusable")
    message = stated(error, "en")[1]["error"]["message"]
    assert "in the box" not in message and "is kept" not in message, "no page keeps anything here"

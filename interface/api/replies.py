"""Answers as OpenAI's clients read them: one object, or chunks as server-sent events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from engines.base import Usage

DONE = b"data: [DONE]\n\n"
ALIVE = b": still working\n\n"
"""A comment, which clients skip: for proxies that close what is silent."""


class Reply:
    """The frame of one answer: its id, time and model."""

    def __init__(self, model: str, include_usage: bool = False) -> None:
        self._frame = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": model}
        # Asked for, every chunk has the field, and only the last one a value in it.
        self._no_usage = {"usage": None} if include_usage else {}

    def whole(self, text: str, finish: str, usage: Usage) -> dict[str, Any]:
        """The answer in one object."""
        message = {"role": "assistant", "content": text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return {**self._frame, "object": "chat.completion", "choices": [choice], "usage": usage_of(usage)}

    def chunk(self, delta: Mapping[str, Any], finish: str | None = None) -> bytes:
        """One piece of it."""
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return self._event([choice], self._no_usage)

    def usage_chunk(self, usage: Usage) -> bytes:
        """The last chunk, without a piece."""
        return self._event([], {"usage": usage_of(usage)})

    def _event(self, choices: Sequence[Any], more: Mapping[str, Any]) -> bytes:
        return event({**self._frame, "object": "chat.completion.chunk", "choices": choices, **more})


def event(value: Mapping[str, Any]) -> bytes:
    """A server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n\n"


def usage_of(usage: Usage) -> dict[str, Any]:
    """Tokens in OpenAI's fields; the oldest turns that no longer fitted in a field of our own, if there were any."""
    fields: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.new_tokens,
        "total_tokens": usage.prompt_tokens + usage.new_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
    return fields | ({"turns_left_out": usage.turns_left_out} if usage.turns_left_out else {})

"""What the tests of text engines share: conversations, answers, and what an error must leave behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from engines.base import GenerationSettings, Message, Usage

Answer = Callable[..., tuple[str, Usage]]


def ask(*texts: str, system: str = "") -> list[Message]:
    """A conversation: the user's and the assistant's words in turn."""
    head = [Message.of("system", system)] if system else []
    return head + [Message.of("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]


def answers(usual: GenerationSettings) -> Answer:
    """A function of an engine, messages and settings, `usual` where none are given: the answer's text and its Usage."""

    def answer(engine: Any, messages: list[Message], settings: GenerationSettings = usual) -> tuple[str, Usage]:
        pieces: list[str] = []
        usage = engine.generate(messages, settings, pieces.append)
        return "".join(pieces), usage

    return answer


def an_error_in_the_middle_drops_the_cache(engine: Any, plain: Any, settings: GenerationSettings) -> None:
    """`plain` has not seen the error."""

    def emit(text: str) -> None:
        if text:
            raise RuntimeError("sink broke")

    with pytest.raises(RuntimeError):
        engine.generate(ask("hello"), settings, emit)
    answer = answers(settings)
    text, usage = answer(engine, ask("hello"))
    assert usage.cached_tokens == 0 and text == answer(plain, ask("hello"))[0]

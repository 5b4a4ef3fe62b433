"""Token ids -> text as an engine writes them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from engines.base import Emit

LONGEST_CHARACTER = 8
"""Tokens that one character may take: four bytes in UTF-8, and some to spare."""


class TokenDecoder:
    """Token ids -> text as they come, held back while a character is incomplete; `before` are tokens before the first.

    tokenizers' own DecodeStream raises on bytes that are no UTF-8, which a model at a high temperature does write.
    """

    def __init__(self, tokenizer: Any, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._ids = [*before[-2 * LONGEST_CHARACTER :]]
        # Text up to `_read` has been given out; from `_prefix` on, tokens are decoded together with the new ones,
        # because a tokenizer may write a token differently at the start of a text.
        self._prefix, self._read = 0, len(self._ids)
        while len(self._ids) - self._read < LONGEST_CHARACTER and self._text(self._ids[: self._read]).endswith(
            "\ufffd"
        ):
            self._read -= 1

    def step(self, token: int) -> str:
        """The text that this token completes; "" while more bytes are needed."""
        self._ids.append(token)
        new = self._pending()
        if new.endswith("\ufffd") and len(self._ids) - self._read <= LONGEST_CHARACTER:
            return ""
        if new:
            self._prefix, self._read = self._read, len(self._ids)
        return new

    def flush(self) -> str:
        """What is held back, but for a character that was never finished."""
        return self._pending().rstrip("\ufffd")

    def _pending(self) -> str:
        return self._text(self._ids[self._prefix :])[len(self._text(self._ids[self._prefix : self._read])) :]

    def _text(self, ids: list[int]) -> str:
        return decoded(self._tokenizer, ids)


def decoded(tokenizer: Any, ids: Sequence[int]) -> str:
    """The text of some tokens, without the control tokens among them."""
    return str(tokenizer.decode([*ids], skip_special_tokens=True, clean_up_tokenization_spaces=False))


class Sink:
    """transformers' streamer protocol. `put` lets Cancelled out of `generate`: so an answer stops within one token."""

    def __init__(self, tokenizer: Any, emit: Emit, before: Sequence[int] = ()) -> None:
        self.ids: list[int] = []
        self.first_token: float | None = None
        self._decoder = TokenDecoder(tokenizer, before)
        self._emit = emit
        self._prompt_seen = False

    def put(self, value: Any) -> None:
        if not self._prompt_seen:  # generate hands the prompt over first
            self._prompt_seen = True
            return
        for token in value.tolist():
            self.add(token)

    def add(self, token: int) -> None:
        self.first_token = self.first_token or time.monotonic()
        self.ids.append(token)
        self._emit(self._decoder.step(token))

    def end(self) -> None:
        """What was held back is given out by `flush`, which generate does not call when it is cancelled."""

    def flush(self) -> None:
        self._emit(self._decoder.flush())

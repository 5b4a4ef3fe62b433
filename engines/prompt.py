"""A conversation -> token ids, with people's text never able to become control tokens.

The model's own chat template is rendered around placeholders; only what the template wrote is parsed for control
tokens, and what people wrote is encoded as text beside it. Benign text gives the ids that the template would give.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from engines.base import Message
from engines.errors import PromptTooLong

Encode = Callable[[Sequence[Message]], list[int]]

# Private-use characters: a template passes them through, and a tokenizer has no token of its own for them.
_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids ready for the model, and how many of the oldest turns did not fit."""

    ids: list[int]
    turns_left_out: int


class ChatFormat:
    """Encodes conversations with a transformers fast tokenizer that has a chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._control: dict[str, int] = tokenizer.get_added_vocab()
        literals = sorted(self._control, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, literals)) + ")" if literals else "(?!)")

    def __call__(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the whole conversation and the opening of the answer; the template decides on BOS."""
        turns = [{"role": one.role, "content": f"\ue000{n}\ue001"} for n, one in enumerate(messages)]
        rendered = self._tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ids: list[int] = []
        for part in self._split.split(rendered):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids += self.encode_text(_PLACEHOLDER.sub(lambda found: messages[int(found[1])].text, part))
        return ids

    def encode_text(self, text: str) -> list[int]:
        """Ids of text that contains no control token, whatever it spells."""
        ids: list[int] = []
        for part in self._split.split(text):
            # A literal cut after its first character is no longer one to the tokenizer.
            pieces = [part[:1], *self._split.split(part[1:])] if part in self._control else [part]
            for piece in pieces:
                if piece:
                    ids += self._tokenizer.encode(piece, add_special_tokens=False)
        return ids


def fit(messages: Sequence[Message], encode: Encode, limit: int) -> Prompt:
    """The prompt within `limit` tokens: the system prompt and the newest turns, the oldest being left out in blocks.

    A turn is a user's message and what answers it. Raises PromptTooLong(tokens, limit) when the last one alone, with
    the system prompt, is too long.
    """
    ids = encode(messages)
    if len(ids) <= limit:
        return Prompt(ids, 0)
    head = [one for one in messages[:1] if one.role == "system"]
    body = messages[len(head) :]
    starts = [n for n, one in enumerate(body) if one.role == "user"] or [0]
    starts[0] = 0
    tokens = [len(encode(body[start:end])) for start, end in pairwise(starts)]
    room = limit - sum(len(encode([Message("user", one.parts)])) for one in head)
    cuts = _cuts(tokens, max(1, room // 2))
    # Fewer turns, fewer tokens: bisect for the first cut that fits.
    fitting = bisect_left(cuts, True, key=lambda cut: len(encode([*head, *body[starts[cut] :]])) <= limit)
    cut = cuts[min(fitting, len(cuts) - 1)]
    ids = encode([*head, *body[starts[cut] :]])
    if len(ids) > limit:
        raise PromptTooLong(tokens=len(ids), limit=limit)
    return Prompt(ids, cut)


def _cuts(tokens: Sequence[int], block: int) -> list[int]:
    """How many turns may be left out, ascending; `tokens` are those of every turn but the last.

    After every cut the prompt begins elsewhere, and no KV cache of it is of use. So cuts are a block apart, and depend
    on nothing but what lies before them: while turns are added, the prompt begins where it began until a block must go.
    The turns after the last such cut may go one by one, should they be too long together.
    """
    ends = list(accumulate(tokens, initial=0))
    cuts = [n for n in range(1, len(ends)) if ends[n] // block > ends[n - 1] // block]
    return [*cuts, *range(cuts[-1] + 1 if cuts else 1, len(ends))] or [0]

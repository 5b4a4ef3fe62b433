"""A conversation -> token ids, with people's text never able to become control tokens.

The model's own chat template is rendered around placeholders; only what the template wrote is parsed for control
tokens, and what people wrote is encoded as text beside it. Benign text gives the ids that the template would give.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from engines.base import ImagePart, Message
from engines.errors import PromptTooLong, TooManyImages
from engines.tiling import share, with_thumbnail

Encode = Callable[[Sequence[Message]], list[int]]

CONTEXT = "<IMG_CONTEXT>"
TEXTS = 256
"""Texts whose ids are kept: every turn asks for those of all turns before it."""
KEPT = 8
"""One part in so many of the window is kept for the answer: an image in full detail fills most of a small window."""

# Private-use characters: a template passes them through, and a tokenizer has no token of its own for them.
_PLACEHOLDER = re.compile("\ue000(\\d+)\ue001")


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids ready for the model, the messages that are in them, and how many of the oldest turns did not fit."""

    ids: list[int]
    turns_left_out: int
    messages: tuple[Message, ...] = ()

    @property
    def images(self) -> tuple[ImagePart, ...]:
        """In the order in which the model is shown them."""
        return tuple(image for one in self.messages for image in one.images)


@dataclass(frozen=True, slots=True)
class ImagePrompt(Prompt):
    """A prompt with images: each was cut into at most `max_tiles`, and has its tokens in its span of `ids`."""

    max_tiles: int = 1
    spans: tuple[range, ...] = ()


class ChatFormat:
    """Encodes conversations with a transformers fast tokenizer that has a chat template."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._control: dict[str, int] = tokenizer.get_added_vocab()
        literals = sorted(self._control, key=len, reverse=True)
        self._split = re.compile("(" + "|".join(map(re.escape, literals)) + ")" if literals else "(?!)")
        self._encoded = lru_cache(TEXTS)(self._encode)

    def __call__(self, messages: Sequence[Message]) -> list[int]:
        """Ids of the whole conversation and the opening of the answer; the template decides on BOS.

        If the assistant spoke last, that is the answer so far: its turn is left open.
        """
        contents = [f"{self._before_text(one)}\ue000{n}\ue001" for n, one in enumerate(messages)]
        turns = [{"role": one.role, "content": text} for one, text in zip(messages, contents, strict=True)]
        so_far = contents[-1] if messages[-1].role == "assistant" else ""
        asked = turns[:-1] if so_far else turns
        rendered = self._tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True) + so_far
        ids: list[int] = []
        for part in self._split.split(rendered):
            if part in self._control:
                ids.append(self._control[part])
            elif part:
                ids += self.encode_text(_PLACEHOLDER.sub(lambda found: messages[int(found[1])].text, part))
        return ids

    def _before_text(self, message: Message) -> str:
        """What stands before a message's text. It is ours, so control tokens may be in it."""
        return ""

    def encode_text(self, text: str) -> list[int]:
        """Ids of text that contains no control token, whatever it spells."""
        return [*self._encoded(text)]

    def _encode(self, text: str) -> tuple[int, ...]:
        ids: list[int] = []
        for part in self._split.split(text):
            # A literal cut after its first character is no longer one to the tokenizer.
            pieces = [part[:1], *self._split.split(part[1:])] if part in self._control else [part]
            for piece in pieces:
                if piece:
                    ids += self._tokenizer.encode(piece, add_special_tokens=False)
        return tuple(ids)


class ImageChatFormat(ChatFormat):
    """Encodes conversations with images as InternVL2's published code does: a message's images stand before its text.

    `tiles` says how many tiles an image is shown in, each of which takes `tokens_per_tile` times <IMG_CONTEXT>.
    """

    def __init__(self, tokenizer: Any, tiles: Callable[[ImagePart], int], tokens_per_tile: int = 256) -> None:
        super().__init__(tokenizer)
        self._tiles, self._tokens_per_tile = tiles, tokens_per_tile
        self._image, self._image_end, self._context = (self._control[name] for name in ("<img>", "</img>", CONTEXT))

    def __call__(self, messages: Sequence[Message]) -> list[int]:
        """Ids as above, with every tile's tokens in their place."""
        images = (image for one in messages for image in one.images)
        ids: list[int] = []
        for one in super().__call__(messages):
            # Nobody can type this token: each is one of those that `_before_text` wrote.
            ids += [one] * (self._tiles(next(images)) * self._tokens_per_tile if one == self._context else 1)
        return ids

    def image_spans(self, ids: list[int]) -> list[range]:
        """Where in a prompt the tokens of each image's tiles lie."""
        starts = [n + 1 for n, one in enumerate(ids) if one == self._image]
        return [range(start, ids.index(self._image_end, start)) for start in starts]

    def _before_text(self, message: Message) -> str:
        if len(message.images) == 1:
            return f"<img>{CONTEXT}</img>\n"
        return "".join(f"Image-{number}: <img>{CONTEXT}</img>\n" for number in range(1, len(message.images) + 1))


def fit(messages: Sequence[Message], encode: Encode, limit: int) -> Prompt:
    """The prompt within `limit` tokens: the system prompt and the newest turns, the oldest being left out in blocks.

    A turn is a user's message and what answers it. Raises PromptTooLong(tokens, limit) when the last one alone, with
    the system prompt, is too long.
    """
    ids = encode(messages)
    if len(ids) <= limit:
        return Prompt(ids, 0, tuple(messages))
    starts = [n for n, one in enumerate(messages) if one.role == "user"] or [0]
    head = [one for one in messages[:1] if one.role == "system"]
    tokens = [len(encode(messages[start:end])) for start, end in pairwise([len(head), *starts[1:]])]
    room = limit - sum(len(encode([Message("user", one.parts)])) for one in head)
    cuts = _cuts(tokens, max(1, room // 2))
    # Fewer turns, fewer tokens: bisect for the first cut that fits.
    fitting = bisect_left(cuts, True, key=lambda cut: len(encode(without_turns(messages, cut))) <= limit)
    cut = cuts[min(fitting, len(cuts) - 1)]
    kept = without_turns(messages, cut)
    ids = encode(kept)
    if len(ids) > limit:
        raise PromptTooLong(tokens=len(ids), limit=limit)
    return Prompt(ids, cut, tuple(kept))


def _cuts(tokens: Sequence[int], block: int) -> list[int]:
    """How many turns may be left out, ascending; `tokens` are those of every turn but the last.

    After every cut the prompt begins elsewhere, and no KV cache of it is of use. So cuts are a block apart, and depend
    on nothing but what lies before them: while turns are added, the prompt begins where it began until a block must go.
    The turns after the last such cut may go one by one, should they be too long together.
    """
    ends = list(accumulate(tokens, initial=0))
    cuts = [n for n in range(1, len(ends)) if ends[n] // block > ends[n - 1] // block]
    return [*cuts, *range(cuts[-1] + 1 if cuts else 1, len(ends))] or [0]


def fit_images(
    messages: Sequence[Message], format_of: Callable[[int], ImageChatFormat], limit: int, max_tiles: int, asked: int
) -> ImagePrompt:
    """The prompt within `limit` tokens, with images that together take no more tiles than one at `max_tiles` may.

    They share these evenly, each within the `asked` tiles; `format_of` gives the format for so many tiles an
    image. An image is seen in fewer tiles before it is left out with its turn. The oldest turns make room, as they do
    for tokens. Raises TooManyImages(images, limit) when the last turn's images are too many at one tile each, and
    PromptTooLong as `fit` does.
    """
    kept, left_out, most = [*messages], 0, with_thumbnail(max_tiles)
    while (images := sum(len(one.images) for one in kept)) > most:
        left_out += 1
        if left_out == turn_count(messages):
            raise TooManyImages(images=images, limit=most)
        kept = without_turns(messages, left_out)
    each = min(asked, share(max_tiles, images))
    while (prompt := _with_all_images(kept, format_of(each), limit, images)) is None and each > 1:
        each -= 1
    form = format_of(each)
    prompt = prompt or fit(kept, form, limit)
    spans = tuple(form.image_spans(prompt.ids))
    return ImagePrompt(prompt.ids, left_out + prompt.turns_left_out, prompt.messages, each, spans)


def _with_all_images(messages: Sequence[Message], form: ImageChatFormat, limit: int, images: int) -> Prompt | None:
    """The prompt within `limit` tokens if no turn with an image is left out of it."""
    try:
        prompt = fit(messages, form, limit)
    except PromptTooLong:
        return None
    return prompt if len(prompt.images) == images else None


def turn_count(messages: Sequence[Message]) -> int:
    """Turns of a conversation; what comes before the first user's message belongs to the first."""
    return max(1, sum(one.role == "user" for one in messages))


def without_turns(messages: Sequence[Message], count: int) -> list[Message]:
    """A conversation without its oldest turns; its system prompt stays."""
    if not count:
        return [*messages]
    head = [one for one in messages[:1] if one.role == "system"]
    starts = [n for n, one in enumerate(messages) if one.role == "user"]
    return [*head, *messages[starts[count] :]]

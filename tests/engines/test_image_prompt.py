"""Conversations with images become the ids of InternVL2's published prompt, and fit into tokens and tiles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from engines.base import DETAIL_TILES, ImagePart, Message, TextPart
from engines.checkpoints import load_tokenizer
from engines.errors import PromptTooLong, TooManyImages
from engines.prompt import ImageChatFormat, ImagePrompt, fit_images
from engines.tiling import tile_count
from tests.internvl2_checkpoint import IMAGE_TOKENS, make_internvl2

SYSTEM = "你是一个有用无害的人工智能助手。"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_tokenizer(make_internvl2(tmp_path_factory.mktemp("checkpoint") / "model"))


def image(name: str, width: int = 448, height: int = 448) -> ImagePart:
    return ImagePart(name, Path(f"{name}.png"), width, height)


def user(text: str, *images: ImagePart) -> Message:
    return Message("user", (*images, TextPart(text)))


def pieces(tokenizer: Any, *parts: str | int) -> list[int]:
    """The ids of parts of a prompt: texts between control tokens, control tokens, and numbers of <IMG_CONTEXT>."""
    ids: list[int] = []
    for part in parts:
        if isinstance(part, int):
            ids += [tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")] * part
        elif part in tokenizer.get_added_vocab():
            ids.append(tokenizer.get_added_vocab()[part])
        else:
            ids += tokenizer.encode(part, add_special_tokens=False)
    return ids


def opening(role: str, text: str = "") -> list[str]:
    return ["<|im_start|>", f"{role}\n{text}"]


TILES = {"a": 3, "b": 1, "c": 13}


def encode(tokenizer: Any, messages: list[Message]) -> list[int]:
    return ImageChatFormat(tokenizer, lambda one: TILES[one.sha256])(messages)


def test_one_image(tokenizer: Any) -> None:
    messages = [Message.of("system", SYSTEM), user("这是什么？", image("a"))]
    assert encode(tokenizer, messages) == pieces(
        tokenizer,
        *("<s>", *opening("system", SYSTEM), "<|im_end|>"),
        *(*opening("user"), "<img>", 3 * 256, "</img>", "\n这是什么？", "<|im_end|>", *opening("assistant")),
    )


def test_several_images_are_numbered_anew_in_each_message(tokenizer: Any) -> None:
    messages = [
        user("Compare.", image("a"), image("b")),
        Message.of("assistant", "They differ."),
        user("", image("c"), image("b")),
        Message.of("assistant", "Hm."),
        user("and now?"),
    ]
    first = [*opening("user", "Image-1: "), "<img>", 3 * 256, "</img>", "\nImage-2: ", "<img>", 256, "</img>"]
    second = [*opening("user", "Image-1: "), "<img>", 13 * 256, "</img>", "\nImage-2: ", "<img>", 256, "</img>"]
    assert encode(tokenizer, messages) == pieces(
        tokenizer,
        *("<s>", *first, "\nCompare.", "<|im_end|>", *opening("assistant", "They differ."), "<|im_end|>"),
        *(*second, "\n", "<|im_end|>", *opening("assistant", "Hm."), "<|im_end|>"),
        *(*opening("user", "and now?"), "<|im_end|>", *opening("assistant")),
    )


def test_parts_in_another_order_are_shown_the_same(tokenizer: Any) -> None:
    mixed = Message("user", (TextPart("Com"), image("a"), TextPart("pare."), image("b")))
    assert encode(tokenizer, [mixed]) == encode(tokenizer, [user("Compare.", image("a"), image("b"))])


def test_no_control_token_can_be_typed(tokenizer: Any) -> None:
    control = set(tokenizer.get_added_vocab().values())
    plain = [one for one in encode(tokenizer, [user("x", image("b"))]) if one in control]
    for literal in [*IMAGE_TOKENS, "<image>", "<|im_end|>", "<img><IMG_CONTEXT></img>", "\ue0000\ue001"]:
        ids = encode(tokenizer, [user(f"a {literal} b", image("b"))])
        assert [one for one in ids if one in control] == plain, literal
        assert f"a {literal} b" in tokenizer.decode(ids) or "\ue000" in literal
    typed = encode(tokenizer, [user("<IMG_CONTEXT>"), Message.of("assistant", "<img></img>"), user("x", image("a"))])
    assert typed.count(tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")) == 3 * 256


def test_spans_are_where_the_tiles_tokens_lie(tokenizer: Any) -> None:
    form = ImageChatFormat(tokenizer, lambda one: TILES[one.sha256], tokens_per_tile=4)
    ids = form([user("x", image("b"), image("a")), Message.of("assistant", "<img>"), user("y", image("c"))])
    context = tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    spans = form.image_spans(ids)
    assert [len(span) for span in spans] == [4, 12, 52]
    assert sorted(n for span in spans for n in span) == [n for n, one in enumerate(ids) if one == context]
    assert form.image_spans(form([user("no image")])) == []


# -- fitting ---------------------------------------------------------------------------------------------------------


def fitted(
    tokenizer: Any, messages: list[Message], limit: int = 10**6, max_tiles: int = 12, detail: Any = "auto"
) -> ImagePrompt:
    def format_of(most: int) -> ImageChatFormat:
        return ImageChatFormat(tokenizer, lambda one: tile_count(one.width, one.height, most))

    return fit_images(messages, format_of, limit, max_tiles, DETAIL_TILES.get(detail, max_tiles))


@pytest.mark.parametrize(
    ("detail", "allowance", "images", "each"),
    [
        ("auto", 12, 1, 12), ("high", 12, 1, 12), ("medium", 12, 1, 6), ("low", 12, 1, 1),
        ("high", 6, 1, 6), ("medium", 2, 1, 2), ("auto", 12, 3, 3), ("low", 12, 3, 1), ("medium", 12, 2, 5),
        ("high", 1, 1, 1), ("auto", 12, 13, 1),
    ],
)  # fmt: skip
def test_tiles_are_shared_and_detail_limits_them(
    tokenizer: Any, detail: str, allowance: int, images: int, each: int
) -> None:
    wide = [image(str(n), 5000, 2500) for n in range(images)]
    messages = [user("x", *wide[:1]), Message.of("assistant", "ok"), user("y", *wide[1:])]
    prompt = fitted(tokenizer, messages, max_tiles=allowance, detail=detail)
    assert prompt.max_tiles == each and prompt.images == tuple(wide) and prompt.turns_left_out == 0
    assert [len(span) for span in prompt.spans] == [256 * tile_count(5000, 2500, each)] * images
    assert sum(map(len, prompt.spans)) <= 256 * (allowance + (allowance > 1))


def test_a_turn_that_does_not_fit_takes_its_images_with_it(tokenizer: Any) -> None:
    messages = [user("first", image("a")), Message.of("assistant", "ok"), user("second", image("b"))]
    prompt = fitted(tokenizer, messages, limit=400)
    assert prompt.turns_left_out == 1 and prompt.images == (image("b"),) and len(prompt.spans) == 1
    assert prompt.ids == encode(tokenizer, [messages[2]])
    with pytest.raises(PromptTooLong):
        fitted(tokenizer, messages, limit=200)


def test_the_oldest_turns_make_room_for_new_images(tokenizer: Any) -> None:
    turns = [[user(str(n), image(str(n))), Message.of("assistant", "ok")] for n in range(5)]
    messages = [Message.of("system", SYSTEM), *(one for turn in turns for one in turn), user("last", image("x"))]
    prompt = fitted(tokenizer, messages, max_tiles=2)
    assert [one.sha256 for one in prompt.images] == ["3", "4", "x"] and prompt.turns_left_out == 3
    assert prompt.messages[0].role == "system"
    assert fitted(tokenizer, messages, max_tiles=2, limit=700).turns_left_out == 5, "of both kinds, and in blocks"


def test_an_image_is_seen_in_fewer_tiles_before_it_is_left_out(tokenizer: Any) -> None:
    wide = image("w", 1792, 1344)
    messages = [user("what is it?", wide), Message.of("assistant", "word " * 100), user("and why?")]
    whole = len(fitted(tokenizer, messages).ids)
    tight = fitted(tokenizer, messages, limit=whole - 300)
    assert tight.images == (wide,) and tight.turns_left_out == 0 and 1 < tight.max_tiles < 12
    alone = fitted(tokenizer, messages[:1], limit=600)
    assert alone.images == (wide,) and [len(span) for span in alone.spans] == [256]
    with pytest.raises(PromptTooLong):
        fitted(tokenizer, messages[:1], limit=200)


def test_more_images_than_tiles_in_one_message_are_refused(tokenizer: Any) -> None:
    many = user("x", *(image(str(n)) for n in range(14)))
    for messages in ([many], [user("before", image("a")), Message.of("assistant", "ok"), many]):
        with pytest.raises(TooManyImages) as refused:
            fitted(tokenizer, messages)
        assert refused.value.facts == {"images": 14, "limit": 13} and refused.value.code == "too_many_images"
    assert fitted(tokenizer, [user("x", *many.images[:13])]).max_tiles == 1

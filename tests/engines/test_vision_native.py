"""The vision engine on tiny random checkpoints in the published layout: real looking and answering, noise for words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from engines.base import Detail, GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.errors import Cancelled, ImageRejected, PromptTooLong, TooManyImages
from engines.memory import LoadSettings
from engines.vision_native import NativeVisionEngine
from engines.worker import Load, make_engine
from tests.internvl2_checkpoint import make_internvl2, write_image
from tests.internvl2_reference import reference_logits, reference_pixels

TILE, PER_TILE = 56, 4
GREEDY = GenerationSettings(max_new_tokens=12, temperature=0.0)


def load(folder: Path, context: int = 512, chunk: int = 16, tiles: int = 12, **more: Any) -> NativeVisionEngine:
    return NativeVisionEngine(folder, LoadSettings("native", "cpu", "float32", context, chunk, tiles), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internvl2(tmp_path_factory.mktemp("internvl2") / "model", tile=TILE)


@pytest.fixture
def engine(folder: Path) -> NativeVisionEngine:
    return load(folder)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[ImagePart]:
    """4x3, 1x1, 2x1 and 3x4 tiles at their finest; the last has the pixels of the first, upright."""
    folder, sizes = tmp_path_factory.mktemp("images"), [(240, 180), (56, 56), (160, 80), (180, 240)]
    return [
        ImagePart(f"sha{n}", write_image(folder / f"{n}.png", *size, seed=n), *size) for n, size in enumerate(sizes)
    ]


def user(text: str, *images: ImagePart) -> Message:
    return Message("user", (*images, TextPart(text)))


def said(text: str) -> Message:
    return Message.of("assistant", text)


def answer(
    engine: NativeVisionEngine, messages: list[Message], settings: GenerationSettings = GREEDY
) -> tuple[str, Usage]:
    texts: list[str] = []
    usage = engine.generate(messages, settings, texts.append)
    return "".join(texts), usage


def tiles_looked_at(engine: NativeVisionEngine, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The list to which every run of the vision tower adds its tiles."""
    seen: list[int] = []
    look = engine._model.get_image_features

    def counted(pixel_values: torch.Tensor) -> Any:
        seen.append(len(pixel_values))
        return look(pixel_values=pixel_values)

    monkeypatch.setattr(engine._model, "get_image_features", counted)
    return seen


def defined_answer(folder: Path, engine: NativeVisionEngine, messages: list[Message], tiles: list[int]) -> list[int]:
    """What the model's definition answers greedily, with each image cut into at most so many tiles."""
    ids = list(engine._prompt(messages, GREEDY).ids)
    shown = []
    for image, most in zip((one for message in messages for one in message.images), tiles, strict=True):
        with Image.open(image.path) as opened:
            shown.append(reference_pixels(opened, most, TILE))
    new: list[int] = []
    while len(new) < GREEDY.max_new_tokens and not {*new} & {*engine._stop_ids}:
        logits = reference_logits(folder, ids + new, torch.cat(shown), engine._model.config.image_token_id)
        new.append(int(logits[-1].argmax()))
    return new


def check_answer(folder: Path, engine: NativeVisionEngine, messages: list[Message], tiles: list[int]) -> str:
    """Answers, and asserts that the tokens are the definition's; the cache has all of them but the last."""
    expected = defined_answer(folder, engine, messages, tiles)
    text, usage = answer(engine, messages)
    assert usage.new_tokens == len(expected) > 5 and engine._cached[usage.prompt_tokens :] == expected[:-1]
    return text


def test_it_answers_what_the_definition_says(folder: Path, engine: NativeVisionEngine, images: list[ImagePart]) -> None:
    messages = [Message.of("system", "Be brief."), user("What is this?", images[0])]
    assert check_answer(folder, engine, messages, [12])
    ids = engine._prompt(messages, GREEDY).ids
    assert engine.count_tokens(messages) == len(ids)
    assert ids.count(engine._model.config.image_token_id) == 13 * PER_TILE


def test_two_images_and_a_follow_up(folder: Path, engine: NativeVisionEngine, images: list[ImagePart]) -> None:
    messages = [user("Compare.", images[0], images[2])]
    messages += [said(check_answer(folder, engine, messages, [5, 5])), user("And the second?")]
    check_answer(folder, engine, messages, [5, 5])
    messages += [said("It is red."), user("And this?", images[1])]
    check_answer(folder, engine, messages, [3, 3, 3])


def test_without_an_image_it_is_a_text_model(folder: Path, engine: NativeVisionEngine) -> None:
    text, usage = answer(engine, [user("hello")])
    again, _ = answer(load(folder, reuse_prefix=False), [user("hello")])
    assert text == again and usage.reason in ("stop", "length")


def test_another_image_is_another_answer(engine: NativeVisionEngine, images: list[ImagePart]) -> None:
    texts = {answer(engine, [user("What is this?", one)])[0] for one in images}
    assert len(texts) == len(images)


def test_the_kept_cache_changes_no_token(
    folder: Path, images: list[ImagePart], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, recomputed = load(folder), load(folder, reuse_prefix=False)
    with_cache, without = tiles_looked_at(kept, monkeypatch), tiles_looked_at(recomputed, monkeypatch)
    messages: list[Message] = []
    for question in (user("这是什么？", images[0]), user("再说一遍"), user("And this?", images[1]), user("so?")):
        messages.append(question)
        text, usage = answer(kept, messages)
        assert text == answer(recomputed, messages)[0]
        messages.append(said(text))
    assert usage.cached_tokens > usage.prompt_tokens * 0.5
    # The second image makes the first one share, which is then cut anew, into two by two.
    assert sum(with_cache) == 13 + (5 + 1) and sum(without) == 13 + 13 + (5 + 1) + (5 + 1)
    assert set(with_cache) == {1}, "never more than a tile at a time"


def test_the_same_tokens_with_another_image_are_another_prefix(
    folder: Path, engine: NativeVisionEngine, images: list[ImagePart]
) -> None:
    """4x3 and 3x4 tiles take the same tokens, and so does another picture of the same shape."""
    first, upright = images[0], images[3]
    twin = ImagePart("another", write_image(first.path.with_name("twin.png"), 240, 180, seed=9), 240, 180)
    for one in (first, upright, twin, first):
        text, usage = answer(engine, [user("What is this?", one)])
        assert text == answer(load(folder), [user("What is this?", one)])[0]
        assert usage.cached_tokens < 20, "nothing of the image before is used"
    _, again = answer(engine, [user("What is this?", first)])
    assert again.cached_tokens == again.prompt_tokens - 1


def test_an_image_is_looked_at_once_though_turns_before_it_fall_away(
    folder: Path, images: list[ImagePart], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder, context=160)
    seen = tiles_looked_at(engine, monkeypatch)
    messages = [user("words " * 14), said("words " * 3), user("this?", images[2])]
    assert answer(engine, messages)[1].turns_left_out == 0 and sum(seen) == 9
    messages += [said("words " * 3), user("again, with some more words in it")]
    _, usage = answer(engine, messages)
    assert usage.turns_left_out == 1 and usage.cached_tokens < 10 and sum(seen) == 9
    assert answer(load(folder, context=160), messages[2:])[0] == answer(engine, messages)[0]


@pytest.mark.parametrize(
    ("detail", "allowance", "tiles"),
    [("auto", 12, 13), ("low", 12, 1), ("medium", 12, 7), ("high", 12, 13), ("high", 4, 5), ("auto", 1, 1)],
)
def test_detail_says_how_many_tiles(
    folder: Path,
    images: list[ImagePart],
    monkeypatch: pytest.MonkeyPatch,
    detail: Detail,
    allowance: int,
    tiles: int,
) -> None:
    engine = load(folder, tiles=allowance)
    seen = tiles_looked_at(engine, monkeypatch)
    _, usage = answer(engine, [user("x", images[0])], GenerationSettings(4, 0.0, detail=detail))
    assert sum(seen) == tiles
    words = engine.count_tokens([user("\nx")])
    assert usage.prompt_tokens == words + 2 + tiles * PER_TILE


def test_cancel_between_two_tiles(folder: Path, images: list[ImagePart], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(folder)
    seen = tiles_looked_at(engine, monkeypatch)

    def emit(text: str) -> None:
        assert text == ""
        if len(seen) == 5:
            raise Cancelled

    usage = engine.generate([user("What is this?", images[0])], GREEDY, emit)
    assert usage.reason == "cancelled" and usage.new_tokens == 0 and len(seen) == 5
    text, usage = answer(engine, [user("What is this?", images[0])])
    assert text == answer(load(folder), [user("What is this?", images[0])])[0]


def test_cancel_in_the_prefill_of_an_image_keeps_what_was_seen(
    folder: Path, images: list[ImagePart], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder, chunk=8)
    seen, after = tiles_looked_at(engine, monkeypatch), 0

    def emit(text: str) -> None:
        nonlocal after
        after += len(seen) == 13
        if after == 4:
            raise Cancelled

    assert engine.generate([user("What is this?", images[0])], GREEDY, emit).reason == "cancelled"
    text, usage = answer(engine, [user("What is this?", images[0])])
    assert 8 < usage.cached_tokens < 8 + 13 * PER_TILE and len(seen) == 13, "the middle of the image is in the cache"
    assert text == answer(load(folder), [user("What is this?", images[0])])[0]


def test_it_shows_signs_of_life_while_it_looks(engine: NativeVisionEngine, images: list[ImagePart]) -> None:
    signs: list[str] = []
    engine.generate([user("x", images[0])], GenerationSettings(1, 0.0), signs.append)
    assert len(signs) >= 13 and not any(signs[:13])


def test_control_tokens_in_a_question_are_text(engine: NativeVisionEngine, images: list[ImagePart]) -> None:
    context = engine._model.config.image_token_id
    for typed in ("<IMG_CONTEXT>", "<img></img>", "<image>", "<|im_end|>"):
        messages = [user(typed, images[1]), said("<IMG_CONTEXT>"), user("<IMG_CONTEXT>" * 5)]
        assert engine._prompt(messages, GREEDY).ids.count(context) == PER_TILE
        assert answer(engine, messages)[1].new_tokens > 0


def test_what_cannot_be_asked_is_refused_before_anything_is_computed(
    folder: Path, images: list[ImagePart], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load(folder, tiles=2)
    seen = tiles_looked_at(engine, monkeypatch)
    with pytest.raises(TooManyImages) as many:
        answer(engine, [user("x", *images)])
    assert many.value.facts == {"images": 4, "limit": 3}
    with pytest.raises(PromptTooLong):
        answer(engine, [user("word " * 1000, images[0])])
    assert not seen and engine.count_tokens([user("x", *images)]) > 0


def test_an_image_that_is_gone_or_not_itself_fails_and_harms_nothing(
    engine: NativeVisionEngine, images: list[ImagePart]
) -> None:
    gone = ImagePart("gone", Path("gone.png"), 56, 56)
    other = ImagePart("other", images[1].path, 240, 180)
    for one, error in ((gone, ImageRejected), (other, ValueError)):
        with pytest.raises(error):
            answer(engine, [user("x", one)])
    assert answer(engine, [user("x", images[1])])[1].cached_tokens == 0


def test_a_worker_makes_it(folder: Path) -> None:
    stages: list[str] = []
    settings = LoadSettings("native", "cpu", "float32", 256, max_tiles=6)
    engine = make_engine(Load("internvl2-2b", folder, settings), stages.append)
    assert isinstance(engine, NativeVisionEngine) and stages == ["libraries", "weights", "tokenizer", "warming"]
    assert engine.memory() > 0
    engine.close()


def test_an_answer_about_images_that_was_cut_goes_on_as_if_it_had_not_been(
    folder: Path, engine: NativeVisionEngine, images: list[ImagePart], monkeypatch: pytest.MonkeyPatch
) -> None:
    question = [user("What is this?", images[0], images[2])]
    whole, _ = answer(load(folder), question)
    first, before = answer(engine, question, replace(GREEDY, max_new_tokens=5))
    seen = tiles_looked_at(engine, monkeypatch)
    rest, usage = answer(engine, [*question, said(first)], replace(GREEDY, max_new_tokens=7))
    assert first + rest == whole and not seen, "no image is looked at again"
    assert usage.prompt_tokens == before.prompt_tokens + 5 == usage.cached_tokens + 1

"""What becomes of LMDeploy's answers: text, usage, stops and errors."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest

from engines import lmdeploy_stream, vision
from engines.base import ImagePart, Message
from engines.errors import Cancelled, EngineFailed, ImageRejected
from tests.engines.vision_lmdeploy.conftest import Loader
from tests.engines.vision_lmdeploy.core import GREEDY, Core, answer, user


@pytest.mark.parametrize("ends", ["stop", "length"])
def test_it_streams_characters_that_are_whole(
    ends: str, tokenizer: Any, images: list[ImagePart], core: Core, load: Loader
) -> None:
    text = "A sail 🙂 on the 海，and\n  two gulls."
    ids = tokenizer.encode(text, add_special_tokens=False)
    engine = load()
    core.script = [*ids, engine._stop_ids[1]] if ends == "stop" else ids
    pieces: list[str] = []
    usage = engine.generate([user("What?", images[1])], GREEDY, pieces.append)
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
    assert len([piece for piece in pieces if piece]) > 5
    assert (usage.reason, usage.new_tokens, usage.context) == (ends, len(ids), 8192)


def test_silence_shows_signs_of_life(core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdeploy_stream, "ALIVE_EVERY", 0.001)
    engine, go = load(), threading.Event()
    core.script = [go, 500]
    pieces: list[str] = []

    def emit(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 3:
            go.set()

    engine.generate([user("x")], GREEDY, emit)
    assert pieces[:3] == ["", "", ""] and "".join(pieces)


def test_stop_while_it_answers(core: Core, load: Loader) -> None:
    engine = load()
    core.script = itertools.repeat(500)
    pieces: list[str] = []

    def emit(text: str) -> None:
        pieces.append(text)
        if len(pieces) == 4:
            raise Cancelled

    usage = engine.generate([user("x")], GREEDY, emit)
    assert (usage.reason, usage.new_tokens, core.aborted) == ("cancelled", 4, True)
    core.script = [500, 501]
    assert answer(engine, [user("y")])[1].new_tokens == 2


def test_a_question_that_is_stopped_before_the_engine_has_it_never_gets_there(
    images: list[ImagePart], core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmdeploy.vl.model.internvl import InternVLVisionModel

    looked, look = threading.Event(), InternVLVisionModel.preprocess

    def slow_look(self: Any, messages: Any) -> Any:
        looked.wait()
        return look(self, messages)

    def emit(text: str) -> None:
        raise Cancelled

    engine = load()
    monkeypatch.setattr(lmdeploy_stream, "ALIVE_EVERY", 0.001)
    model = engine._pipe.async_engine.vl_encoder.model
    model.preprocess = slow_look.__get__(model)
    usage = engine.generate([user("x", images[0])], GREEDY, emit)
    assert (usage.reason, usage.new_tokens) == ("cancelled", 0)
    looked.set()
    assert answer(engine, [user("y", images[1])])[1].reason == "length"
    assert len(core.requests) == 1 and not core.aborted
    assert not engine._pipe.session_mgr.sessions


def test_a_stop_that_the_engine_does_not_hear_is_repeated(
    core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lmdeploy.serve.managers import Session

    aborts, abort = itertools.count(1), Session.async_abort

    async def counted(self: Any) -> None:
        if next(aborts) > 3:
            await abort(self)

    def emit(text: str) -> None:
        raise Cancelled

    engine = load()
    monkeypatch.setattr(lmdeploy_stream, "ABORT_EVERY", 0.001)
    monkeypatch.setattr(Session, "async_abort", counted)
    core.script = itertools.repeat(500)
    assert engine.generate([user("x")], GREEDY, emit).reason == "cancelled"
    assert core.aborted and next(aborts) > 4
    core.script = [500]
    assert answer(engine, [user("y")])[1].reason == "length"


def test_what_lmdeploy_reports_as_an_error_is_one(core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    from lmdeploy.serve.core.async_engine import GenOut

    engine = load()
    core.script = [500, RuntimeError("CUDA error: an illegal memory access was encountered")]
    with pytest.raises(EngineFailed) as failed:
        answer(engine, [user("x")])
    assert failed.value.facts == {"kind": "RequestError"}

    async def broken(prepared: Any) -> Any:
        yield GenOut("", prepared.input_token_len, 0, "error", [])

    monkeypatch.setattr(engine._pipe.async_engine, "generate", broken)
    with pytest.raises(EngineFailed) as failed:
        answer(engine, [user("x")])
    assert failed.value.facts == {"kind": "error"}


def test_a_prompt_that_lmdeploy_counts_otherwise_is_not_answered(
    images: list[ImagePart], core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = load()
    monkeypatch.setattr(vision, "tile_count", lambda *shape: 2)
    with pytest.raises(EngineFailed) as failed:
        answer(engine, [user("x", images[1])])
    assert failed.value.facts == {"kind": "ValueError"} and not core.requests


def test_an_engine_that_says_nothing_any_more_has_failed(
    core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, never = load(), threading.Event()
    monkeypatch.setattr(lmdeploy_stream, "ALIVE_EVERY", 0.001)
    monkeypatch.setattr(lmdeploy_stream, "SILENCE", 0.05)
    core.script = [500, never]
    with pytest.raises(EngineFailed) as failed:
        answer(engine, [user("x")])
    assert failed.value.facts == {"kind": "silence"}
    never.set()


def test_a_stop_does_not_hide_that_the_engine_failed(core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load()

    async def broken(prepared: Any) -> Any:
        yield GenOut("a", prepared.input_token_len, 1, None, [500])
        raise RuntimeError("CUDA error")

    from lmdeploy.serve.core.async_engine import GenOut

    monkeypatch.setattr(engine._pipe.async_engine, "generate", broken)

    def emit(text: str) -> None:
        raise Cancelled

    with pytest.raises(EngineFailed):
        engine.generate([user("x")], GREEDY, emit)


def test_an_image_that_is_gone_is_the_questions_fault(core: Core, load: Loader) -> None:
    engine = load()
    with pytest.raises(ImageRejected) as refused:
        answer(engine, [user("x", ImagePart("gone", Path("gone.webp"), 448, 448))])
    assert refused.value.facts == {"name": "gone.webp", "reason": "gone"} and not core.requests


def test_an_answer_goes_on_behind_its_text(tokenizer: Any, core: Core, load: Loader) -> None:
    """The prompt ends inside the assistant's turn, and the space at the seam is kept."""
    engine = load()
    core.script = tokenizer.encode(" two gulls.", add_special_tokens=False)
    question = [user("What?")]
    text, _ = answer(engine, [*question, Message.of("assistant", "A sail,")])
    form = engine._format_of(1)
    assert text.strip() == "two gulls." and core.requests[-1]["input_ids"][: len(form(question))] == form(question)
    assert tokenizer.decode(core.requests[-1]["input_ids"]).endswith("assistant\nA sail,")

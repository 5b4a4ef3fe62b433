"""Answers belong to the server: started, recorded and ended here, with the scripted engine in a real worker."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from configs.load import load_catalogue, load_config
from engines.base import GenerationSettings
from engines.errors import ConversationMoved, EngineFailed, HistoryUnavailable, StillAnswering
from engines.job import Delta, Event, Job
from engines.library import Library
from interface.desk import Desk, LoginDesk
from interface.history import History

MODEL = "smollm2-135m-instruct"
SETTINGS = GenerationSettings(max_new_tokens=30_000)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LoginDesk]:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True)).of(None)
    yield desk
    desk.close()


@pytest.fixture
def id(desk: LoginDesk) -> str:
    return desk.store.create(MODEL, "", SETTINGS)


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not reached"
        time.sleep(0.005)


def answered(desk: LoginDesk, id: str) -> None:
    answer = desk.answers.of(id)
    assert answer is None or answer.recorded.wait(15)


def test_the_question_is_committed_before_its_answer_begins(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=3 prefill=0.3")
    assert [(one.role, one.status) for one in desk.store.path(id)] == [("user", "complete"), ("assistant", "growing")]
    answered(desk, id)
    last = desk.store.path(id)[-1]
    assert (last.text, last.status) == ("word0 word1 word2 ", "complete") and last.usage and last.usage.new_tokens == 3


def test_an_answer_is_written_while_it_grows(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    until(lambda: desk.store.path(id)[-1].text.startswith("word0 word1 "))
    assert desk.store.path(id)[-1].status == "growing"
    answer = desk.answers.of(id)
    assert answer is not None
    answer.job.cancel()
    answered(desk, id)
    assert desk.store.path(id)[-1].status == "stopped"


def test_one_answer_at_a_time(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    for again in (lambda: desk.answers.ask(id, "x"), lambda: desk.answers.again(id), lambda: desk.answers.undo(id)):
        with pytest.raises(StillAnswering):
            again()
    assert len(desk.store.path(id)) == 2


def test_again_rewrite_and_undo(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "one")
    answered(desk, id)
    desk.answers.again(id)
    answered(desk, id)
    assert [one.text for one in desk.store.path(id)] == ["one", "one "]
    desk.answers.rewrite(id, desk.store.path(id)[0].id, "two")
    answered(desk, id)
    assert [one.text for one in desk.store.path(id)] == ["two", "two "]
    taken_back = desk.answers.undo(id)
    assert taken_back and taken_back.text == "two" and desk.store.path(id) == [] and desk.answers.undo(id) is None


def test_images_reach_the_engine_and_stay_through_again_rewrite_and_undo(desk: LoginDesk, tmp_path: Path) -> None:
    id = desk.store.create("internvl2-2b", "", SETTINGS)
    images = tuple(desk.uploads.accept(picture(tmp_path, *size)) for size in ((64, 48), (30, 20)))
    desk.answers.ask(id, "what are these?", images)
    answered(desk, id)
    assert desk.store.path(id)[-1].text == "2 images: 64x48, 30x20. what are these? "
    desk.answers.ask(id, "and before?")
    answer = desk.answers.of(id)
    assert answer is not None and [len(one.images) for one in answer.job.messages] == [2, 0, 0]
    answered(desk, id)
    question = desk.store.path(id)[0]
    desk.answers.rewrite(id, question.id, "only this", question.images[1:])
    answered(desk, id)
    assert desk.store.path(id)[-1].text == "1 image: 30x20. only this "
    desk.answers.again(id)
    answered(desk, id)
    assert desk.store.path(id)[-1].text == "1 image: 30x20. only this "
    taken_back = desk.answers.undo(id)
    assert taken_back and taken_back.images == images[1:]


def picture(data: Path, width: int, height: int) -> Path:
    path = data / "uploads" / f"{width}.png"
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (width, height), "teal").save(path)
    return path


def test_a_failure_is_recorded_with_the_partial_answer(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=9 after=4 die=SIGSEGV")
    answered(desk, id)
    last = desk.store.path(id)[-1]
    assert last.text == "word0 word1 word2 word3 " and last.status == "failed"
    assert last.error and last.error["code"] == "engine_died" and last.error["facts"]["signal"] == "SIGSEGV"


def test_a_full_queue_is_the_answers_failure_and_the_question_stays(tmp_path: Path) -> None:
    config = load_config({"data": tmp_path}, {})
    config = replace(config, limits=replace(config.limits, max_waiting=0))
    desk = Desk.open(Library(config, load_catalogue(), fake=True)).of(None)
    first, second = (desk.store.create(MODEL, "", SETTINGS) for _ in range(2))
    desk.answers.ask(first, "fake: words=100000 delay=0.01")
    until(lambda: desk.runner.status().running)
    desk.answers.ask(second, "me too")
    question, refusal = desk.store.path(second)
    assert question.text == "me too" and refusal.error and refusal.error["code"] == "busy"
    desk.close()


def test_a_failed_answer_is_not_part_of_the_next_prompt(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=9 after=0 die=SIGKILL")
    answered(desk, id)
    desk.answers.ask(id, "next")
    answer = desk.answers.of(id)
    assert answer is not None and [one.role for one in answer.job.messages] == ["user", "user"]
    answered(desk, id)


def test_closing_writes_what_was_said(tmp_path: Path) -> None:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True)).of(None)
    id = desk.store.create(MODEL, "", SETTINGS)
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    answer = desk.answers.of(id)
    assert answer is not None
    until(lambda: answer.job.text)
    desk.close()
    store = History(tmp_path / "conversations.sqlite3", tmp_path / "images").of("")
    assert store.path(id)[-1].status == "stopped" and store.path(id)[-1].text.startswith("word0 ")
    store.file.close()


def broken_disk(desk: LoginDesk, broken: bool = True) -> None:
    desk.store.file._file.execute(f"PRAGMA query_only = {int(broken)}")


def in_the_file(desk: LoginDesk, id: str) -> list[str]:
    """What anyone else would read there."""
    with closing(sqlite3.connect(desk.config.data / "conversations.sqlite3")) as db:
        rows = db.execute("SELECT text FROM messages WHERE conversation = ? ORDER BY id", (id,)).fetchall()
    return [text for (text,) in rows]


def test_what_cannot_be_saved_is_kept_and_saved_when_it_can_be(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=5 prefill=0.5")
    broken_disk(desk)
    answered(desk, id)
    kept = desk.answers.path(id)[-1]
    assert (kept.text, kept.status) == ("word0 word1 word2 word3 word4 ", "complete")
    assert desk.store.unsaved is not None and desk.store.unsaved.facts == {"kind": "readonly"}
    assert in_the_file(desk, id)[-1] == ""
    broken_disk(desk, False)
    assert desk.answers.path(id)[-1] == kept and desk.store.unsaved is None
    assert in_the_file(desk, id)[-1] == kept.text


def test_questions_are_answered_while_nothing_can_be_saved(tmp_path: Path) -> None:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True)).of(None)
    id = desk.store.create(MODEL, "", SETTINGS)
    desk.answers.ask(id, "one")
    answered(desk, id)
    broken_disk(desk)
    new = desk.store.create(MODEL, "", SETTINGS)
    for asked, question in ((id, "two"), (new, "three")):
        desk.answers.ask(asked, question, (), (MODEL, "Be brief.", SETTINGS))
        answered(desk, asked)
    assert [one.text for one in desk.answers.path(id)] == ["one", "one ", "two", "two "]
    assert in_the_file(desk, id) == ["one", "one "] and in_the_file(desk, new) == []
    broken_disk(desk, False)
    desk.close()
    store = History(tmp_path / "conversations.sqlite3", tmp_path / "images").of("")
    assert [one.text for one in store.path(id)] == ["one", "one ", "two", "two "]
    assert [one.text for one in store.path(new)] == ["three", "three "]
    held = store.conversation(new)
    assert held is not None and (held.title, held.system) == ("three", "Be brief.")
    store.file.close()


@pytest.mark.parametrize("fails", ["add", "configure", "conversation"])
def test_a_question_that_cannot_be_committed_changes_nothing(
    desk: LoginDesk, id: str, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    desk.answers.ask(id, "one")
    answered(desk, id)
    before, held = desk.store.path(id), desk.store.conversation(id)
    work = getattr(desk.store, fails)

    def full(*given: object, **named: object) -> object:
        if fails != "add" or "assistant" in given:
            raise HistoryUnavailable(detail="full")
        return work(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(desk.store, fails, full)
        new = ("internlm2-chat-1_8b", "Be brief.", SETTINGS)
        for change in (
            lambda: desk.answers.ask(id, "two", (), new),
            lambda: desk.answers.again(id, new),
            lambda: desk.answers.rewrite(id, before[0].id, "two", (), new),
        ):
            with pytest.raises(HistoryUnavailable):
                change()
    assert desk.store.path(id) == before and desk.store.conversation(id) == held
    status = desk.runner.status()
    assert desk.answers.of(id) is None and (status.running, status.waiting) == (0, 0)


def test_what_is_refused_does_not_change_what_the_conversation_is_held_with(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    held = desk.store.conversation(id)
    for change in (lambda new: desk.answers.ask(id, "two", (), new), lambda new: desk.answers.again(id, new)):
        with pytest.raises(StillAnswering):
            change(("internlm2-chat-1_8b", "Be brief.", SETTINGS))
    assert desk.store.conversation(id) == held


def test_only_a_question_that_is_still_there_can_be_rewritten(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "one")
    answered(desk, id)
    question, answer = desk.store.path(id)
    with pytest.raises(ConversationMoved):
        desk.answers.rewrite(id, answer.id, "two")
    desk.answers.undo(id)
    for change in (lambda: desk.answers.rewrite(id, question.id, "two"), lambda: desk.answers.again(id)):
        with pytest.raises(ConversationMoved):
            change()
    assert desk.store.path(id) == []


@pytest.mark.parametrize("error", [EngineFailed(model=MODEL, stage="answer", kind={1}), RuntimeError("unforeseen")])
def test_no_failure_leaves_a_conversation_still_answering(
    desk: LoginDesk, id: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def watch(job: Job) -> Iterator[Event]:
        yield Delta("half ")
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Job, "watch", watch)
        desk.answers.ask(id, "one")
        answered(desk, id)
    last = desk.store.path(id)[-1]
    assert (last.text, last.status) == ("half ", "failed")
    assert last.error and last.error["code"] == getattr(error, "code", "internal")
    desk.answers.ask(id, "two")
    answered(desk, id)
    assert desk.store.path(id)[-1].text == "two "

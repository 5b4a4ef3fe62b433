"""Answers belong to the server: started, recorded and ended here, with the scripted engine in a real worker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from configs.load import load_catalogue, load_config
from engines.base import GenerationSettings
from engines.errors import StillAnswering
from engines.library import Library
from interface.desk import Desk

MODEL = "smollm2-135m-instruct"
SETTINGS = GenerationSettings(max_new_tokens=30_000)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True))
    yield desk
    desk.close()


@pytest.fixture
def id(desk: Desk) -> str:
    return desk.store.create(MODEL, "", SETTINGS)


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not reached"
        time.sleep(0.005)


def answered(desk: Desk, id: str) -> None:
    answer = desk.answers.of(id)
    assert answer is None or answer.recorded.wait(15)


def test_the_question_is_committed_before_its_answer_begins(desk: Desk, id: str) -> None:
    desk.answers.ask(id, "fake: words=3 prefill=0.3")
    assert [(one.role, one.status) for one in desk.store.path(id)] == [("user", "complete"), ("assistant", "growing")]
    answered(desk, id)
    last = desk.store.path(id)[-1]
    assert (last.text, last.status) == ("word0 word1 word2 ", "complete") and last.usage and last.usage.new_tokens == 3


def test_an_answer_is_written_while_it_grows(desk: Desk, id: str) -> None:
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    until(lambda: desk.store.path(id)[-1].text.startswith("word0 word1 "))
    assert desk.store.path(id)[-1].status == "growing"
    answer = desk.answers.of(id)
    assert answer is not None
    answer.job.cancel()
    answered(desk, id)
    assert desk.store.path(id)[-1].status == "stopped"


def test_one_answer_at_a_time(desk: Desk, id: str) -> None:
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    for again in (lambda: desk.answers.ask(id, "x"), lambda: desk.answers.again(id), lambda: desk.answers.undo(id)):
        with pytest.raises(StillAnswering):
            again()
    assert len(desk.store.path(id)) == 2


def test_again_rewrite_and_undo(desk: Desk, id: str) -> None:
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


def test_images_reach_the_engine_and_stay_through_again_rewrite_and_undo(desk: Desk, tmp_path: Path) -> None:
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


def test_a_failure_is_recorded_with_the_partial_answer(desk: Desk, id: str) -> None:
    desk.answers.ask(id, "fake: words=9 after=4 die=SIGSEGV")
    answered(desk, id)
    last = desk.store.path(id)[-1]
    assert last.text == "word0 word1 word2 word3 " and last.status == "failed"
    assert last.error and last.error["code"] == "engine_died" and last.error["facts"]["signal"] == "SIGSEGV"


def test_a_full_queue_is_the_answers_failure_and_the_question_stays(tmp_path: Path) -> None:
    config = load_config({"data": tmp_path}, {})
    config = replace(config, limits=replace(config.limits, max_waiting=0))
    desk = Desk.open(Library(config, load_catalogue(), fake=True))
    first, second = (desk.store.create(MODEL, "", SETTINGS) for _ in range(2))
    desk.answers.ask(first, "fake: words=100000 delay=0.01")
    until(lambda: desk.runner.status().running)
    desk.answers.ask(second, "me too")
    question, refusal = desk.store.path(second)
    assert question.text == "me too" and refusal.error and refusal.error["code"] == "busy"
    desk.close()


def test_a_failed_answer_is_not_part_of_the_next_prompt(desk: Desk, id: str) -> None:
    desk.answers.ask(id, "fake: words=9 after=0 die=SIGKILL")
    answered(desk, id)
    desk.answers.ask(id, "next")
    answer = desk.answers.of(id)
    assert answer is not None and [one.role for one in answer.job.messages] == ["user", "user"]
    answered(desk, id)


def test_closing_writes_what_was_said(tmp_path: Path) -> None:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True))
    id = desk.store.create(MODEL, "", SETTINGS)
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    answer = desk.answers.of(id)
    assert answer is not None
    until(lambda: answer.job.text)
    desk.close()
    from interface.history import Store

    store = Store(tmp_path / "conversations.sqlite3", tmp_path / "images")
    assert store.path(id)[-1].status == "stopped" and store.path(id)[-1].text.startswith("word0 ")
    store.close()


def test_a_disk_that_cannot_be_written_does_not_stop_the_answer(desk: Desk, id: str) -> None:
    desk.answers.ask(id, "fake: words=5 prefill=0.5")
    desk.store._db.execute("PRAGMA query_only = 1")
    answered(desk, id)
    assert desk.answers.unsaved is not None and desk.answers.unsaved.code == "history_unavailable"
    desk.store._db.execute("PRAGMA query_only = 0")
    desk.answers.again(id)
    answered(desk, id)
    assert desk.answers.unsaved is None and desk.store.path(id)[-1].status == "complete"

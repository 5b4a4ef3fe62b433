"""The conversation in the terminal: what it prints, where, and what it remembers; with the scripted engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from configs.load import load_catalogue, load_config
from engines.base import Message, Usage
from engines.errors import EngineDied
from engines.job import Job
from engines.library import Library
from engines.runner import Runner
from interface.desk import Desk
from interface.terminal import _Talk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True))
    yield desk
    desk.close()


def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[str, str]]]:
    """What each answer is asked for, from now on."""
    seen: list[list[tuple[str, str]]] = []
    submit = Runner.submit

    def noted(self: Runner, model: str, messages: Sequence[Message], *rest: Any) -> Job:
        seen.append([(one.role, one.text) for one in messages])
        return submit(self, model, messages, *rest)

    monkeypatch.setattr(Runner, "submit", noted)
    return seen


def test_an_answer_that_fails_is_remembered_as_far_as_it_came(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    talk, seen = _Talk(desk.library, desk.runner, "en", quiet=True), asked(monkeypatch)
    question = "fake: words=9 after=2 die=SIGKILL"
    with pytest.raises(EngineDied):
        talk._answer(question)
    assert capsys.readouterr().out == "word0 word1 \n"
    talk._answer("next")
    assert seen[1] == [("user", question), ("assistant", "word0 word1 "), ("user", "next")]


def test_what_was_left_out_or_cut_is_said_beside_the_answer(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def submit(*given: Any) -> Job:
        job = Job("answer", "m")
        job.say("an answer")
        job.finish(Usage(10, 0, 2, 0.1, 0.2, "length", 8192, 3))
        return job

    monkeypatch.setattr(desk.runner, "submit", submit)
    _Talk(desk.library, desk.runner, "en", quiet=True)._answer("hello")
    said = capsys.readouterr()
    assert said.out == "an answer\n"
    assert "The 3 oldest turns" in said.err and "The longest answer allowed was reached." in said.err


def test_a_reply_cannot_steer_the_terminal(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    _Talk(desk.library, desk.runner, "en", quiet=True)._answer("a\x1b]0;title\x07\r\x9b31mb\x7f\tc\n词")
    assert capsys.readouterr().out == "a]0;title31mb\tc\n词 \n"

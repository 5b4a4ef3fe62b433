"""Going on with answers, changing messages, and pages that have not seen what is there: with the scripted engine."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from configs.load import load_catalogue, load_config
from engines.base import Usage
from engines.errors import ConversationMoved, HistoryUnavailable, SettingOutOfRange, StillAnswering
from engines.library import Library
from engines.status import RunnerStatus
from interface import branches
from interface.answers import was_cut
from interface.branches import Versions
from interface.bubbles import error_html, feet_html, meter_html, waited_for
from interface.desk import Desk, LoginDesk
from interface.history import StoredMessage
from tests.interface.test_answers import MODEL, SETTINGS, answered, desk, id, until

__all__ = ["desk", "id"]

CUT = replace(SETTINGS, max_new_tokens=4)


def test_a_cut_answer_goes_on_in_its_row(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=6 prefill=0.1", held_with=(MODEL, "", CUT))
    answered(desk, id)
    first = desk.store.path(id)[-1]
    assert first.text == "word0 word1 word2 word3 " and was_cut(first)
    desk.answers.resume(id, first.id)
    growing = desk.store.path(id)[-1]
    assert (growing.id, growing.text, growing.status) == (first.id, first.text, "growing")
    answered(desk, id)
    last = desk.store.path(id)[-1]
    assert (last.id, last.text) == (first.id, "".join(f"word{n} " for n in range(6))) and not was_cut(last)
    assert last.usage and first.usage and last.usage.new_tokens == 6
    assert last.usage.prompt_tokens == first.usage.prompt_tokens and last.usage.seconds >= first.usage.seconds
    with pytest.raises(ConversationMoved):
        desk.answers.resume(id, last.id)


def test_an_answer_goes_on_after_its_engine_died_and_keeps_its_text_if_that_fails_too(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=9 after=4 die=SIGKILL")
    answered(desk, id)
    row = desk.store.path(id)[-1].id
    desk.store.configure(id, MODEL, "", replace(SETTINGS, temperature=9.0))
    desk.answers.resume(id, row)
    answered(desk, id)
    again = desk.store.path(id)[-1]
    assert again.text == "word0 word1 word2 word3 " and again.error and again.error["code"] == "setting_out_of_range"
    desk.store.configure(id, MODEL, "", SETTINGS)
    desk.answers.resume(id, row)
    answered(desk, id)
    assert desk.store.path(id)[-1].text.endswith("word7 word8 ") and desk.store.path(id)[-1].error is None


def test_a_full_queue_leaves_the_text_of_an_answer_that_was_to_go_on(tmp_path: Path) -> None:
    config = load_config({"data": tmp_path}, {})
    config = replace(config, limits=replace(config.limits, max_waiting=0))
    desk = Desk.open(Library(config, load_catalogue(), fake=True)).of(None)
    first, second = (desk.store.create(MODEL, "", CUT) for _ in range(2))
    desk.answers.ask(second, "fake: words=6")
    answered(desk, second)
    desk.answers.ask(first, "fake: words=4 delay=5")
    until(lambda: desk.runner.status().answering == MODEL)
    desk.answers.resume(second, desk.store.path(second)[-1].id)
    kept = desk.store.path(second)[-1]
    assert kept.text == "word0 word1 word2 word3 " and kept.error and kept.error["code"] == "busy"
    desk.close()


def test_who_has_not_seen_what_is_there_changes_nothing(desk: LoginDesk, id: str) -> None:
    nothing = desk.answers.mark(id)
    desk.answers.ask(id, "one", seen=nothing)
    growing = desk.answers.mark(id)
    answered(desk, id)
    done = desk.answers.mark(id)
    question, answer = desk.store.path(id)
    assert len({nothing, growing, done}) == 3
    for change in (
        lambda: desk.answers.ask(id, "two", seen=nothing),
        lambda: desk.answers.again(id, seen=nothing),
        lambda: desk.answers.rewrite(id, question.id, "two", seen=nothing),
        lambda: desk.answers.change(branches.delete, id, answer.id, seen=nothing),
        lambda: desk.answers.undo(id, seen=nothing),
    ):
        with pytest.raises(ConversationMoved):
            change()
    assert desk.store.path(id) == [question, answer]
    desk.answers.ask(id, "two", seen=growing)  # it saw the answer grow: that has just ended
    answered(desk, id)
    assert [one.text for one in desk.store.path(id)] == ["one", "one ", "two", "two "]


def test_an_answer_that_grew_on_elsewhere_was_not_seen(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=6", held_with=(MODEL, "", CUT))
    answered(desk, id)
    seen = desk.answers.mark(id)
    desk.answers.resume(id, desk.store.path(id)[-1].id, seen=seen)
    answered(desk, id)
    with pytest.raises(ConversationMoved):
        desk.answers.ask(id, "two", seen=seen)


def test_nothing_is_changed_under_a_growing_answer(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "fake: words=100000 delay=0.01")
    question = desk.store.path(id)[0]
    for how in (branches.choose, branches.delete, branches.restore):
        with pytest.raises(StillAnswering):
            desk.answers.change(how, id, question.id)


def test_another_answer_to_a_question_whose_answer_was_deleted_is_its_sibling(desk: LoginDesk, id: str) -> None:
    desk.answers.ask(id, "one")
    answered(desk, id)
    first = desk.store.path(id)[-1].id
    desk.answers.change(branches.delete, id, first)
    desk.answers.again(id)
    answered(desk, id)
    desk.answers.change(branches.restore, id, first)
    assert [one.id for one in desk.store.path(id)][-1] == first
    assert branches.versions(desk.store, id)[first].count == 2


# -- what is drawn of it -----------------------------------------------------------------------------------------------

USAGE = Usage(5000, 100, 801, 0.5, 8.5, "stop", 8192, prompt_limit=7168)
QUESTION = StoredMessage(1, "user", "q", "complete", None, None)
ANSWER = StoredMessage(2, "assistant", "a", "complete", USAGE, None)


def test_the_line_under_an_answer() -> None:
    feet = feet_html([QUESTION, ANSWER], {2: Versions(2, 3, 7, None)}, "en")
    assert 'data-at="0"' in feet and 'data-at="1"' in feet and "2 / 3" in feet
    assert 'data-do="choose" data-row="7"' in feet and feet.count(" disabled") == 1
    assert "801 tokens · 100.0 per second · first after 0.5 s · context 5,801 of 8,192 · 100 reused" in feet
    assert "Continue" not in feet
    stopped = replace(ANSWER, status="stopped")
    assert "Continue" in feet_html([QUESTION, stopped], {}, "en")
    assert "Continue" not in feet_html([QUESTION, stopped], {}, "en", done=False)
    assert "Continue" not in feet_html([stopped, QUESTION], {}, "en")


@pytest.mark.parametrize(
    ("prompt", "limit", "warns"), [(5000, 7168, True), (4000, 7168, False), (5000, 0, False), (5800, 0, True)]
)
def test_the_meter_warns_from_four_fifths_of_what_a_prompt_may_take(prompt: int, limit: int, warns: bool) -> None:
    usage = replace(USAGE, prompt_tokens=prompt, prompt_limit=limit)
    meter = meter_html([replace(ANSWER, usage=usage), QUESTION], "en")
    assert ("Nearly full" in meter) is warns and f'aria-valuenow="{prompt + 801}"' in meter
    assert meter_html([QUESTION], "en") == ""


def test_a_failure_is_in_the_log_under_the_number_that_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        shown = error_html(HistoryUnavailable(detail="<full>"), "en")
        asked_wrongly = error_html(SettingOutOfRange(name="top_p", value=3, low=0, high=1), "en")
    (line,) = caplog.messages
    number = line.split()[1].rstrip(":")
    assert line.startswith(f"incident {number}: history_unavailable") and f"Incident {number};" in shown
    assert "&lt;full&gt;" in shown and "Incident" not in asked_wrongly


def test_what_a_question_waits_for() -> None:
    status = RunnerStatus((), None, 1, 2, "m")
    assert waited_for(status, str.upper, "en") == "now answering: M"
    assert waited_for(replace(status, loading="n"), str.upper, "zh") == "正在加载 N"
    assert waited_for(replace(status, answering=None), str.upper, "en") == ""

"""Several answers at once from one worker: real processes, the scripted engine, real signals."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from engines import runner as runners
from engines.base import Usage
from engines.errors import AppError, Busy, EngineFailed, EngineHung, PromptTooLong
from engines.job import Delta, Job, Ready, Waiting
from tests.engines.test_runner import (
    LARGE,
    SMALL,
    Make,
    answer,
    ask,
    children,
    first_words,
    make,
    until,
    wrongly_answered,
)

__all__ = ["make"]
LONG = "fake: words=100000 delay=0.005"


@pytest.fixture(autouse=True)
def _two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake: parallel=2")


def more_words(events: Iterator[object]) -> None:
    assert any(isinstance(event, Delta) for event in events)


def reason(job: Job) -> str:
    usage = job.result()
    assert isinstance(usage, Usage)
    return usage.reason


def test_two_answers_run_side_by_side_and_a_stop_ends_its_own_alone(make: Make) -> None:
    runner = make()
    first, second = ask(runner, LONG), ask(runner, LONG)
    first_words(first)
    events = first_words(second)
    assert runner.status().running == 2 and len(children()) == 1
    first.cancel()
    assert reason(first) == "cancelled" and first.text.startswith("word0 ")
    before = len(second.text)
    more_words(events)
    until(lambda: len(second.text) > before)
    assert not second.ended and runner.status().running == 1
    assert answer(ask(runner, "a third meanwhile")) == "a third meanwhile "
    second.cancel()
    assert reason(second) == "cancelled" and second.text.startswith("word0 word1 ")


def test_the_words_of_each_go_to_its_own_job(make: Make) -> None:
    runner = make()
    jobs = [ask(runner, f"fake: words={n} delay=0.001") for n in (200, 150, 100, 50)]
    for job, count in zip(jobs, (200, 150, 100, 50), strict=True):
        assert answer(job) == "".join(f"word{n} " for n in range(count))


def test_as_many_as_the_engine_takes_and_the_next_waits(make: Make) -> None:
    runner = make()
    first, second = ask(runner, LONG), ask(runner, LONG)
    first_words(first), first_words(second)
    third, fourth = ask(runner, "three"), ask(runner, "four")
    assert next(iter(third)) == Waiting(2) and next(iter(fourth)) == Waiting(3)
    assert (runner.status().running, runner.status().waiting) == (2, 2)
    second.cancel()
    assert answer(third) == "three " and answer(fourth) == "four " and not first.ended


def test_who_need_not_wait_is_not_too_many(make: Make) -> None:
    runner = make(max_waiting=0)
    first = ask(runner, LONG)
    first_words(first)
    second = ask(runner, LONG)
    first_words(second)
    with pytest.raises(Busy):
        ask(runner, "three")
    second.cancel()
    second.result()
    assert answer(ask(runner, "three")) == "three "


def test_one_at_a_time_stays_one_at_a_time(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake:")
    runner = make()
    first = ask(runner, LONG)
    first_words(first)
    second = ask(runner, "two")
    assert next(iter(second)) == Waiting(1) and runner.status().running == 1
    first.cancel()
    assert answer(second) == "two "


def test_a_question_that_cannot_be_answered_leaves_the_other_alone(make: Make) -> None:
    runner = make()
    first = ask(runner, LONG)
    events = first_words(first)
    pid = runner.status().engaged[0].pid
    with pytest.raises(PromptTooLong):
        ask(runner, "word " * 9000).result()
    more_words(events)
    assert not first.ended and runner.status().engaged[0].pid == pid


@pytest.mark.parametrize("how", ["killed", "dies", "fails", "full"])
def test_what_ends_the_worker_ends_both_and_the_next_gets_another(make: Make, how: str) -> None:
    runner = make()
    first = ask(runner, LONG)
    first_words(first)
    pid = runner.status().engaged[0].pid
    script = {"dies": " die=SIGKILL", "fails": " error", "full": " oom"}.get(how, "")
    second = ask(runner, f"fake: words=100000 delay=0.005 after=5{script}")
    first_words(second)
    if how == "killed":
        os.kill(pid, signal.SIGKILL)
    errors = []
    for job in (first, second):
        with pytest.raises(AppError) as failed:
            job.result()
        errors.append((type(failed.value), failed.value.facts["stage"]))
        assert job.text.startswith("word0 "), "the partial answer is kept"
    assert errors[0] == errors[1] and (errors[0][0] is EngineFailed) == (how == "fails")
    assert runner.status().running == 0
    assert answer(ask(runner, "next")) == "next " and runner.status().engaged[0].pid != pid
    assert len(children()) == 1


def test_an_answer_that_hangs_ends_both(make: Make) -> None:
    runner = make(silence_limit=0.6)
    first = ask(runner, LONG)
    first_words(first)
    second = ask(runner, "fake: words=50 after=3 hang")
    for job in (first, second):
        with pytest.raises(EngineHung):
            job.result()
    assert second.text == "word0 word1 word2 " and first.text.startswith("word0 ")
    assert answer(ask(runner, "next")) == "next "


def test_a_stop_that_is_not_heard_is_a_stop_and_the_other_is_told_why(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runners, "CANCEL_GRACE", 0.3)
    runner = make()
    first, second = ask(runner, LONG), ask(runner, "fake: words=50 after=3 hang")
    first_words(first), first_words(second)
    second.cancel()
    assert reason(second) == "cancelled" and second.text == "word0 word1 word2 "
    with pytest.raises(EngineHung) as hung:
        first.result()
    assert hung.value.facts == {"model": SMALL, "stage": "answer", "seconds": 0.3} and first.text
    assert answer(ask(runner, "next")) == "next " and len(children()) == 1


def test_an_unload_waits_for_both_and_what_comes_after_it_waits_for_that(make: Make) -> None:
    runner = make()
    first, second = ask(runner, LONG), ask(runner, LONG)
    first_words(first), first_words(second)
    pid = runner.status().engaged[0].pid
    unload, after = runner.unload(SMALL), ask(runner, "after")
    assert next(iter(unload)) == Waiting(2) and next(iter(after)) == Waiting(3)
    first.cancel()
    first.result()
    assert next(iter(unload)) == Waiting(1) and not second.ended, "there is room, but the unload was first"
    assert next(iter(after)) == Waiting(2)
    second.cancel()
    assert isinstance(unload.result(), Ready)
    assert answer(after) == "after " and runner.status().engaged[0].pid != pid


def test_a_question_to_another_model_keeps_its_place(make: Make) -> None:
    runner = make()
    first = ask(runner, LONG)
    first_words(first)
    other, last = ask(runner, "fake: words=20 delay=0.01", LARGE), ask(runner, "last")
    assert next(iter(other)) == Waiting(1) and next(iter(last)) == Waiting(2)
    first.cancel()
    assert answer(last) == "last " and other.ended, "nobody overtakes"
    assert other.error is None


def test_one_that_nobody_follows_is_stopped_alone(make: Make) -> None:
    runner = make(abandon_after=0.3)
    followed = ask(runner, LONG)
    events = first_words(followed)
    left = ask(runner, LONG)
    until(lambda: left.ended)
    assert left.text and reason(left) == "cancelled"
    more_words(events)
    assert not followed.ended


def test_close_ends_both_and_keeps_what_was_said(make: Make) -> None:
    runner = make()
    first, second, third = ask(runner, LONG), ask(runner, "fake: words=9 after=3 hang"), ask(runner, "never")
    first_words(first), first_words(second)
    assert runner.close() and not children()
    assert [reason(job) for job in (first, second, third)] == ["cancelled"] * 3
    assert first.text.startswith("word0 ") and second.text == "word0 word1 word2 " and not third.text


def test_many_askers_at_four_at_once_each_get_their_own_answer(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake: parallel=4")
    runner = make(max_waiting=1000)
    assert wrongly_answered(runner) == [] and len(children()) == 1
    assert (runner.status().running, runner.status().waiting) == (0, 0)

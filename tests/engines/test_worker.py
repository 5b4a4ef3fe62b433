"""A worker's process and the parent's handle on it, without a runner."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from engines.base import GenerationSettings, Message
from engines.errors import EngineFailed
from engines.memory import LoadSettings
from engines.wire import Cancel, Done, Failed, Generate, Gone, Load, Loaded, Reply, Text
from engines.worker import Worker, _Child
from interface.messages import explain


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "engine.log"


@pytest.fixture
def worker(log: Path) -> Iterator[Worker]:
    worker = Worker(log)
    yield worker
    worker.kill()


def fake(folder: Path) -> Load:
    return Load("made", folder, LoadSettings("fake", "cpu", "float32", 1024))


def replies(worker: Worker, last: type) -> list[Reply]:
    """What comes up to a reply of the kind `last`."""
    got: list[Reply] = []
    while not got or not isinstance(got[-1], last):
        reply = worker.receive(20)
        assert reply is not None, "nothing came"
        got.append(reply)
    return got


def test_after_a_failed_load_the_process_ends_in_order(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path
) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake: error")
    worker = Worker(log)
    worker.send(fake(tmp_path))
    *_, failed, gone = replies(worker, Gone)
    worker.kill()
    assert isinstance(failed, Failed) and gone == Gone("", 0)
    said = log.read_text(encoding="utf-8")
    assert "the script asked for it" in said and "Fatal Python error" not in said


def test_bytes_that_are_no_command_end_the_process(worker: Worker, tmp_path: Path, log: Path) -> None:
    worker.send(fake(tmp_path))
    replies(worker, Loaded)
    assert worker._process.stdin is not None
    worker._process.stdin.write(b"cengines.worker\nNoSuchCommand\n.")
    worker._process.stdin.flush()
    assert replies(worker, Gone)[-1] == Gone("", 1)
    assert "NoSuchCommand" in log.read_text(encoding="utf-8")


def test_hanging_up_ends_the_process(worker: Worker, tmp_path: Path) -> None:
    worker.send(fake(tmp_path))
    replies(worker, Loaded)
    worker.close()
    assert replies(worker, Gone)[-1] == Gone("", 0) and not psutil.pid_exists(worker.pid)


@pytest.mark.parametrize(("own", "order"), [(None, "PCI_BUS_ID"), ("FASTEST_FIRST", "FASTEST_FIRST")])
def test_cards_are_counted_as_the_driver_does_unless_the_person_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, log: Path, own: str | None, order: str
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    if own:
        monkeypatch.setenv("CUDA_DEVICE_ORDER", own)
    worker = Worker(log)
    assert psutil.Process(worker.pid).environ()["CUDA_DEVICE_ORDER"] == order
    worker.kill()


def test_a_failure_that_the_engine_names_says_of_which_model_and_when(capsys: pytest.CaptureFixture[str]) -> None:
    def work() -> None:
        raise EngineFailed(kind="RequestError") from RuntimeError("out of order")

    output = io.BytesIO()
    assert _Child(output)._guarded("made", 3, work) is None
    failed = pickle.loads(output.getvalue())
    assert failed.number == 3 and failed.error.facts == {"model": "made", "stage": "answer", "kind": "RequestError"}
    assert "made failed while it was" in explain(failed.error, "en").body
    assert "out of order" in capsys.readouterr().err, "the log has the details"


@pytest.mark.parametrize(("given", "words"), [((), 4), ((Message.of("system", "mine"),), 2)], ids=["none", "one"])
def test_the_models_own_system_prompt_is_for_who_gives_none(
    worker: Worker, tmp_path: Path, given: tuple[Message, ...], words: int
) -> None:
    worker.send(replace(fake(tmp_path), system="you are made"))
    replies(worker, Loaded)
    worker.send(Generate(0, (*given, Message.of("user", "hello")), GenerationSettings()))
    done = replies(worker, Done)[-1]
    assert isinstance(done, Done) and done.usage.prompt_tokens == words, "to the scripted engine words are tokens"


def ask(worker: Worker, number: int, text: str) -> None:
    worker.send(Generate(number, (Message.of("user", text),), GenerationSettings(max_new_tokens=30_000)))


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, log: Path) -> Iterator[Worker]:
    """A worker that gives two answers at once."""
    monkeypatch.setenv("FAKE_LOAD", "fake: parallel=2")
    worker = Worker(log)
    worker.send(fake(tmp_path))
    assert replies(worker, Loaded)[-1] == Loaded(0, 2)
    yield worker
    worker.kill()


def test_two_answers_at_once_have_their_numbers(both: Worker) -> None:
    ask(both, 7, "fake: words=100 delay=0.002")
    ask(both, 8, "fake: words=100 delay=0.002")
    said = [*replies(both, Done), *replies(both, Done)]
    words = {n: [one.text for one in said if isinstance(one, Text) and one.number == n and one.text] for n in (7, 8)}
    assert words == {n: [f"word{one} " for one in range(100)] for n in (7, 8)}
    numbers = [one.number for one in said if isinstance(one, Text) and one.text]
    assert sum(one != other for one, other in pairwise(numbers)) > 20, "by turns"
    assert {one.number for one in said if isinstance(one, Done)} == {7, 8}


def test_a_cancel_reaches_the_answer_that_it_names(both: Worker) -> None:
    ask(both, 0, "fake: words=100 delay=0.005")
    ask(both, 1, "fake: words=20000 delay=0.005")
    ask(both, 2, "never begun")
    both.send(Cancel(2))
    both.send(Cancel(1))
    done = [replies(both, Done)[-1] for _ in range(3)]
    ended = {one.number: one.usage.reason for one in done if isinstance(one, Done)}
    assert ended == {0: "stop", 1: "cancelled", 2: "cancelled"}
    both.send(Cancel(0))
    ask(both, 3, "a late one hurts nobody")
    assert replies(both, Done)[-1].usage.reason == "stop"  # type: ignore[union-attr]


def test_one_that_fails_leaves_the_other_going(both: Worker) -> None:
    ask(both, 0, "fake: words=200 delay=0.005")
    ask(both, 1, "word " * 2000)
    failed = replies(both, Failed)[-1]
    assert isinstance(failed, Failed) and (failed.number, failed.error.code) == (1, "prompt_too_long")
    done = replies(both, Done)[-1]
    assert isinstance(done, Done) and (done.number, done.usage.new_tokens) == (0, 200)

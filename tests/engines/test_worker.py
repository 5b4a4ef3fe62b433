"""A worker's process and the parent's handle on it, without a runner."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from engines.base import GenerationSettings, Message
from engines.errors import EngineFailed
from engines.memory import LoadSettings
from engines.wire import Done, Failed, Generate, Gone, Load, Loaded, Reply
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
    assert _Child(output)._guarded("made", "answer", work) is None
    failed = pickle.loads(output.getvalue())
    assert failed.error.facts == {"model": "made", "stage": "answer", "kind": "RequestError"}
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

"""The runner and its workers: real child processes with the scripted engine, and real signals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.load import load_catalogue
from configs.schema import Limits
from engines import probe
from engines.base import GenerationSettings, Message, Usage
from engines.errors import (
    AppError,
    Busy,
    BusyWithYours,
    EngineDied,
    EngineFailed,
    EngineHung,
    NotEnoughMemory,
    OutOfMemory,
    PromptTooLong,
)
from engines.job import Delta, Job, Loading, Ready, Waiting, Working
from engines.memory import GIB, DeviceMemory, MemoryPlan, Resident, Wishes
from engines.planner import plan_load
from engines.runner import Runner
from engines.wire import Command, Load
from engines.worker import Worker

SETTINGS = GenerationSettings(max_new_tokens=30_000)
SMALL, LARGE = load_catalogue().ids[:2]
CARD = DeviceMemory("card", "cuda", 8 * GIB, 8 * GIB, 32 * GIB, 32 * GIB)


class FakeLibrary:
    """Admits every model to the scripted engine, by the planner's word on `device`."""

    def __init__(self, folder: Path, device: DeviceMemory = CARD) -> None:
        self.folder, self.device = folder, device
        self.observed: list[tuple[MemoryPlan, int, float]] = []
        self.smaller = False
        """Whether there is less to try when a load has failed."""

    def admit(
        self, model: str, resident: Sequence[Resident], force: bool = False, after: MemoryPlan | None = None,
        broken: bool = False,
    ) -> tuple[MemoryPlan, Load]:  # fmt: skip
        wishes = Wishes(force=force, below=after.need.total if after is not None and not broken else None)
        plan = plan_load(load_catalogue()[model], self.device, resident, wishes)
        if plan.verdict == "refuse" or (after is not None and not self.smaller):
            raise NotEnoughMemory(plan=plan)
        plan = replace(plan, settings=replace(plan.settings, backend="fake"))
        return plan, Load(model, self.folder, plan.settings)

    def observe(self, plan: MemoryPlan, held: int, seconds: float) -> None:
        self.observed.append((plan, held, seconds))


Make = Callable[..., Runner]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Runner] = []

    def _make(device: DeviceMemory = CARD, **limits: float) -> Runner:
        runner = Runner(
            FakeLibrary(tmp_path, device), replace(Limits(), **limits), lambda: Worker(tmp_path / "engine.log")
        )
        made.append(runner)
        return runner

    yield _make
    for runner in made:
        assert runner.close(), "the runner's thread did not end"
    assert not children(), "a worker was left behind"


def children() -> list[psutil.Process]:
    return psutil.Process().children(recursive=True)


def ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def ask(runner: Runner, text: str, model: str = SMALL, owner: str = "") -> Job:
    return runner.submit(model, [Message.of("user", text)], SETTINGS, owner)


def answer(job: Job) -> str:
    return "".join(event.text for event in job if isinstance(event, Delta))


def until(condition: Callable[[], object], seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not reached"
        time.sleep(0.005)


def first_words(job: Job) -> Iterator[object]:
    """Follows until the answer has begun."""
    events = iter(job)
    for event in events:
        if isinstance(event, Delta):
            return events
    raise AssertionError("no answer")


def test_an_answer_comes_in_pieces_and_ends_with_its_usage(make: Make) -> None:
    events = list(ask(make(), "a b c"))
    assert "".join(one.text for one in events if isinstance(one, Delta)) == "a b c "
    assert isinstance(events[-1], Usage) and events[-1].reason == "stop" and events[-1].new_tokens == 3


def test_what_a_job_does_is_told_in_order(make: Make) -> None:
    kinds = [type(event) for event in ask(make(), "fake: words=2 prefill=0.6")]
    order = [kind for n, kind in enumerate(kinds) if n == 0 or kinds[n - 1] is not kind]
    assert order[0] in (Waiting, Loading) and order[-1] is Usage
    assert Loading in order and order.index(Loading) < order.index(Working) < order.index(Delta)


def test_silence_is_filled_with_heartbeats(make: Make) -> None:
    runner = make()
    answer(ask(runner, "load first"))
    events = list(ask(runner, "fake: words=1 prefill=0.9"))
    assert sum(isinstance(event, Working) for event in events) >= 3


def test_followers_that_come_late_see_all_of_it(make: Make) -> None:
    job = ask(make(), "fake: words=30 delay=0.005")
    first_words(job)
    late: list[str] = []
    thread = threading.Thread(target=lambda: late.append(answer(job)))
    thread.start()
    assert answer(job) == job.text
    thread.join()
    assert late == [job.text] and job.text.startswith("word0 word1 ") and job.text.endswith("word29 ")


def test_cancel_stops_the_engine_and_keeps_the_text(make: Make) -> None:
    runner = make()
    job = ask(runner, "fake: words=10000 delay=0.005")
    first_words(job)
    began = time.monotonic()
    job.cancel()
    usage = job.result()
    assert isinstance(usage, Usage) and usage.reason == "cancelled" and usage.new_tokens < 1000
    assert time.monotonic() - began < 2
    assert job.text.startswith("word0 ")
    assert answer(ask(runner, "next")) == "next ", "the same worker answers on"
    assert len(children()) == 1


def test_a_prefill_can_be_cancelled(make: Make) -> None:
    runner = make()
    answer(ask(runner, "load"))
    job = ask(runner, "fake: prefill=60 words=3")
    assert any(isinstance(event, Working) for event in job_until(job, Working))
    job.cancel()
    result = job.result()
    assert isinstance(result, Usage) and result.reason == "cancelled" and result.new_tokens == 0


def job_until(job: Job, kind: type, more: Callable[[object], bool] = lambda event: True) -> Iterator[object]:
    for event in job:
        yield event
        if isinstance(event, kind) and more(event):
            return


def test_positions_in_the_queue_and_cancel_while_waiting(make: Make) -> None:
    runner = make()
    first = ask(runner, "fake: words=10000 delay=0.005")
    first_words(first)
    second, third = ask(runner, "two"), ask(runner, "three")
    assert next(iter(second)) == Waiting(1) and next(iter(third)) == Waiting(2)
    second.cancel()
    assert second.result().reason == "cancelled"  # type: ignore[union-attr]
    assert next(iter(third)) == Waiting(1)
    first.cancel()
    assert answer(third) == "three "


def test_the_queue_has_a_limit(make: Make) -> None:
    runner = make(max_waiting=2)
    first = ask(runner, "fake: words=10000 delay=0.005")
    first_words(first)
    ask(runner, "two"), ask(runner, "three")
    with pytest.raises(Busy) as refused:
        ask(runner, "four")
    assert refused.value.facts == {"waiting": 2, "limit": 2}


def test_an_answer_that_nobody_follows_is_stopped(make: Make) -> None:
    runner = make(abandon_after=0.3)
    job = ask(runner, "fake: words=100000 delay=0.005")
    events = first_words(job)
    events.close()  # type: ignore[attr-defined]
    until(lambda: job.ended)
    assert [event for event in job.watch()][-1].reason == "cancelled"  # type: ignore[union-attr]


def test_a_recorder_does_not_keep_an_answer_alive(make: Make) -> None:
    job = ask(make(abandon_after=0.3), "fake: words=100000 delay=0.005")
    *_, last = job.watch()
    assert isinstance(last, Usage) and last.reason == "cancelled"


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT", "SIGSEGV"])
def test_a_worker_that_dies_ends_its_job_by_name(make: Make, name: str) -> None:
    runner = make()
    job = ask(runner, f"fake: words=50 delay=0.001 after=10 die={name}")
    with pytest.raises(EngineDied) as died:
        job.result()
    assert died.value.facts["signal"] == name and died.value.facts["stage"] == "answer"
    assert job.text.startswith("word0 ") and job.text.endswith("word9 "), "the partial answer is kept"
    until(lambda: not children())
    assert answer(ask(runner, "on we go")) == "on we go "


@pytest.mark.parametrize("name", [signal.SIGKILL, signal.SIGSEGV])
def test_a_worker_killed_from_outside(make: Make, name: signal.Signals) -> None:
    runner = make()
    job = ask(runner, "fake: words=10000 delay=0.005")
    first_words(job)
    os.kill(runner.status().engaged[0].pid, name)
    with pytest.raises(EngineDied) as died:
        job.result()
    assert died.value.facts["signal"] == name.name
    assert answer(ask(runner, "again")) == "again "


def test_a_worker_killed_while_idle_is_noticed_by_the_next_question(make: Make) -> None:
    runner = make()
    answer(ask(runner, "load"))
    worker = psutil.Process(runner.status().engaged[0].pid)
    worker.kill()
    until(lambda: ended(worker))
    assert answer(ask(runner, "still there?")) == "still there? "


def test_a_hang_in_an_answer(make: Make) -> None:
    runner = make(silence_limit=0.6)
    job = ask(runner, "fake: words=50 after=3 hang")
    with pytest.raises(EngineHung) as hung:
        job.result()
    assert hung.value.facts["stage"] == "answer" and job.text == "word0 word1 word2 "
    until(lambda: not children())
    assert answer(ask(runner, "next")) == "next "


def test_a_worker_that_reads_nothing_is_a_hang_too(make: Make) -> None:
    """The question is longer than a pipe holds: whoever writes it waits for the worker, and that is not the runner."""
    runner = make(silence_limit=0.6)
    answer(ask(runner, "load"))
    worker = psutil.Process(runner.status().engaged[0].pid)
    worker.suspend()
    try:
        job = ask(runner, "word " * 40_000)
        until(lambda: job.ended)
    finally:
        if worker.is_running():
            worker.resume()
    with pytest.raises(EngineHung) as hung:
        job.result()
    assert hung.value.facts["stage"] == "answer"
    assert answer(ask(runner, "next")) == "next "


def test_a_hang_in_a_load(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake: hang")
    runner = make(load_deadline=1.5)
    with pytest.raises(EngineHung) as hung:
        ask(runner, "hello").result()
    assert hung.value.facts["stage"] == "weights"
    until(lambda: not children())
    monkeypatch.delenv("FAKE_LOAD")
    assert answer(ask(runner, "hello")) == "hello "


@pytest.mark.parametrize("name", ["SIGKILL", "SIGABRT", "SIGSEGV"])
def test_a_death_in_a_load(make: Make, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("FAKE_LOAD", f"fake: die={name}")
    with pytest.raises(EngineDied) as died:
        ask(make(), "hello").result()
    assert died.value.facts == {"model": SMALL, "signal": name, "exit_code": died.value.facts["exit_code"],
                                "stage": "weights"}  # fmt: skip


def test_a_worker_that_cannot_be_started_leaves_nothing_loading(tmp_path: Path) -> None:
    starts = iter([OSError("no more processes"), None])

    def start() -> Worker:
        if failure := next(starts):
            raise failure
        return Worker(tmp_path / "engine.log")

    runner = Runner(FakeLibrary(tmp_path), Limits(), start)
    with pytest.raises(AppError):
        ask(runner, "hello").result()
    assert runner.status().loading is None
    assert answer(ask(runner, "hello")) == "hello "
    assert runner.close() and not children()


def test_cancel_during_a_load(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake: hang")
    runner = make()
    job = ask(runner, "hello")
    list(job_until(job, Loading))
    job.cancel()
    assert job.result().reason == "cancelled"  # type: ignore[union-attr]
    until(lambda: not children())


def test_running_out_of_memory_for_real(make: Make) -> None:
    runner = make()
    answer(ask(runner, "load"))
    import resource

    resource.prlimit(runner.status().engaged[0].pid, resource.RLIMIT_AS, (2 * GIB, 2 * GIB))
    job = ask(runner, f"fake: words=5 after=2 eat={4 * GIB}")
    with pytest.raises(OutOfMemory) as full:
        job.result()
    assert full.value.facts == {"model": SMALL, "stage": "answer"} and job.text == "word0 word1 "
    until(lambda: not children())
    assert answer(ask(runner, "next")) == "next "


@pytest.mark.parametrize("stage", ["answer", "weights"])
def test_a_worker_that_the_kernel_ends_for_want_of_memory(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """The kernel's part is played: its counter, and then its SIGKILL."""
    counter = tmp_path / "memory.events"
    counter.write_text("oom 1\noom_kill 1\n")
    monkeypatch.setattr(probe, "CGROUP", tmp_path)
    monkeypatch.setenv("FAKE_LOAD", "fake: hang" if stage == "weights" else "fake:")
    job = ask(make(), "fake: words=10000 delay=0.005")
    at = Delta if stage == "answer" else Loading
    list(job_until(job, at, lambda event: getattr(event, "stage", stage) == stage))
    counter.write_text("oom 2\noom_kill 2\n")
    children()[0].kill()
    with pytest.raises(OutOfMemory) as full:
        job.result()
    assert full.value.facts == {"model": SMALL, "stage": stage}


def test_an_earlier_kill_for_memory_is_not_blamed_again(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "CGROUP", tmp_path)
    runner = make()
    answer(ask(runner, "load"))
    (tmp_path / "memory.events").write_text("oom_kill 5\n")
    with pytest.raises(EngineDied):
        ask(runner, "fake: words=9 after=1 die=SIGKILL").result()


def test_an_unexpected_error_is_named_without_its_text(make: Make) -> None:
    runner = make()
    with pytest.raises(EngineFailed) as failed:
        ask(runner, "fake: words=5 after=1 error").result()
    assert failed.value.facts == {"model": SMALL, "stage": "answer", "kind": "RuntimeError"}
    assert answer(ask(runner, "next")) == "next "


def test_a_question_that_cannot_be_answered_leaves_the_worker_alone(make: Make) -> None:
    runner = make()
    answer(ask(runner, "load"))
    pid = runner.status().engaged[0].pid
    with pytest.raises(PromptTooLong) as long:
        ask(runner, "word " * 9000).result()
    assert long.value.facts["limit"] == 8192
    assert answer(ask(runner, "ok")) == "ok " and runner.status().engaged[0].pid == pid


class SmallCard(FakeLibrary):
    """A card on which the models that the runner says are loaded hold what was planned for them."""

    def admit(self, model: str, resident: Sequence[Resident], *wishes: Any) -> tuple[MemoryPlan, Load]:
        held = [Resident(one.model, plan_load(load_catalogue()[one.model], CARD).need.total) for one in resident]
        free = self.device.total - sum(one.bytes for one in held)
        plan = plan_load(load_catalogue()[model], replace(self.device, free=free), held)
        return plan, super().admit(model, held)[1]


@pytest.mark.parametrize(("gib", "stay"), [(8, {SMALL, LARGE}), (3, {LARGE})], ids=["room for both", "for one"])
def test_two_models_stay_when_the_plan_lets_them(tmp_path: Path, gib: int, stay: set[str]) -> None:
    card = replace(CARD, total=gib * GIB)
    runner = Runner(SmallCard(tmp_path, card), Limits(), lambda: Worker(tmp_path / "engine.log"))
    answer(ask(runner, "a", SMALL))
    assert answer(ask(runner, "b", LARGE)) == "b "
    assert {one.model for one in runner.status().engaged} == stay and len(children()) == len(stay)
    assert runner.close() and not children()


def test_a_neighbour_goes_when_the_plan_says_so(tmp_path: Path) -> None:
    class Full(FakeLibrary):
        def admit(self, model: str, resident: Sequence[Resident], *wishes: Any) -> tuple[MemoryPlan, Load]:
            plan, load = super().admit(model, ())
            return replace(plan, verdict="unload_first", evict=tuple(one.model for one in resident)), load

    runner = Runner(Full(tmp_path), Limits(), lambda: Worker(tmp_path / "engine.log"))
    answer(ask(runner, "a", SMALL))
    answer(ask(runner, "b", LARGE))
    assert [one.model for one in runner.status().engaged] == [LARGE] and len(children()) == 1
    assert runner.close() and not children()


class Weak(Worker):
    """A worker that dies in its load while it is asked for more than so many tokens of context."""

    limit = 4096

    def send(self, command: Command) -> None:
        if isinstance(command, Load) and command.settings.context > self.limit:
            return self.kill()
        super().send(command)


@pytest.mark.parametrize(("limit", "tries"), [(4096, 2), (1024, 2)], ids=["the second fits", "neither fits"])
def test_a_load_that_failed_is_tried_once_more_with_less(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int, tries: int
) -> None:
    monkeypatch.setattr(Weak, "limit", limit)
    library, started = FakeLibrary(tmp_path), []
    library.smaller = True

    def start() -> Worker:
        started.append(Weak(tmp_path / "engine.log"))
        return started[-1]

    runner = Runner(library, Limits(), start)
    job = ask(runner, "hello", LARGE)
    if limit == 4096:
        assert answer(job) == "hello "
        (engaged,) = runner.status().engaged
        assert engaged.plan.settings.context == 4096
        assert "smaller_after_failure" in [note.code for note in engaged.plan.reasons]
        assert [plan.settings.context for plan, _, _ in library.observed] == [4096]
    else:
        with pytest.raises(EngineDied):
            job.result()
    assert len(started) == tries
    assert runner.close() and not children()


def test_a_forced_load_goes_against_the_guards_word(make: Make) -> None:
    runner = make(replace(CARD, total=4 * GIB, free=2 * GIB))
    runner.load(LARGE, force=True).result()
    (engaged,) = runner.status().engaged
    assert engaged.plan.forced and answer(ask(runner, "hello", LARGE)) == "hello "


def test_a_refusal_carries_the_plan_and_starts_nothing(make: Make) -> None:
    runner = make(replace(CARD, total=4 * GIB, free=2 * GIB))
    with pytest.raises(NotEnoughMemory) as refused:
        ask(runner, "hello", LARGE).result()
    assert refused.value.facts["plan"].verdict == "refuse" and not children()


def test_load_and_unload_give_the_process_back(make: Make) -> None:
    runner = make()
    assert isinstance(runner.load(SMALL).result(), Ready) and len(children()) == 1
    assert isinstance(runner.load(SMALL).result(), Ready) and len(children()) == 1
    assert isinstance(runner.unload(SMALL).result(), Ready) and not children()


def test_an_idle_model_is_unloaded(make: Make) -> None:
    runner = make(idle_unload=0.5)
    answer(ask(runner, "hello"))
    until(lambda: runner.status().engaged == ())
    assert not children()
    assert answer(ask(runner, "back")) == "back "


def test_close_in_the_middle_of_an_answer_is_quick_and_keeps_it(make: Make) -> None:
    runner = make()
    job = ask(runner, "fake: words=100000 delay=0.005")
    waiting = ask(runner, "never")
    first_words(job)
    began = time.monotonic()
    assert runner.close() and time.monotonic() - began < 4
    assert job.result().reason == "cancelled" and job.text.startswith("word0 ")  # type: ignore[union-attr]
    assert waiting.result().reason == "cancelled"  # type: ignore[union-attr]
    assert not children()


def test_close_ends_a_worker_that_hangs(make: Make) -> None:
    runner = make()
    job = ask(runner, "fake: words=9 after=1 hang")
    first_words(job)
    assert runner.close() and not children()


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    import subprocess
    import sys

    program = (
        "import sys, time; from pathlib import Path; from engines.worker import *;"
        f"w = Worker(Path({str(tmp_path / 'log')!r})); print(w.pid, flush=True); time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        worker = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        until(lambda: ended(worker))


def test_many_askers_at_once_each_get_their_own_answer(make: Make) -> None:
    assert wrongly_answered(make(max_waiting=1000)) == [] and len(children()) == 1


def wrongly_answered(runner: Runner) -> list[object]:
    """What 16 askers got that was not theirs, in 8 turns each of which they stop every third."""
    wrong: list[object] = []

    def client(name: int) -> None:
        try:
            for turn in range(8):
                job = ask(runner, f"{name} {turn} x y z")
                if turn % 3 == 2:
                    job.cancel()
                    job.result()
                elif answer(job) != f"{name} {turn} x y z ":
                    wrong.append((name, turn, job.text))
        except AppError as error:
            wrong.append(error)

    threads = [threading.Thread(target=client, args=(n,)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return wrong


def test_one_who_asks_much_keeps_nobody_waiting_and_places_are_told(make: Make) -> None:
    runner = make(max_waiting=9, max_waiting_each=3)
    first = ask(runner, "fake: words=100000 delay=0.01", owner="a")
    first_words(first)
    many = [ask(runner, f"question {n}", owner="a") for n in range(3)]
    with pytest.raises(BusyWithYours):
        ask(runner, "one more", owner="a")
    one = ask(runner, "fake: words=100000 delay=0.01", owner="b")
    assert one.now_at == Waiting(1) and [job.now_at for job in many] == [Waiting(2), Waiting(3), Waiting(4)]
    first.cancel()
    first_words(one)
    assert not any(job.ended for job in many)
    assert [job.now_at for job in many] == [Waiting(1), Waiting(2), Waiting(3)]
    one.cancel()
    assert [answer(job) for job in many] == [f"question {n} " for n in range(3)]

"""Several questions at once: LMDeploy's own sessions, preprocessing and event loop, with threads as the worker has."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from engines import lmdeploy_stream
from engines.base import ImagePart, Usage
from engines.errors import Cancelled, EngineFailed
from engines.vision import LMDeployEngine
from tests.engines.vision_lmdeploy.conftest import Loader
from tests.engines.vision_lmdeploy.core import GREEDY, Core, user


class Asked:
    """A question in a thread of its own; `on` is told of its pieces as they come."""

    def __init__(self, engine: LMDeployEngine, *images: ImagePart, on: Callable[[str], None] = lambda text: None):
        self.spoke, self.waited, self._on, self._signs = threading.Event(), threading.Event(), on, 0
        self._usage: Future[Usage] = ThreadPoolExecutor(1).submit(
            engine.generate, [user("What?", *images)], GREEDY, self._emit
        )

    def _emit(self, text: str) -> None:
        self._signs += not text
        if text:
            self.spoke.set()
        if self._signs >= 3:
            self.waited.set()
        self._on(text)

    def usage(self) -> Usage:
        return self._usage.result(20)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lmdeploy_stream, "ALIVE_EVERY", 0.005)


def cancelled(text: str) -> None:
    raise Cancelled


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "the condition was not reached"
        time.sleep(0.005)


@pytest.mark.parametrize("backend", ["turbomind", "pytorch"])
def test_two_answers_run_side_by_side(backend: str, images: list[ImagePart], core: Core, load: Loader) -> None:
    engine, go = load(backend, max_batch=2), threading.Event()
    assert engine.parallel == 2
    core.scripts = [[500, go, 501, 502], [600, 601]]
    first = Asked(engine, images[0])
    assert first.spoke.wait(20)
    second = Asked(engine, images[1])
    assert second.usage().new_tokens == 2, "while the first is not over"
    go.set()
    assert (first.usage().new_tokens, first.usage().reason) == (3, "length")
    assert [len(one["multimodal"][0]["pixel_values"]) for one in core.requests] == [7, 1], "each its own image"
    assert not engine._pipe.session_mgr.sessions


def test_one_prompt_is_looked_at_at_a_time(images: list[ImagePart], core: Core, load: Loader) -> None:
    engine, go = load(max_batch=3), threading.Event()
    core.scripts = [[go, 500], [600], [700]]
    first = Asked(engine, images[0])
    until(lambda: core.requests)
    second, third = Asked(engine, images[1]), Asked(engine)
    assert second.waited.wait(20) and third.waited.wait(20), "they show that they live"
    assert len(core.requests) == 1
    go.set()
    assert [one.usage().new_tokens for one in (first, second, third)] == [1, 1, 1]


def test_one_that_waits_for_its_turn_is_stopped_at_once(images: list[ImagePart], core: Core, load: Loader) -> None:
    engine, go = load(max_batch=2), threading.Event()
    core.scripts = [[go, 500], [600]]
    first = Asked(engine, images[0])
    until(lambda: core.requests)
    assert (Asked(engine, images[1], on=cancelled).usage().reason, len(core.requests)) == ("cancelled", 1)
    go.set()
    assert first.usage().reason == "length"
    assert Asked(engine).usage().new_tokens == 1 and len(core.requests) == 2, "the stopped one was never asked"
    until(lambda: not engine._pipe.session_mgr.sessions)
    assert not core.aborted


def test_a_stop_ends_its_own_answer_alone(core: Core, load: Loader) -> None:
    engine, go, stop = load(max_batch=2), threading.Event(), threading.Event()
    core.scripts = [[500, go, 501], itertools.repeat(600)]
    first = Asked(engine)
    assert first.spoke.wait(20)

    def on(text: str) -> None:
        if stop.is_set():
            raise Cancelled

    second = Asked(engine, on=on)
    assert second.spoke.wait(20)
    stop.set()
    assert second.usage().reason == "cancelled" and second.usage().new_tokens > 0
    go.set()
    assert (first.usage().reason, first.usage().new_tokens) == ("length", 2)


def test_after_one_that_failed_in_its_prompt_the_next_has_its_turn(core: Core, load: Loader) -> None:
    engine = load(max_batch=2)
    core.scripts = [[RuntimeError("CUDA error")], [600]]
    with pytest.raises(EngineFailed):
        Asked(engine).usage()
    assert Asked(engine).usage().new_tokens == 1


def test_prompts_are_made_right_in_many_threads(images: list[ImagePart], core: Core, load: Loader) -> None:
    engine = load(max_batch=4)
    core.script = range(500, 530)
    alone = [Asked(engine, image).usage() for image in images]
    prompts = {tuple(one["input_ids"]) for one in core.requests}
    asked = [Asked(engine, images[n % 3]) for n in range(24)]
    for n, one in enumerate(asked):
        assert (one.usage().new_tokens, one.usage().prompt_tokens) == (30, alone[n % 3].prompt_tokens)
    assert {tuple(one["input_ids"]) for one in core.requests} == prompts and len(core.requests) == 27

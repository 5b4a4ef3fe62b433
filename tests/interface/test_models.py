"""The models tab's cards, for loads that end badly, wait, or are refused; with the scripted engine."""

from __future__ import annotations

import html
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import gradio as gr
import pytest

from configs.load import load_catalogue, load_config
from engines.base import GenerationSettings
from engines.library import Library
from interface.cards import CardEvents
from interface.desk import Desk, LoginDesk
from interface.models import BUSY_TICK, IDLE_TICK, ModelEvents

SMALL, LARGE = load_catalogue().ids[:2]
REQUEST = gr.Request(headers={}, cookies={})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LoginDesk]:
    config = load_config({"data": tmp_path}, {})
    config = replace(config, limits=replace(config.limits, max_waiting=1))
    desk = Desk.open(Library(config, load_catalogue(), fake=True)).of(None)
    yield desk
    desk.close()


def until(condition: Callable[[], object], seconds: float = 15) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition was not reached"
        time.sleep(0.01)


def card(desk: LoginDesk) -> str:
    """The small model's card."""
    return html.unescape(CardEvents(desk).card(desk.library.spec(SMALL), "en"))


def tick(desk: LoginDesk) -> float:
    return float(ModelEvents(desk).refresh(REQUEST, SMALL)[-1].value)


def answering(desk: LoginDesk) -> str:
    """A conversation whose answer keeps the engine busy."""
    conversation = desk.store.create(LARGE, "", GenerationSettings(max_new_tokens=30_000))
    desk.answers.ask(conversation, "fake: words=100000 delay=0.01")
    until(lambda: desk.runner.status().engaged)
    return conversation


def test_a_load_that_fails_says_why_until_one_succeeds(desk: LoginDesk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_LOAD", "fake: die=SIGKILL")
    CardEvents(desk).load(SMALL)
    until(lambda: not desk.loads.busy)
    assert "The engine stopped." in card(desk) and "here" in card(desk)
    monkeypatch.delenv("FAKE_LOAD")
    CardEvents(desk).load(SMALL)
    until(lambda: not desk.loads.busy)
    assert "loaded" in card(desk) and "The engine stopped" not in card(desk)


def test_a_load_that_waits_is_loading_and_keeps_the_page_awake(desk: LoginDesk) -> None:
    conversation = answering(desk)
    assert tick(desk) == IDLE_TICK
    CardEvents(desk).load(SMALL)
    assert "state loading" in card(desk) and tick(desk) == BUSY_TICK
    answer = desk.answers.of(conversation)
    assert answer is not None
    answer.job.cancel()
    until(lambda: not desk.loads.busy)
    assert "state loaded" in card(desk) and tick(desk) == IDLE_TICK


def test_a_load_that_the_queue_refuses_says_so(desk: LoginDesk) -> None:
    answering(desk)
    desk.runner.unload(LARGE)
    CardEvents(desk).load(SMALL)
    assert "Too many are waiting" in card(desk) and "state ready" in card(desk)

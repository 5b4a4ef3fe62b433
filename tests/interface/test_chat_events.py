"""The chat tab's handlers, called as the page calls them, with the scripted engine in a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from configs.load import load_catalogue, load_config
from engines.errors import EngineDied
from engines.library import Library
from interface.bubbles import EARLIER, SHOWN, STEP, bubbles, pause
from interface.chat_events import ChatEvents
from interface.desk import Desk, LoginDesk
from interface.history import StoredMessage
from interface.messages import record
from interface.render import status_html

MODEL = "smollm2-135m-instruct"
HELD_WITH: tuple[Any, ...] = (MODEL, "", 0.2, 0.9, 1.1, 1024, -1)
REQUEST = gr.Request(headers={}, cookies={})


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LoginDesk]:
    desk = Desk.open(Library(load_config({"data": tmp_path}, {}), load_catalogue(), fake=True)).of(None)
    yield desk
    desk.close()


@pytest.fixture
def events(desk: LoginDesk) -> ChatEvents:
    return ChatEvents(desk)


def asked(events: ChatEvents, text: str, conversation: str = "", seen: str = "") -> str:
    """Asks; the conversation's id."""
    _, id, notice = events.ask(REQUEST, text, conversation, seen, *HELD_WITH)
    assert notice == ""
    return id


def followed(events: ChatEvents, conversation: str) -> list[tuple[Any, ...]]:
    return list(events.follow(REQUEST, conversation, MODEL))


def texts(shown: tuple[Any, ...]) -> list[str]:
    return [one["content"] for one in shown[0]]


def change(index: int, before: str, after: str) -> gr.EditData:
    return gr.EditData(None, {"index": index, "previous_value": before, "value": after})


def test_a_page_shows_an_answer_that_could_not_be_saved_and_says_so(desk: LoginDesk, events: ChatEvents) -> None:
    id = asked(events, "fake: words=3 prefill=0.5")
    desk.store.file._file.execute("PRAGMA query_only = 1")
    end = followed(events, id)[-1]
    assert texts(end)[-1] == "word0 word1 word2 " and "This chat is not being saved" in end[1]
    desk.store.file._file.execute("PRAGMA query_only = 0")
    end = followed(events, id)[-1]
    assert texts(end)[-1] == "word0 word1 word2 " and "not being saved" not in end[1]


def test_a_store_that_cannot_be_read_is_said_and_takes_stop_away(
    desk: LoginDesk, events: ChatEvents, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = asked(events, "fake: words=3 prefill=0.3")
    follower = events.follow(REQUEST, id, MODEL)
    next(follower)
    desk.store.file._db.execute("ALTER TABLE messages RENAME TO lost")
    _chat, status, send, stop, *_ = list(follower)[-1]
    assert "Conversations cannot be saved" in status and send["visible"] is True and stop["visible"] is False
    desk.store.file._db.execute("ALTER TABLE conversations RENAME TO gone")
    assert events.open(REQUEST, id)[0] == id


def test_an_edit_asks_the_edited_question(desk: LoginDesk, events: ChatEvents) -> None:
    id = asked(events, "  one <b> ")
    followed(events, id)
    assert events.edit(REQUEST, change(0, "one &#00060;b>", "two &#00060;i>"), id, "", "", *HELD_WITH) == ""
    assert texts(followed(events, id)[-1]) == ["two &#00060;i>", "two &#00060;i> "]


def test_an_edit_to_nothing_asks_nothing(desk: LoginDesk, events: ChatEvents) -> None:
    id = asked(events, "one")
    followed(events, id)
    assert events.edit(REQUEST, change(0, "one", " \n "), id, "", "", *HELD_WITH) == ""
    assert texts(followed(events, id)[-1]) == ["one", "one "]


@pytest.mark.parametrize(("index", "shown"), [(2, "three"), (0, "another"), (1, "one "), (9, "one")])
def test_a_page_that_shows_something_else_cannot_edit(events: ChatEvents, index: int, shown: str) -> None:
    id = asked(events, "one")
    followed(events, id)
    assert "The conversation has changed" in events.edit(REQUEST, change(index, shown, "new"), id, "", "", *HELD_WITH)
    assert texts(followed(events, id)[-1]) == ["one", "one "]


def test_what_ended_an_answer_stands_below_its_unfinished_code_block() -> None:
    stopped = StoredMessage(1, "assistant", "```python\nretu", "stopped", None, None)
    assert bubbles(stopped, "en")[0]["content"] == "```python\nretu\n```\n\n*Stopped*"
    error = record(EngineDied(model="m", signal="SIGKILL", exit_code=-9, stage="answer"))
    failed = StoredMessage(1, "assistant", "```python\nretu", "failed", None, error)
    assert bubbles(failed, "en")[0]["content"].startswith("```python\nretu\n```\n\n> **The engine stopped.**")
    assert bubbles(StoredMessage(1, "assistant", "", "stopped", None, None), "en")[0]["content"].strip() == "*Stopped*"


def test_a_slow_model_does_not_go_back_to_reading(events: ChatEvents) -> None:
    shown = followed(events, asked(events, "fake: words=3 delay=0.4 prefill=0.4"))
    growing = [status for chat, status, *_ in shown[:-1] if chat[-1]["role"] == "assistant"]
    assert any("Reading the conversation" in status for _, status, *_ in shown)
    assert set(growing) == {status_html("Answering")}


def test_of_a_long_conversation_the_newest_is_drawn_and_the_rest_on_request(desk: Desk, events: ChatEvents) -> None:
    id = asked(events, "question 0")
    followed(events, id)
    for n in range(1, 40):
        desk.store.add(id, "user", f"question {n}")
        desk.store.add(id, "assistant", f"answer {n}")
    chat, *_, feet, _meter, _seen = followed(events, id)[-1]
    first = 80 - len(chat)
    assert chat[0]["content"] == f"question {first // 2}" and SHOWN <= len(chat) < SHOWN + STEP + 2
    assert f'data-do="earlier" data-row="{max(0, first - EARLIER)}"' in feet and f"{first} earlier" in feet
    assert f'data-at="{len(chat) - 1}"' in feet and f'data-at="{len(chat)}"' not in feet

    pressed = gr.EventData(None, {"do": "earlier", "row": "0"})
    assert events.act(REQUEST, pressed, id, "", *HELD_WITH) == ("", "0")
    (whole,) = events.follow(REQUEST, id, MODEL, "0")
    assert len(whole[0]) == 80 and "earlier" not in whole[4]

    # The places that an edit names are the page's.
    other = change(0, f"question {first // 2}", "another")
    assert "has changed" in events.edit(REQUEST, other, id, "", "0", *HELD_WITH)
    assert events.edit(REQUEST, other, id, "", "", *HELD_WITH) == ""
    assert texts(followed(events, id)[-1])[-2] == "another"


def test_a_long_answer_is_drawn_less_often() -> None:
    assert pause(0, 20) == pause(10_000, 20) == 0.05
    assert pause(40_000, 20) == 0.2

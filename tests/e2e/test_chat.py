"""The chat tab as a person meets it, with the scripted engine behind the real launch.py."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from pathlib import Path

import pytest
from playwright.sync_api import expect

from engines.base import GenerationSettings
from interface.history import History
from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, questions, say, settled, stop_button
from tools.served import Served

LONG = "fake: words=400 delay=0.1"


def test_an_answer_streams_and_then_says_what_it_took(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, "fake: words=100 delay=0.1")
    expect(answers(page).last).to_contain_text("word3 ")
    expect(answers(page).last).not_to_contain_text("word99")
    expect(answers(page).last).to_contain_text("word99")
    expect(page.locator("#chat .usage").last).to_contain_text(
        re.compile(r"100 tokens · \d+\.\d per second · first after")
    )
    expect(page.get_by_label("Message", exact=True)).to_have_value("")
    settled(page)


def test_stop_keeps_what_was_said_and_the_next_question_works_at_once(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word5 ")
    stop_button(page).click()
    settled(page)
    expect(answers(page).last).to_contain_text("Stopped")
    say(page, "and now this")
    expect(answers(page)).to_have_count(2)
    expect(answers(page).last).to_contain_text("and now this")
    expect(answers(page).first).to_contain_text("word5 ")
    expect(answers(page).first).not_to_contain_text("word399")


def test_regenerate_edit_undo_and_a_new_chat(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "fake: words=17")
    expect(answers(page).last).to_contain_text("word16")

    # A shorter answer shows that it is another one.
    page.locator("#settings .toggle-button").click()
    page.get_by_label("number input for Longest answer, in tokens").fill("16")
    page.locator("#settings .toggle-button").click()
    page.get_by_label("Retry").last.click()
    expect(answers(page).last).to_contain_text("The longest answer allowed was reached")
    expect(answers(page).last).not_to_contain_text("word16")
    expect(answers(page)).to_have_count(1)
    expect(questions(page)).to_have_count(1)

    page.get_by_label("Edit").first.click()
    page.locator("#chat textarea").fill("a better <b>question</b>")
    page.get_by_label("Submit").first.click()
    expect(answers(page).last).to_contain_text("a better <b>question</b>")
    expect(questions(page)).to_have_count(1)

    page.get_by_label("Undo").last.click()
    expect(questions(page)).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("a better <b>question</b>")

    page.get_by_label("Message", exact=True).press("Enter")
    settled(page)
    page.get_by_label("Edit").first.click()
    expect(page.locator("#chat textarea")).to_have_value("a better <b>question</b>")
    page.get_by_label("Cancel").first.click()
    page.get_by_role("button", name="New chat").click()
    expect(questions(page)).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/$"))

    ask(page, "to be cleared")
    page.get_by_role("button", name="Clear", exact=True).click()
    expect(questions(page)).to_have_count(0)
    ask(page, "a fresh start")
    expect(questions(page)).to_have_count(1)


def test_an_edit_on_a_page_that_is_behind_is_refused(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "one")
    expect(page).to_have_url(re.compile(r"\?c="))
    other = open_page(page.url)
    expect(questions(other)).to_have_text(["one"])
    other.get_by_label("Undo").last.click()
    expect(questions(other)).to_have_count(0)
    page.get_by_label("Edit").first.click()
    page.locator("#chat textarea").fill("two")
    page.get_by_label("Submit").first.click()
    expect(page.locator("#notice")).to_contain_text("The conversation has changed")
    expect(questions(page)).to_have_count(0)
    settled(page)


@pytest.mark.parametrize("leave", ["New chat", "Clear"])
def test_a_new_chat_leaves_the_answer_that_is_growing(fake: Served, open_page: OpenPage, leave: str) -> None:
    page = open_page(fake.url)
    say(page, "fake: words=150 delay=0.1")
    expect(answers(page).last).to_contain_text("word3 ")
    page.get_by_role("button", name=leave, exact=True).click()
    settled(page)
    expect(questions(page)).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/$"))
    say(page, "something else")
    # It waits for the answer that was left: were that one still followed, it would be drawn again by now.
    expect(page.locator("#status")).to_contain_text("Waiting: 1 before you")
    expect(questions(page)).to_have_text(["something else"])
    expect(answers(page)).to_have_text(["something else"], timeout=60_000)
    settled(page)
    expect(questions(page)).to_have_text(["something else"])


def test_what_cut_an_answer_short_is_not_part_of_its_code(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.locator("#settings .toggle-button").click()
    page.get_by_label("number input for Longest answer, in tokens").fill("16")
    page.locator("#settings .toggle-button").click()
    ask(page, "```python\n" + " ".join(f"word{n}" for n in range(30)))
    expect(answers(page).last.locator("pre")).to_contain_text("word14")
    expect(answers(page).last.locator("em")).to_have_text("The longest answer allowed was reached.")
    expect(answers(page).last.locator("pre")).not_to_contain_text("longest")


def test_two_pages_ask_at_once_and_one_waits_with_its_position(fake: Served, open_page: OpenPage) -> None:
    one, two, three = (open_page(fake.url) for _ in range(3))
    say(one, "fake: words=500 delay=0.1")
    expect(answers(one).last).to_contain_text("word3 ")
    say(two, "second in line")
    expect(two.locator("#status")).to_contain_text("Waiting: 1 before you")
    say(three, "third in line")
    expect(three.locator("#status")).to_contain_text("Waiting: 2 before you")
    stop_button(two).click()
    expect(answers(two).last).to_contain_text("Stopped")
    expect(three.locator("#status")).to_contain_text("Waiting: 1 before you")
    stop_button(one).click()
    expect(answers(three).last).to_contain_text("third in line")


def test_a_killed_worker_is_named_in_the_conversation_and_the_next_question_answered(
    fake: Served, open_page: OpenPage
) -> None:
    page = open_page(fake.url)
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word5 ")
    (worker,) = fake.workers()
    os.kill(worker.pid, signal.SIGKILL)
    expect(answers(page).last).to_contain_text("The engine stopped")
    expect(answers(page).last).to_contain_text("SIGKILL")
    expect(answers(page).last).to_contain_text("word5 ")
    settled(page)
    say(page, "are you back?")
    expect(answers(page).last).to_contain_text("are you back?")


def test_a_reload_finds_the_answer_still_growing(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, "fake: words=200 delay=0.1")
    expect(answers(page).last).to_contain_text("word9 ")
    page.reload()
    expect(answers(page).last).to_contain_text("word0 word1 word2 ")
    expect(stop_button(page)).to_be_visible()
    expect(answers(page).last).to_contain_text("word199", timeout=60_000)
    settled(page)
    page.reload()
    expect(answers(page).last).to_contain_text("word199")
    expect(page.locator("#chat .usage").last).to_contain_text("200 tokens")


def test_a_second_question_while_one_is_answered_is_not_lost(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word3 ")
    say(page, "too early")
    expect(page.locator("#notice")).to_contain_text("Still answering")
    expect(page.get_by_label("Message", exact=True)).to_have_value("too early")
    stop_button(page).click()
    settled(page)
    page.get_by_label("Message", exact=True).press("Enter")
    expect(answers(page).last).to_contain_text("too early")
    expect(page.locator("#notice")).not_to_contain_text("Still answering")


def test_a_message_that_is_too_long_is_refused_with_its_size(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, "word " * 9000)
    expect(answers(page).last).to_contain_text("That message is too long")
    expect(answers(page).last).to_contain_text("9,000 tokens")
    expect(answers(page).last).to_contain_text("8,192 fit")


def test_an_example_is_asked_with_a_click(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.get_by_text("Write a short poem about autumn.").click()
    expect(answers(page).last).to_contain_text("Write a short poem about autumn.")


def test_the_settings_go_with_the_conversation(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    expect(page.get_by_label("number input for Temperature")).to_have_value("0.2")
    page.locator("#settings .toggle-button").click()
    page.get_by_label("number input for Temperature").fill("1.3")
    page.get_by_label("System prompt").fill("Be brief.")
    ask(page, "hello")
    page.reload()
    expect(answers(page)).to_have_count(1)
    expect(page.get_by_label("number input for Temperature")).to_have_value("1.3")
    expect(page.get_by_label("System prompt")).to_have_value("Be brief.")
    page.locator("#settings .toggle-button").click()
    page.get_by_role("button", name="The model's own settings").click()
    expect(page.get_by_label("number input for Temperature")).to_have_value("0.2")


def test_what_is_said_is_in_the_store_when_the_app_is_ended_in_mid_answer(tmp_path: Path, open_page: OpenPage) -> None:
    app = Served(tmp_path, "--fake")
    page = open_page(app.url)
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word9 ")
    page.context.close()
    assert app.stop() == 0, app.output
    with sqlite3.connect(tmp_path / "conversations.sqlite3") as db:
        rows = db.execute("SELECT role, text, status FROM messages ORDER BY id").fetchall()
    assert rows[0] == ("user", LONG, "complete")
    assert rows[1][1].startswith("word0 word1 ") and rows[1][2] == "stopped"


def test_a_long_conversation_is_drawn_from_its_newest_turns_and_earlier_ones_on_request(
    fake: Served, open_page: OpenPage
) -> None:
    file = History(fake.data / "conversations.sqlite3", fake.data / "images")
    store = file.of("")
    conversation = store.create("smollm2-135m-instruct", "", GenerationSettings())
    with store.transaction():
        for n in range(40):
            store.add(conversation, "user", f"question {n}.")
            store.add(conversation, "assistant", f"answer {n}. " * 40)
    file.close()
    page = open_page(f"{fake.url}?c={conversation}")
    expect(answers(page).last).to_contain_text("answer 39.")
    expect(questions(page).filter(has_text="question 9.")).to_have_count(0)
    first = (questions(page).first.text_content() or "").strip()
    page.get_by_role("button", name="earlier messages").click()
    expect(questions(page)).to_have_count(40)
    # The reader is where she was, and reads up from there.
    expect(questions(page).filter(has_text=first)).to_be_in_viewport()
    expect(questions(page).first).not_to_be_in_viewport()
    expect(page.get_by_role("button", name="earlier messages")).to_be_hidden()
    ask(page, "and now?")
    expect(questions(page)).to_have_count(41)
    page.reload()
    expect(answers(page).last).to_contain_text("and now?")
    expect(page.get_by_role("button", name="earlier messages")).to_be_visible()

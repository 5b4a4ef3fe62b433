"""The conversations at the side of the page: found, opened, renamed, pinned and deleted, with the scripted engine."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, questions, say, settled, stop_button
from tests.e2e.test_page import overflow
from tools.served import Served

LONG = "fake: words=400 delay=0.1"
DAY = 86400


@pytest.fixture(autouse=True)
def _nothing_said_before(fake: Served) -> Iterator[None]:
    """Each test begins with an empty list; the app reads its file afresh each time."""
    yield
    with sqlite3.connect(fake.data / "conversations.sqlite3", timeout=10) as db:
        db.execute("UPDATE conversations SET deleted = 1")


def entries(page: Page) -> Locator:
    return page.locator("#history-list li")


def entry(page: Page, title: str) -> Locator:
    return entries(page).filter(has_text=title)


def link(page: Page, title: str) -> Locator:
    return entry(page, title).get_by_role("link")


def do(page: Page, what: str, title: str) -> None:
    """Presses one of an entry's buttons, which come up under the pointer."""
    entry(page, title).hover()
    entry(page, title).get_by_role("button", name=re.compile(f"^{what}")).click()


def new(page: Page) -> None:
    page.get_by_role("button", name="New conversation").click()
    expect(questions(page)).to_have_count(0)
    settled(page)


def search(page: Page, text: str) -> None:
    page.get_by_label("Search conversations").fill(text)


def toggle(page: Page) -> Locator:
    return page.get_by_role("button", name="Conversations", exact=True)


def written(app: Served, *said: str, days: float = 0, kind: str = "text") -> None:
    """A conversation of so many days ago, as the app's file has it; questions without answers."""
    then = time.time() - days * DAY
    id = f"written-{time.monotonic_ns()}"
    model = "internlm2-chat-1_8b" if kind == "text" else "internvl2-2b"
    with sqlite3.connect(app.data / "conversations.sqlite3", timeout=10) as db:
        db.execute(
            "INSERT INTO conversations (id, title, model, system, settings, created, updated, kind)"
            " VALUES (?, ?, ?, '', '{}', ?, ?, ?)", (id, said[0], model, then, then, kind),
        )  # fmt: skip
        for text in said:
            db.execute(
                "INSERT INTO messages (conversation, parent, role, text, status, created)"
                " SELECT id, head, 'user', ?, 'complete', ? FROM conversations WHERE id = ?", (text, then, id),
            )  # fmt: skip
            db.execute("UPDATE conversations SET head = last_insert_rowid() WHERE id = ?", (id,))


# -- listed and opened -------------------------------------------------------------------------------------------------


def test_conversations_stand_by_date_in_the_readers_language_and_time(fake: Served, open_page: OpenPage) -> None:
    for days, text in (
        (0, "one of today"),
        (1, "of yesterday"),
        (6, "last week"),
        (20, "last month"),
        (800, "long ago"),
    ):
        written(fake, text, days=days)
    page = open_page(fake.url, timezone_id="Asia/Shanghai")
    expect(page.locator("#history-list h3")).to_have_text(
        ["Today", "Yesterday", "Previous 7 days", "Previous 30 days", re.compile(r"^[A-Z][a-z]+ 20\d\d$")]
    )
    expect(entries(page)).to_have_count(5)
    expect(entries(page).first).to_contain_text("one of today")
    chinese = open_page(fake.url, locale="zh-CN", timezone_id="Pacific/Kiritimati")
    expect(chinese.locator("#history-list h3").last).to_have_text(re.compile(r"^20\d\d年\d+月$"))
    assert (
        "今天" in chinese.locator("#history-list").inner_text()
        or "昨天" in chinese.locator("#history-list").inner_text()
    )


def test_what_is_asked_is_listed_at_once_and_marked_while_it_is_answered(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    expect(page.locator("#history-list")).to_contain_text("What you ask is kept here.")
    say(page, LONG)
    expect(link(page, LONG)).to_have_class(re.compile("growing"))
    expect(link(page, LONG)).to_have_attribute("aria-current", "page")
    expect(link(page, LONG)).to_have_accessible_name(f"{LONG} , answering")
    stop_button(page).click()
    expect(link(page, LONG)).not_to_have_class(re.compile("growing"))


def test_a_click_opens_a_conversation_and_the_address_follows(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "the first")
    first = page.url
    new(page)
    ask(page, "the second")
    page.evaluate("window.same = true")
    link(page, "the first").click()
    expect(questions(page)).to_have_text(["the first"])
    expect(answers(page)).to_have_text(["the first"])
    expect(page).to_have_url(first)
    expect(link(page, "the first")).to_have_attribute("aria-current", "page")
    expect(link(page, "the second")).not_to_have_attribute("aria-current", "page")
    ask(page, "and on")
    expect(questions(page)).to_have_count(2)
    assert page.evaluate("window.same")


def test_an_open_answer_is_left_and_found_again_still_growing(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "a quiet one")
    new(page)
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word3 ")
    for _ in range(2):
        link(page, "a quiet one").click()
        expect(answers(page)).to_have_text(["a quiet one"])
        settled(page)
        link(page, LONG).click()
        expect(answers(page).last).to_contain_text("word0 word1 ")
        expect(stop_button(page)).to_be_visible()
    expect(link(page, LONG)).to_have_class(re.compile("growing"))
    stop_button(page).click()
    settled(page)
    expect(link(page, LONG)).not_to_have_class(re.compile("growing"))


def test_the_last_of_two_quick_clicks_is_what_is_shown(fake: Served, open_page: OpenPage) -> None:
    for text in ("alpha", "beta", "gamma"):
        written(fake, text)
    page = open_page(fake.url)
    for text in ("alpha", "beta", "gamma", "beta"):
        link(page, text).click()
    expect(questions(page)).to_have_text(["beta"])
    expect(link(page, "beta")).to_have_attribute("aria-current", "page")


def test_a_conversation_about_images_opens_in_its_tab_and_back(fake: Served, open_page: OpenPage) -> None:
    written(fake, "a question about a picture", kind="vision")
    written(fake, "a question without")
    page = open_page(fake.url)
    link(page, "about a picture").click()
    expect(page.get_by_role("tab", name="Image Q&A")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#image-chat").get_by_test_id("user")).to_have_text(["a question about a picture"])
    expect(page).to_have_url(re.compile(r"i=written.*tab=images|tab=images.*i=written"))
    expect(link(page, "about a picture")).to_have_attribute("aria-current", "page")
    link(page, "question without").click()
    expect(page.get_by_role("tab", name="Chat")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#chat").get_by_test_id("user")).to_have_text(["a question without"])
    expect(link(page, "question without")).to_have_attribute("aria-current", "page")


def test_a_new_conversation_from_the_models_tab(fake: Served, open_page: OpenPage) -> None:
    written(fake, "something old")
    page = open_page(fake.url)
    link(page, "something old").click()
    expect(questions(page)).to_have_count(1)
    page.get_by_role("tab", name="Models").click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_be_visible()
    page.get_by_role("button", name="New conversation").click()
    expect(page.get_by_role("tab", name="Chat")).to_have_attribute("aria-selected", "true")
    expect(questions(page)).to_have_count(0)


# -- searched ----------------------------------------------------------------------------------------------------------


def test_search_in_chinese_shows_where_it_was_said(fake: Served, open_page: OpenPage) -> None:
    written(fake, "请教一个问题", "在函数里，什么是递归，recursion？")
    written(fake, "今天天气如何")
    page = open_page(fake.url, locale="zh-CN")
    expect(entries(page)).to_have_count(2)
    for query in ("递", "递归", "什么是递归", "函数 RECUR"):
        page.get_by_label("搜索对话").fill(query)
        expect(entries(page)).to_have_count(1)
        expect(entries(page).locator("mark").first).to_have_text(re.compile(query.split()[0], re.IGNORECASE))
        page.get_by_label("搜索对话").fill("没有这个词")
        expect(page.locator("#history-list")).to_contain_text("没有找到")
    page.get_by_label("搜索对话").fill("")
    expect(entries(page)).to_have_count(2)


def test_what_was_written_is_shown_as_written(fake: Served, open_page: OpenPage) -> None:
    written(fake, '<img src=x onerror=alert(1)> & "quotes" `${1+1}` {{x}}')
    page = open_page(fake.url)
    expect(entries(page)).to_have_text(['<img src=x onerror=alert(1)> & "quotes" `${1+1}` {{x}}'])
    search(page, '"quotes" <img')
    expect(entries(page).locator("mark").first).to_have_text("<img")


def test_a_long_list_comes_in_pages(fake: Served, open_page: OpenPage) -> None:
    for number in range(65):
        written(fake, f"number {number}", days=number / 100)
    page = open_page(fake.url)
    expect(entries(page)).to_have_count(60)
    page.get_by_role("button", name="Show more").click()
    expect(entries(page)).to_have_count(65)
    expect(page.get_by_role("button", name="Show more")).to_have_count(0)


# -- changed -----------------------------------------------------------------------------------------------------------


def test_a_new_name_is_kept(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "a dull question")
    do(page, "Rename", "a dull question")
    box = page.locator("#history-list li input")
    expect(box).to_be_focused()
    expect(box).to_have_value("a dull question")
    box.fill("Never mind")
    box.press("Escape")
    expect(entries(page)).to_have_text(["a dull question"])
    do(page, "Rename", "a dull question")
    box.fill("一个<b>好</b>名字")
    box.press("Enter")
    expect(entries(page)).to_have_text(["一个<b>好</b>名字"])
    ask(page, "another question")
    page.reload()
    expect(entries(page)).to_have_text(["一个<b>好</b>名字"])
    expect(questions(page)).to_have_count(2)


def test_pinned_ones_stay_on_top(fake: Served, open_page: OpenPage) -> None:
    written(fake, "an old one", days=50)
    written(fake, "a newer one")
    page = open_page(fake.url)
    do(page, "Pin", "an old one")
    expect(page.locator("#history-list h3").first).to_have_text("Pinned")
    expect(entries(page).first).to_contain_text("an old one")
    page.reload()
    expect(entries(page).first).to_contain_text("an old one")
    do(page, "Unpin", "an old one")
    expect(entries(page).first).to_contain_text("a newer one")
    expect(page.locator("#history-list h3").first).to_have_text("Today")


def test_what_was_deleted_can_be_brought_back_where_it_was(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "not for ever")
    address = page.url
    do(page, "Delete", "not for ever")
    expect(page.get_by_role("status").filter(has_text="Deleted: not for ever")).to_be_visible()
    expect(questions(page)).to_have_count(0)
    expect(page).to_have_url(re.compile(r"/$"))
    expect(entries(page)).to_have_count(0)
    page.locator(".gone").get_by_role("button", name="Undo").click()
    expect(entries(page)).to_have_text(["not for ever"])
    expect(questions(page)).to_have_text(["not for ever"])
    expect(page).to_have_url(address)
    do(page, "Delete", "not for ever")
    expect(entries(page)).to_have_count(0)
    page.goto(address)
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    expect(page).to_have_url(re.compile(r"/$"))


def test_the_way_back_ends(fake: Served, open_page: OpenPage) -> None:
    written(fake, "the first")
    written(fake, "the second")
    page = open_page(fake.url)
    do(page, "Delete", "the first")
    expect(page.locator("#history-list .gone")).to_contain_text("the first")
    do(page, "Delete", "the second")
    expect(page.locator("#history-list .gone")).to_have_text("Deleted: the secondUndo")
    expect(page.locator("#history-list .gone")).to_have_count(0, timeout=20_000)


def test_deleting_a_conversation_stops_its_answer(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word3 ")
    do(page, "Delete", LONG)
    expect(questions(page)).to_have_count(0)
    settled(page)
    ask(page, "who is next?")  # at once, not after 400 words
    expect(answers(page)).to_have_text(["who is next?"])
    with sqlite3.connect(fake.data / "conversations.sqlite3", timeout=10) as db:
        (status,) = db.execute("SELECT status FROM messages WHERE text LIKE 'word0 word1%' ORDER BY id DESC").fetchone()
    assert status == "stopped"


def test_a_second_page_sees_what_the_first_does(fake: Served, open_page: OpenPage) -> None:
    one, two = open_page(fake.url), open_page(fake.url)
    ask(one, "said on one page")
    expect(entries(two)).to_have_text(["said on one page"])
    link(two, "said on one page").click()
    expect(questions(two)).to_have_count(1)
    do(one, "Delete", "said on one page")
    expect(entries(two)).to_have_count(0)
    say(two, "on the second page")  # what it showed is gone: it asks in a new conversation
    expect(questions(two)).to_have_text(["on the second page"])


# -- keyboard, and narrow pages ----------------------------------------------------------------------------------------


def test_the_list_by_keyboard(fake: Served, open_page: OpenPage) -> None:
    for text in ("the upper", "the lower"):
        written(fake, text, days=1 if "lower" in text else 0)
    page = open_page(fake.url)
    link(page, "the upper").focus()
    page.keyboard.press("ArrowDown")
    expect(link(page, "the lower")).to_be_focused()
    page.keyboard.press("Enter")
    expect(questions(page)).to_have_text(["the lower"])
    link(page, "the lower").focus()
    page.keyboard.press("Tab")
    expect(entry(page, "the lower").get_by_role("button", name=re.compile("^Pin"))).to_be_focused()
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("F2")
    page.keyboard.type("renamed")
    page.keyboard.press("Enter")
    expect(link(page, "renamed")).to_be_focused()
    page.keyboard.press("Delete")
    expect(page.locator("#history-list .gone button")).to_be_focused()
    page.keyboard.press("Enter")
    expect(entries(page)).to_have_count(2)


def test_it_stays_as_it_was_left(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    expect(page.get_by_label("Search conversations")).to_be_visible()
    expect(toggle(page)).to_have_attribute("aria-expanded", "true")
    toggle(page).click()
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    page.reload()
    expect(page.locator("#model-state .state")).to_be_visible()
    expect(toggle(page)).to_have_attribute("aria-expanded", "false")
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    toggle(page).click()
    expect(page.get_by_label("Search conversations")).to_be_visible()
    assert overflow(page) <= 0


def test_on_a_phone_it_lies_over_the_page_and_goes_away(fake: Served, open_page: OpenPage) -> None:
    for text in ("one", "two", "three"):
        written(fake, text)
    page = open_page(fake.url, viewport={"width": 390, "height": 780}, has_touch=True, is_mobile=True)
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    toggle(page).click()
    expect(entries(page)).to_have_count(3)
    link(page, "two").click()
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    expect(questions(page)).to_have_text(["two"])
    toggle(page).click()
    page.get_by_role("button", name="What to do with “two”").click()
    entry(page, "two").get_by_role("button", name="Delete “two”").click()
    expect(entries(page)).to_have_count(2)
    page.locator("#chat").click(position={"x": 350, "y": 300})
    expect(page.get_by_label("Search conversations")).to_be_hidden()
    assert overflow(page) <= 0

"""The conversation's body: versions, going on, deleting, what each answer took, and pages that come and go."""

from __future__ import annotations

import itertools
import os
import re
import signal
import time

import pytest
from playwright.sync_api import Page, Route, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, questions, say, settled, stop_button
from tools.served import Served

ENDLESS = "fake: words=500 delay=0.1"
MISSING = ("ERR_FAILED", "Unable to preload CSS", "Failed to fetch dynamically imported module")
OFFLINE = ("the stream was cut", "ERR_INTERNET_DISCONNECTED", "Failed to fetch")
"""What Gradio and the browser print when the connection is lost."""


def versions(page: Page, chat: str = "#chat") -> list[str]:
    return page.locator(f"{chat} .foot .versions > span").all_inner_texts()


def longest_answer(page: Page, tokens: int) -> None:
    page.locator("#settings .toggle-button").click()
    page.get_by_label("number input for Longest answer, in tokens").fill(str(tokens))
    page.locator("#settings .toggle-button").click()


def edit_first(page: Page, text: str) -> None:
    page.get_by_label("Edit").first.click()
    page.locator("#chat textarea").fill(text)
    page.get_by_label("Submit").first.click()
    expect(questions(page).first).to_have_text(text)
    settled(page)


def test_versions_are_walked_and_a_reload_keeps_the_place(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "one")
    expect(page.locator(".foot .versions")).to_have_count(0)
    ask(page, "more")
    page.get_by_label("Retry").click()
    expect(page.locator(".foot .versions")).to_have_text("‹2 / 2›")
    settled(page)
    edit_first(page, "two")
    expect(questions(page)).to_have_text(["two"])
    expect(page.get_by_label("Next version")).to_be_disabled()
    page.get_by_label("Previous version").click()
    expect(questions(page)).to_have_text(["one", "more"])
    expect(page.locator(".foot .versions")).to_have_text(["‹1 / 2›", "‹2 / 2›"])
    page.reload()
    expect(questions(page)).to_have_text(["one", "more"])
    expect(page.locator(".foot .versions")).to_have_text(["‹1 / 2›", "‹2 / 2›"])
    page.get_by_label("Next version").first.click()
    expect(questions(page)).to_have_text(["two"])
    page.get_by_label("Previous version").focus()
    page.keyboard.press("Enter")
    expect(questions(page)).to_have_text(["one", "more"])
    expect(page.get_by_label("Next version").first).to_be_enabled()


def test_versions_in_the_image_tab(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="zh-CN")
    page.get_by_role("tab", name="图片问答").click()
    box = page.locator("#image-prompt textarea")
    box.fill("你好")
    box.press("Enter")
    expect(page.locator("#image-chat .usage")).to_contain_text("上下文")
    page.locator("#image-chat").get_by_label("重试").or_(page.locator("#image-chat").get_by_label("Retry")).click()
    expect(page.locator("#image-chat .foot .versions")).to_have_text("‹2 / 2›")
    page.get_by_label("上一个版本").click()
    expect(page.locator("#image-chat .foot .versions")).to_have_text("‹1 / 2›")
    expect(page.locator("#image-meter")).to_contain_text("已用")


def test_an_answer_that_was_cut_goes_on_where_it_stood(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    longest_answer(page, 16)
    ask(page, "fake: words=24")
    expect(answers(page)).to_have_text(re.compile("word15\\s+The longest answer"))
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_have_text(" ".join(f"word{n}" for n in range(24)))
    expect(page.locator("#chat .usage")).to_contain_text("24 tokens")
    expect(page.get_by_role("button", name="Continue")).to_have_count(0)
    expect(page.locator(".foot .versions")).to_have_count(0)
    page.reload()
    expect(answers(page)).to_have_text(" ".join(f"word{n}" for n in range(24)))


def test_a_stopped_answer_goes_on(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, "fake: words=150 delay=0.1")
    expect(answers(page)).to_contain_text("word3 ")
    stop_button(page).click()
    expect(answers(page)).to_contain_text("Stopped")
    page.get_by_role("button", name="Continue").click()
    expect(answers(page)).to_have_text(" ".join(f"word{n}" for n in range(150)), timeout=60_000)


def test_a_deleted_question_takes_its_answer_and_comes_back(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "first")
    ask(page, "second")
    page.get_by_label("Delete this message").first.click()
    expect(questions(page)).to_have_text(["second"])
    expect(answers(page)).to_have_text(["second"])
    page.get_by_role("button", name="Put it back").click()
    expect(questions(page)).to_have_text(["first", "second"])
    expect(page.locator("#notice")).not_to_contain_text("deleted")
    page.get_by_label("Delete this message").last.click()
    expect(answers(page)).to_have_text(["first"])
    page.reload()
    expect(questions(page)).to_have_text(["first", "second"])
    expect(answers(page)).to_have_text(["first"])


def test_the_line_under_a_message_is_not_copied(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "plain")
    ask(page, "words")
    expect(page.locator("#chat .usage")).to_have_count(2)
    page.get_by_label("Copy message").last.click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).trim() === 'words'")


def test_the_meter_warns_before_turns_are_left_out(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    longest_answer(page, 16)
    ask(page, "word " * 6000)
    meter = page.get_by_role("meter", name="Context used")
    expect(meter).to_have_attribute("aria-valuetext", "6,016 of 8,192 tokens")
    expect(page.locator("#meter")).not_to_contain_text("Nearly full")
    ask(page, "word " * 600)
    expect(meter).to_have_attribute("aria-valuetext", "6,632 of 8,192 tokens")
    expect(page.locator("#meter")).to_contain_text("Nearly full: the next turns will push the oldest out.")


def test_a_question_from_a_page_that_is_behind_is_refused_and_stays(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "one")
    expect(page).to_have_url(re.compile(r"\?c="))
    stale = open_page(page.url)
    expect(questions(stale)).to_have_text(["one"])
    ask(page, "two")
    say(stale, "three")
    expect(stale.locator("#notice")).to_contain_text("The conversation has changed")
    expect(questions(stale)).to_have_text(["one", "two"])
    expect(stale.get_by_label("Message", exact=True)).to_have_value("three")
    stale.get_by_label("Message", exact=True).press("Enter")
    expect(questions(stale)).to_have_text(["one", "two", "three"])
    expect(stale.locator("#notice")).not_to_contain_text("changed")


def test_an_idle_page_shows_what_another_asked_when_it_is_looked_at(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "one")
    expect(page).to_have_url(re.compile(r"\?c="))
    idle = open_page(page.url)
    expect(questions(idle)).to_have_text(["one"])
    settled(idle)
    say(page, ENDLESS)
    expect(answers(page).last).to_contain_text("word3 ")
    idle.evaluate("window.dispatchEvent(new Event('focus'))")  # as a browser does when its window is chosen
    expect(answers(idle).last).to_contain_text("word0 word1 word2 word3 ")
    expect(stop_button(idle)).to_be_visible()
    idle.get_by_role("button", name="New chat").click()
    expect(questions(idle)).to_have_count(0)
    expect(answers(page).last).to_contain_text("word12 ")
    stop_button(page).click()
    expect(answers(page).last).to_contain_text("Stopped")
    expect(questions(idle)).to_have_count(0)


def test_two_pages_see_one_answer_grow_without_a_gap(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, "fake: words=150 delay=0.04")
    expect(answers(page)).to_contain_text("word3 ")
    second = open_page(page.url)
    whole = " ".join(f"word{n}" for n in range(150))
    for one in (second, page):
        expect(answers(one)).to_have_text(whole)


def test_a_page_that_was_offline_comes_back_to_the_answer(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, OFFLINE)
    say(page, "fake: words=200 delay=0.12")
    expect(answers(page)).to_contain_text("word3 ")
    page.context.set_offline(True)
    expect(page.locator("#connection")).to_contain_text("The connection is lost")
    page.get_by_label("Message", exact=True).fill("not lost")
    page.context.set_offline(False)
    expect(page.locator("#connection")).to_have_count(0)
    expect(answers(page)).to_contain_text("word0 word1 word2 word3 ")
    expect(stop_button(page)).to_be_visible()
    expect(page.get_by_label("Message", exact=True)).to_have_value("not lost")
    expect(answers(page)).to_have_text(" ".join(f"word{n}" for n in range(200)), timeout=60_000)


def test_a_stream_that_ends_without_a_word_is_taken_up_again(fake: Served, open_page: OpenPage) -> None:
    """As a proxy's does that closes what it holds too long: in order, and in the middle."""
    page = open_page(fake.url, OFFLINE, used_up=True)
    settled(page)
    beat = 'data: {"msg": "heartbeat"}\n\n'
    page.route("**/queue/data?*", lambda route: route.fulfill(content_type="text/event-stream", body=beat), times=1)
    say(page, "fake: words=40 delay=0.02")
    expect(page.locator("#connection")).to_be_visible()
    expect(page.locator("#connection")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value(re.compile("fake|^$"))


@pytest.mark.parametrize("part", ["index-*.js", "index-*.css", "core-*.css", "Blocks-*.js"])
def test_a_part_of_the_page_that_does_not_come_is_asked_for_again(fake: Served, open_page: OpenPage, part: str) -> None:
    """As through a tunnel that breaks just then. What stood there was a blank page."""
    page = open_page(fake.url, MISSING, used_up=True, locale="zh-CN")
    page.route(f"**/assets/{part}", lambda route: route.abort(), times=2 if part == "Blocks-*.js" else 1)  # preloaded
    page.reload()
    expect(page.locator("#connection")).to_contain_text("页面有一部分没有加载成功")
    expect(page.locator("#connection")).to_have_count(0)
    expect(page.locator("#model-state .state")).to_be_attached()


def test_what_stands_in_a_box_outlives_a_part_that_does_not_come(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, used_up=True)
    page.get_by_label("Message", exact=True).fill("not lost")
    page.evaluate("window.dispatchEvent(new Event('vite:preloadError'))")
    expect(page.locator("#connection")).to_contain_text("Part of this page did not load")
    expect(page.locator("#connection")).to_have_count(0)
    expect(page.get_by_label("Message", exact=True)).to_have_value("not lost")


def test_what_never_comes_is_asked_for_less_and_less_often(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, MISSING, used_up=True)
    asked: list[float] = []
    page.on("request", lambda request: asked.append(time.monotonic()) if request.is_navigation_request() else None)
    page.route("**/assets/core-*.css", lambda route: route.abort(), times=4)
    page.reload()
    expect(page.locator("#model-state .state")).to_be_attached(timeout=30_000)
    waits = [later - earlier for earlier, later in itertools.pairwise(asked)]
    assert len(waits) == 4 and all(wait >= 2**n for n, wait in enumerate(waits)), waits


def reloaded_slowly(page: Page, prefix: str = "") -> Route:
    """Loads the page anew, up to where it can be written in; what it asks the server for its conversation is held."""
    name = f"{prefix}open".replace("-", "_")
    opening = page.evaluate("(name) => gradio_config.dependencies.find((one) => one.api_name === name).id", name)
    held: list[Route] = []

    def joined(route: Route) -> None:
        held.append(route) if route.request.post_data_json["fn_index"] == opening else route.continue_()

    page.route("**/queue/join*", joined)
    page.reload()
    expect(page.locator("#model-state .state")).to_be_attached()
    expect(page.locator(f"#{prefix}prompt textarea")).to_be_visible()
    return held[0]


@pytest.mark.parametrize(("prefix", "by_button"), [("", False), ("", True), ("image-", False)])
def test_what_is_asked_before_the_page_knows_its_conversation_waits_for_it(
    fake: Served, open_page: OpenPage, prefix: str, by_button: bool
) -> None:
    page = open_page(fake.url + ("?tab=images" if prefix else ""), used_up=True)
    box, chat = page.locator(f"#{prefix}prompt textarea"), page.locator(f"#{prefix}chat")
    for number, text in enumerate(("first", "second"), 1):  # of a new conversation, and of one that the address names
        opening = reloaded_slowly(page, prefix)
        box.fill(text)
        page.locator(f"#{prefix}send").click() if by_button else box.press("Enter")
        expect(box).to_have_value(text)
        opening.continue_()
        expect(answers(chat)).to_have_count(number)
        settled(page)
        expect(questions(chat).last).to_have_text(text)
        expect(box).to_have_value("")


def test_what_has_waited_is_asked_even_if_the_opening_fails(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, known=("500 (Internal Server Error)",), used_up=True)
    opening = reloaded_slowly(page)
    say(page, "nothing is lost")
    opening.fulfill(status=500, json={"detail": "an error that nobody thought of"})
    expect(questions(page)).to_have_text("nothing is lost")
    settled(page)


def test_a_page_that_is_being_left_speaks_of_no_lost_connection(fake: Served, open_page: OpenPage) -> None:
    """Gradio has ended its stream and its session by then, in the middle of an answer: a new stream finds none."""
    page = open_page(fake.url, used_up=True)
    say(page, ENDLESS)
    expect(answers(page)).to_contain_text("word3 ")
    address = page.url
    page.evaluate("window.dispatchEvent(new Event('beforeunload'))")
    streams: list[str] = []
    page.on("request", lambda request: streams.append(request.url) if "/queue/data" in request.url else None)
    with page.expect_response(re.compile("/queue/join")) as joined:
        page.get_by_role("tab", name="Models").click()
    assert joined.value.ok  # which Gradio does not do where it takes the connection for lost
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert streams == []
    expect(page.get_by_text("Connection Lost")).to_have_count(0)
    page.wait_for_event("request", lambda request: "/queue/data" in request.url)  # if it is not left after all
    page.goto(address)
    stop_button(page).click()
    expect(answers(page)).to_contain_text("Stopped")


def test_a_failure_folds_out_with_the_number_that_the_log_has(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, ENDLESS)
    expect(answers(page)).to_contain_text("word3 ")
    for worker in fake.workers():
        os.kill(worker.pid, signal.SIGKILL)
    expect(answers(page)).to_contain_text("The engine stopped")
    details = page.locator("#chat .foot details")
    expect(details).not_to_contain_text("Traceback")
    page.locator("#chat .foot summary").click()
    expect(details).to_contain_text("engine_died")
    expect(details).to_contain_text("signal: SIGKILL")
    found = re.search(r"Incident ([0-9a-f]{8})", details.inner_text())
    assert found and f"incident {found[1]}: engine_died" in (fake.data / "logs" / "app.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("locale", "label", "says"),
    [
        ("en-US", "Message", "Waiting: 1 before you · now answering: "),
        ("zh-CN", "消息", "排队中：前面还有 1 个 · 正在回答的是："),
    ],
)
def test_who_waits_sees_what_for(fake: Served, open_page: OpenPage, locale: str, label: str, says: str) -> None:
    page = open_page(fake.url)
    say(page, ENDLESS)
    expect(answers(page)).to_contain_text("word3 ")
    waiting = open_page(fake.url, locale=locale)
    say(waiting, "me too", label)
    expect(waiting.locator("#status")).to_contain_text(says + "SmolLM2-135M-Instruct")
    stop_button(page).click()
    expect(answers(waiting)).to_have_text("me too")

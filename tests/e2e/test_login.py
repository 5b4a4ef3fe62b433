"""Signing in and out in a browser, and what it says to who has mistyped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, expect

from tests.e2e.conftest import AGAIN, OpenPage
from tests.e2e.person import answers, ask
from tools.served import Served

PASSWORD = "correct horse battery"
CLICKS = """() => setInterval(() => document.querySelector("[role=tab][aria-selected=false]")?.click(), 300)"""


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = Served(tmp_path_factory.mktemp("guarded"), "--fake", "--auth", f"ann:{PASSWORD}")
    yield app
    assert app.stop() == 0, app.output


def test_sign_in_chat_and_sign_out(guarded: Served, browser: Browser) -> None:
    context = browser.new_context(locale="en-US", viewport={"width": 390, "height": 844})
    page = context.new_page()
    page.goto(guarded.url + "?tab=images")
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("ann")
    page.keyboard.press("Tab")
    page.keyboard.type(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("tab", name="Image Q&A")).to_have_attribute("aria-selected", "true", timeout=30_000)
    page.get_by_role("tab", name="Chat").click()
    ask(page, "Who is there?")
    expect(answers(page).last).to_contain_text("Who is there?")
    conversation = page.url
    page.get_by_role("button", name="Language and theme").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("Password")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Password")).to_be_visible()
    page.goto(conversation)
    expect(page.get_by_label("Password")).to_be_visible()
    assert "to=" in page.url and context.request.get(guarded.url + "config", max_retries=AGAIN).status == 401
    context.close()


def test_a_session_that_ended_leads_to_the_login_and_what_was_written_is_kept(
    guarded: Served, browser: Browser
) -> None:
    context = browser.new_context(locale="en-US")
    page = context.new_page()
    page.goto(guarded.url)
    for again in (False, True):
        page.get_by_label("Name").fill("ann")
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        box = page.get_by_label("Message", exact=True)
        if again:
            expect(box).to_have_value("Half a thou", timeout=30_000)
            break
        expect(page.locator("#model-state .state")).to_be_attached(timeout=30_000)
        box.fill("Half a thou")
        # Whatever asks first leads there, a click of ours or a timer of the page's: so the clicks begin before.
        page.evaluate(CLICKS)
        context.clear_cookies(name=f"shusheng_session_{guarded.url.rstrip('/').rpartition(':')[2]}")
        expect(page.get_by_label("Password")).to_be_visible()
    context.close()


@pytest.mark.parametrize(
    ("locale", "name", "password", "button", "words"),
    [
        ("en-US", "Name", "Password", "Sign in", "do not belong together"),
        ("zh-CN", "用户名", "密码", "登录", "用户名或密码不对"),
    ],
)
def test_a_wrong_password_is_said_without_a_script_in_both_languages(
    guarded: Served, browser: Browser, locale: str, name: str, password: str, button: str, words: str
) -> None:
    context = browser.new_context(locale=locale, java_script_enabled=False)
    page = context.new_page()
    page.goto(guarded.url)
    page.get_by_label(name).fill("ann")
    page.get_by_label(password).fill("correct house")
    page.get_by_role("button", name=button).click()
    expect(page.get_by_role("alert")).to_contain_text(words)
    expect(page.get_by_label(name)).to_have_value("ann")
    expect(page.get_by_label(password)).to_have_value("")
    context.close()


def test_without_a_login_there_is_nothing_to_sign_out_from(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.get_by_role("button", name="Language and theme").click()
    expect(page.get_by_role("button", name="Keyboard shortcuts")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_be_hidden()

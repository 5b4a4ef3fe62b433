"""The room around a conversation: language, colours, keyboard, what a screen reader meets, and the installed app."""

from __future__ import annotations

import json
import re
from typing import Any

import httpx
from playwright.sync_api import Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, questions, say, settled, stop_button
from tools.served import Served

LONG = "fake: words=400 delay=0.1"


def prefer(page: Page, choice: str) -> None:
    page.locator("#preferences-button").click()
    page.locator("#preferences").get_by_label(choice, exact=True).check()
    page.keyboard.press("Escape")
    expect(page.locator("#preferences")).to_be_hidden()


def box(page: Page) -> Any:
    return page.locator("#prompt textarea")


# -- language and theme -----------------------------------------------------------------------------------------------


def test_the_language_changes_at_once_and_nothing_is_lost(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.evaluate("window.here = 'the same page'")
    say(page, LONG)
    expect(answers(page).last).to_contain_text("word5 ")
    box(page).fill("typed, and not sent")
    prefer(page, "中文")
    expect(page.get_by_role("button", name="停止", exact=True)).to_be_visible()
    expect(page.locator("#status")).to_contain_text("正在回答")
    expect(page.get_by_role("tab", name="图片问答")).to_be_visible()
    expect(box(page)).to_have_value("typed, and not sent")
    expect(answers(page).last).to_contain_text("word0 word1 ")
    stop_button(page, "停止").click()
    expect(answers(page).last).to_contain_text("已停止")
    page.get_by_role("tab", name="模型").click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_contain_text("放得下")
    prefer(page, "English")
    expect(page.locator("#card-internlm2-chat-1_8b")).to_contain_text("Fits: needs")
    expect(page.get_by_role("tab", name="Chat", exact=True)).to_be_visible()
    assert page.evaluate("window.here") == "the same page"


def test_stop_has_the_words_of_the_language_in_later_answers_too(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, LONG)
    stop_button(page).click()
    expect(answers(page).last).to_contain_text("Stopped")
    say(page, LONG)
    expect(stop_button(page)).to_be_visible()
    prefer(page, "中文")
    stop_button(page, "停止").click()
    expect(answers(page).last).to_contain_text("已停止")


def test_send_comes_back_in_the_language_that_was_chosen_meanwhile(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    say(page, LONG)
    expect(stop_button(page)).to_be_visible()
    prefer(page, "中文")
    for _ in range(2):
        stop_button(page, "停止").click()
        expect(page.locator("#send")).to_have_text("发送")
        say(page, LONG, "消息")
        expect(stop_button(page, "停止")).to_be_visible()
    prefer(page, "English")
    stop_button(page).click()
    expect(page.locator("#send")).to_have_text("Send")


def test_the_chosen_language_is_remembered_and_goes_before_the_browsers(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="zh-CN")
    prefer(page, "English")
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "en"


def test_another_page_of_the_same_browser_changes_its_language_too(fake: Served, open_page: OpenPage) -> None:
    one = open_page(fake.url)
    two = one.context.new_page()
    two.goto(fake.url)
    expect(two.get_by_role("heading", name="What is on your mind?")).to_be_visible()
    prefer(one, "中文")
    expect(two.get_by_role("heading", name="想聊点什么？")).to_be_visible()
    expect(two.get_by_role("button", name="发送")).to_be_visible()


def test_the_theme_is_remembered_and_there_before_the_page_is(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, used_up=True, color_scheme="light")
    prefer(page, "Dark")
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    # What the document is before Gradio's script has run: it is held back.
    page.route("**/assets/*.js", lambda route: None)
    page.goto(fake.url, wait_until="commit")
    expect(page.locator("html")).to_have_class("night")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(int(one) for one in re.findall(r"\d+", dark)[:3]) < 60, dark
    page.unroute_all(behavior="ignoreErrors")
    page.goto(fake.url)
    expect(page.locator("body")).to_have_class(re.compile("dark"))
    prefer(page, "System")
    expect(page.locator("body")).not_to_have_class(re.compile("dark"))
    page.emulate_media(color_scheme="dark")
    expect(page.locator("body")).to_have_class(re.compile("dark"))


# -- keyboard ---------------------------------------------------------------------------------------------------------


def test_an_input_methods_enter_does_not_send(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, used_up=True)
    box(page).focus()
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "ni hao", "selectionStart": 6, "selectionEnd": 6})
    expect(box(page)).to_have_value("ni hao")
    page.keyboard.press("Enter")
    box(page).dispatch_event("keypress", {"key": "Enter", "keyCode": 13, "bubbles": True})
    keyboard.send("Input.insertText", {"text": "你好"})
    # An input method that ends with the Enter that it was given.
    box(page).dispatch_event("keydown", {"key": "Enter", "keyCode": 229, "bubbles": True})
    # Without an input method to take it, each Enter has broken the line; none has sent.
    expect(box(page)).to_have_value(re.compile("你好"))
    expect(questions(page)).to_have_count(0)
    page.keyboard.press("Enter")
    expect(answers(page).last).to_contain_text("你好")
    expect(questions(page)).to_have_count(1)


def test_enter_in_the_image_tabs_box_heeds_the_input_method_too(fake: Served, open_page: OpenPage) -> None:
    page = open_page(f"{fake.url}?tab=images", used_up=True)
    prompt = page.locator("#image-prompt textarea")
    prompt.focus()
    keyboard = page.context.new_cdp_session(page)
    keyboard.send("Input.imeSetComposition", {"text": "tu", "selectionStart": 2, "selectionEnd": 2})
    page.keyboard.press("Enter")
    keyboard.send("Input.insertText", {"text": "图"})
    expect(prompt).to_have_value(re.compile("图"))
    expect(page.locator("#image-chat").get_by_test_id("user")).to_have_count(0)
    page.keyboard.press("Enter")
    expect(page.locator("#image-chat").get_by_test_id("bot").last).to_contain_text("图")


def test_a_conversation_by_keyboard_alone(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.keyboard.press("Tab")
    box(page).focus()
    page.keyboard.type("one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    expect(box(page)).to_have_value("one\ntwo")
    box(page).fill(LONG)
    page.keyboard.press("Enter")
    expect(answers(page).last).to_contain_text("word3 ")
    page.keyboard.press("Escape")
    settled(page)
    expect(answers(page).last).to_contain_text("Stopped")

    expect(box(page)).to_have_value("")
    expect(page.locator("#chat").get_by_label("Edit")).to_be_visible()
    box(page).focus()
    page.keyboard.press("ArrowUp")
    edited = page.locator("#chat textarea")
    expect(edited).to_be_focused()
    expect(edited).to_have_value(re.compile("fake: words=400"))
    page.locator("#chat").get_by_label("Cancel").click()

    page.keyboard.press("Control+Shift+O")
    expect(questions(page)).to_have_count(0)
    expect(box(page)).to_be_focused()


def test_the_list_of_shortcuts_in_both_languages(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.keyboard.press("Control+/")
    dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(dialog).to_contain_text("Stop the answer")
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    prefer(page, "中文")
    page.locator("#preferences-button").click()
    page.get_by_role("button", name="键盘快捷键").click()
    expect(page.get_by_role("dialog", name="键盘快捷键")).to_contain_text("停止回答")
    page.get_by_role("button", name="关闭").click()
    expect(page.get_by_role("dialog", name="键盘快捷键")).to_be_hidden()


def test_the_first_tab_stop_leads_to_the_box(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    skip = page.get_by_role("button", name="Skip to the message box")
    skip.focus()
    expect(skip).to_be_in_viewport()
    page.keyboard.press("Enter")
    expect(box(page)).to_be_focused()


def test_a_growing_answer_is_not_read_out_and_its_end_is_announced(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "hello")
    expect(page.get_by_role("log")).to_have_attribute("aria-live", "off")
    expect(page.locator("#announcer")).to_have_attribute("role", "status")
    expect(page.locator("#announcer")).to_contain_text("tokens")


# -- an app of the desktop --------------------------------------------------------------------------------------------


def test_the_page_can_be_installed(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="zh-CN", used_up=True)
    inspector = page.context.new_cdp_session(page)
    found = inspector.send("Page.getAppManifest")
    manifest = json.loads(found["data"])
    assert found["errors"] == []
    assert (manifest["name"], manifest["display"], manifest["start_url"]) == ("书生案头", "standalone", "./")
    # A test's browser is always a private one; that is the only thing in the way.
    errors = {one["errorId"] for one in inspector.send("Page.getInstallabilityErrors")["installabilityErrors"]}
    assert errors <= {"in-incognito"}
    sizes = {one["sizes"] for one in manifest["icons"]}
    assert {"192x192", "512x512", "any"} <= sizes
    for one in manifest["icons"]:
        answer = httpx.get(fake.url + one["src"])
        assert answer.status_code == 200 and answer.headers["content-type"] == one["type"]
    assert httpx.get(fake.url + "favicon.ico").headers["content-type"].startswith("image/")
    assert httpx.get(fake.url + "icons/%2e%2e%2fapp.py").status_code == 404


# -- samples ----------------------------------------------------------------------------------------------------------


def test_a_sample_image_is_asked_about_with_a_click(fake: Served, open_page: OpenPage) -> None:
    page = open_page(f"{fake.url}?tab=images")
    samples = page.locator("#image-chat .example")
    expect(samples).to_have_count(4)
    for picture in samples.locator("img").all():
        expect(picture).to_have_js_property("complete", True)
        assert picture.evaluate("image => image.naturalWidth") > 0
    samples.nth(1).click()
    expect(page.locator("#image-chat").get_by_test_id("bot").last).to_contain_text("1 image: 960x640. Which month")
    expect(page.locator("#image-chat .picture img")).to_have_count(1)

"""The image tab as a person meets it, with the scripted engine behind the real launch.py."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.test_page import overflow
from tools.served import Served


@pytest.fixture
def images_page(fake: Served, open_page: OpenPage) -> Any:
    def _open(**options: Any) -> Page:
        page = open_page(fake.url) if not options else open_page(fake.url, **options)
        page.get_by_role("tab", name=re.compile("Image Q&A|图片问答")).click()
        expect(page.locator("#image-model-state .state")).to_be_attached()  # a dot on a narrow page
        expect(page.locator("#image-prompt textarea")).to_be_visible()
        return page

    return _open


def unloaded(page: Page) -> None:
    """Whatever an earlier test has loaded."""
    if page.locator("#image-unload").is_visible():
        page.locator("#image-unload").click()
    expect(page.locator("#image-panel .plan")).to_be_visible()


def file(name: str, width: int, height: int, colour: str = "teal") -> Any:
    data = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(data, "PNG")
    return {"name": name, "mimeType": "image/png", "buffer": data.getvalue()}


TWO = [file("a.png", 640, 480), file("b.png", 100, 50, "tomato")]


def attach(page: Page, files: list[Any]) -> None:
    before = attached(page).count()
    page.locator("#image-prompt input[type=file]").set_input_files(files)
    expect(attached(page)).to_have_count(before + len(files))


def attached(page: Page) -> Locator:
    return page.locator("#image-prompt").get_by_label("File thumbnail")


def box(page: Page) -> Locator:
    return page.locator("#image-prompt textarea")


def say(page: Page, text: str) -> None:
    box(page).fill(text)
    box(page).press("Enter")


def answers(page: Page) -> Locator:
    return page.locator("#image-chat").get_by_test_id("bot")


def thumbnails(page: Page) -> Locator:
    return page.locator("#image-chat .picture img")


def settled(page: Page) -> None:
    expect(page.locator("#image-stop")).to_be_hidden()
    expect(page.locator("#image-send")).to_be_visible()


def loads(thumbnail: Locator) -> None:
    """The browser has fetched and decoded it: nothing between disk, route and policy stood in its way."""
    expect(thumbnail).to_be_visible()
    expect(thumbnail).to_have_js_property("complete", True)
    assert thumbnail.evaluate("image => image.naturalWidth") > 0


def test_two_images_are_asked_about_and_asked_about_again(images_page: Any) -> None:
    page = images_page()
    attach(page, TWO)
    say(page, "what are these?")
    expect(answers(page).last).to_contain_text("2 images: 640x480, 100x50. what are these?")
    expect(thumbnails(page)).to_have_count(2)
    for number in range(2):
        loads(thumbnails(page).nth(number))
    expect(attached(page)).to_have_count(0)
    expect(box(page)).to_have_value("")
    settled(page)
    say(page, "and which is larger?")
    expect(answers(page)).to_have_count(2)
    expect(answers(page).last).to_contain_text("and which is larger?")
    expect(thumbnails(page)).to_have_count(2)

    page.reload()
    expect(answers(page)).to_have_count(2)
    expect(thumbnails(page)).to_have_count(2)
    loads(thumbnails(page).first)


def test_regenerate_edit_undo_and_a_new_chat(images_page: Any) -> None:
    page = images_page()
    attach(page, TWO)
    say(page, "first question")
    expect(answers(page).last).to_contain_text("first question")
    settled(page)

    page.get_by_label("Retry").last.click()
    expect(page.locator("#image-chat .versions").last).to_contain_text("2 / 2")
    expect(answers(page).last).to_contain_text("2 images: 640x480, 100x50.")
    expect(answers(page)).to_have_count(1)
    settled(page)

    page.locator("#image-chat").get_by_label("Edit").click()
    page.locator("#image-chat textarea").fill("a better question")
    page.locator("#image-chat").get_by_label("Submit").click()
    expect(answers(page).last).to_contain_text("2 images: 640x480, 100x50. a better question")
    expect(thumbnails(page)).to_have_count(2)
    settled(page)

    page.get_by_label("Undo").last.click()
    expect(thumbnails(page)).to_have_count(0)
    expect(box(page)).to_have_value("a better question")
    expect(attached(page)).to_have_count(2)
    box(page).press("Enter")
    expect(answers(page).last).to_contain_text("2 images: 640x480, 100x50. a better question")
    settled(page)
    page.locator("#image-new-chat").click()
    expect(thumbnails(page)).to_have_count(0)


def test_a_refused_file_is_named_and_everything_stays_in_the_box(images_page: Any) -> None:
    page = images_page()
    attach(page, [*TWO, {"name": "notes.png", "mimeType": "image/png", "buffer": b"not an image at all"}])
    say(page, "keep me")
    expect(page.locator("#image-notice")).to_contain_text("An image cannot be used. notes.png: this is no image.")
    expect(box(page)).to_have_value("keep me")
    expect(attached(page)).to_have_count(3)
    attached(page).last.get_by_label("Remove file").click()
    expect(attached(page)).to_have_count(2)
    box(page).press("Enter")
    expect(answers(page).last).to_contain_text("2 images: 640x480, 100x50. keep me")
    expect(page.locator("#image-notice")).not_to_contain_text("notes.png")


def test_what_is_dropped_beside_the_box_and_pasted_into_it_is_attached(images_page: Any) -> None:
    page = images_page()
    drop = """async (kind) => {
      const canvas = new OffscreenCanvas(30, 20);
      canvas.getContext("2d").fillRect(0, 0, 9, 9);
      const files = new DataTransfer();
      files.items.add(new File([await canvas.convertToBlob()], "x.png", { type: "image/png" }));
      const event = kind === "drop"
        ? new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true })
        : new ClipboardEvent("paste", { clipboardData: files, bubbles: true, cancelable: true });
      document.querySelector(kind === "drop" ? "#image-chat" : "#image-prompt textarea").dispatchEvent(event);
    }"""
    for number, kind in enumerate(("drop", "paste"), 1):
        page.evaluate(drop, kind)
        expect(attached(page)).to_have_count(number)
    say(page, "both?")
    expect(answers(page).last).to_contain_text("2 images: 30x20, 30x20. both?")


def test_a_photograph_lies_with_the_other_images(images_page: Any) -> None:
    page = images_page(permissions=["camera"])
    attach(page, TWO[:1])
    page.get_by_role("button", name="Camera").click()
    page.locator("#image-camera").get_by_text("Click to Access Webcam").click()
    # Before its first frame the camera has nothing to take.
    page.wait_for_function("document.querySelector('#image-camera video')?.currentTime > 0")
    page.locator("#image-camera").get_by_label("capture photo").click()
    expect(attached(page)).to_have_count(2)
    expect(page.locator("#image-camera")).to_be_hidden()
    say(page, "and this?")
    expect(answers(page).last).to_contain_text("2 images: 640x480, ")


def test_an_image_without_words_and_words_without_an_image(images_page: Any) -> None:
    page = images_page()
    attach(page, TWO[:1])
    page.locator("#image-send").click()
    expect(answers(page).last).to_contain_text("1 image: 640x480.")
    settled(page)
    page.locator("#image-new-chat").click()
    expect(answers(page)).to_have_count(0)
    say(page, "hello there")
    expect(answers(page).last).to_have_text("hello there")


def test_an_image_is_enlarged_with_a_click(images_page: Any) -> None:
    page = images_page()
    attach(page, TWO[:1])
    say(page, "what is it?")
    thumbnails(page).first.click()
    enlarged = page.locator("#enlarged img")
    expect(enlarged).to_be_visible()
    expect(enlarged).to_have_js_property("naturalWidth", 640)
    page.keyboard.press("Escape")
    expect(enlarged).to_be_hidden()


def test_stop_keeps_what_was_said(images_page: Any) -> None:
    page = images_page()
    attach(page, TWO[:1])
    say(page, "fake: words=400 delay=0.1")
    expect(answers(page).last).to_contain_text("word5 ")
    page.locator("#image-stop").click()
    settled(page)
    expect(answers(page).last).to_contain_text("Stopped")
    expect(thumbnails(page)).to_have_count(1)


def test_the_guards_word_comes_before_load_and_unload_after(images_page: Any) -> None:
    page = images_page()
    guard = page.locator("#image-panel")
    say(page, "load it")
    expect(answers(page).last).to_contain_text("load it")
    page.locator("#image-unload").click()
    expect(guard.locator(".plan")).to_contain_text("needs")
    for part in ("other programs", "weights", "KV cache", "workspace", "free"):
        expect(guard.locator(".legend")).to_contain_text(part)
    guard.get_by_role("button", name="Load", exact=True).click()
    expect(page.locator("#image-model-state .state")).to_have_text("loaded")
    expect(guard).to_be_hidden()
    page.locator("#image-unload").click()
    expect(page.locator("#image-model-state .state")).to_have_text("here")
    expect(guard.get_by_role("button", name="Load", exact=True)).to_be_visible()


def test_the_detail_goes_with_the_conversation_and_the_two_tabs_keep_theirs(images_page: Any) -> None:
    page = images_page()
    page.locator("#image-settings .toggle-button").click()
    page.get_by_label("High: up to 12 tiles").check()
    attach(page, TWO[:1])
    say(page, "small print")
    expect(answers(page).last).to_contain_text("small print")
    settled(page)
    page.get_by_role("tab", name="Chat", exact=True).click()
    page.locator("#prompt textarea").fill("only words")
    page.locator("#prompt textarea").press("Enter")
    expect(page.locator("#chat").get_by_test_id("bot")).to_have_text("only words")
    page.get_by_role("tab", name="Image Q&A").click()
    expect(page).to_have_url(re.compile("tab=images"))
    page.reload()
    expect(thumbnails(page)).to_have_count(1)
    page.locator("#image-settings .toggle-button").click()
    expect(page.get_by_label("High: up to 12 tiles")).to_be_checked()
    page.locator("#image-settings .toggle-button").click()
    page.get_by_role("tab", name="Chat", exact=True).click()
    expect(page.locator("#chat").get_by_test_id("bot")).to_have_text("only words")


def test_in_chinese(images_page: Any) -> None:
    page = images_page(locale="zh-CN")
    expect(page.get_by_role("heading", name="你看到了什么？")).to_be_visible()
    unloaded(page)
    expect(page.locator("#image-panel .plan")).to_contain_text("放得下")
    svg = {"name": "图.svg", "mimeType": "image/svg+xml", "buffer": b"<svg xmlns='http://www.w3.org/2000/svg'/>"}
    attach(page, [TWO[0], svg])
    say(page, "这是什么？")
    expect(page.locator("#image-notice")).to_contain_text("不支持 SVG")
    attached(page).last.get_by_label("Remove file").click()
    expect(attached(page)).to_have_count(1)
    box(page).press("Enter")
    expect(answers(page).last).to_contain_text("这是什么？")


def test_no_width_scrolls_sideways(images_page: Any) -> None:
    page = images_page(viewport={"width": 360, "height": 780})
    unloaded(page)
    assert overflow(page) <= 0
    attach(page, [*TWO, file("wide.png", 3000, 200)])
    say(page, "x" * 300)
    expect(answers(page).last).to_contain_text("3000x200")
    expect(thumbnails(page)).to_have_count(3)
    for width in (360, 390, 768):
        page.set_viewport_size({"width": width, "height": 780})
        expect(box(page)).to_be_in_viewport()
        assert overflow(page) <= 0

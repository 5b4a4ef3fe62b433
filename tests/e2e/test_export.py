"""Conversations out of the page and into it again."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, questions
from tests.e2e.test_images import attach, file
from tests.e2e.test_images import say as say_on_images
from tools.served import Served


def drawer(page: Page, prefix: str = "") -> None:
    page.locator(f"#{prefix}settings .toggle-button").click()
    page.locator(f"#{prefix}transfer > button").click()


def foot(page: Page) -> None:
    """The sidebar's, for all conversations."""
    if page.viewport_size and page.viewport_size["width"] < 900:
        page.locator("#history .toggle-button").click()
    expect(page.locator("#history.open")).to_be_visible()
    page.locator("#transfer-all > button").click()


def export(page: Page, button: str, folder: Path) -> Path:
    with page.expect_download() as made:
        page.locator(f"#{button}").click()
    path = folder / made.value.suggested_filename
    made.value.save_as(path)
    return path


def bring(page: Page, what: Path | dict[str, Any]) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("#import").click()
    chooser.value.set_files(what)  # type: ignore[arg-type]


def chat(name: str, content: Any) -> dict[str, Any]:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return {"name": name, "mimeType": "application/json", "buffer": data}


def test_import_of_an_export_equals_the_original(
    fake: Served, tmp_path: Path, browser: Any, open_page: OpenPage
) -> None:
    page = open_page(fake.url)
    ask(page, "你好，<b>世界</b>\n\n- one\n- two")
    page.get_by_label("Retry").last.click()
    expect(page.locator("#chat .versions").last).to_contain_text("2 / 2")
    ask(page, "fake: words=9 after=3 die=SIGABRT")
    expect(answers(page).last).to_contain_text("The engine stopped")
    shown = page.locator("#chat .message").all_inner_texts()
    drawer(page)
    path = export(page, "export-json", tmp_path)
    (one,) = json.loads(path.read_text(encoding="utf-8"))["conversations"]
    assert len(one["messages"]) == 5 and one["messages"][-1]["error"]["code"] == "engine_died"

    app = Served(tmp_path / "another", "--fake")
    other = open_page(app.url)
    foot(other)
    bring(other, path)
    expect(other.locator("#transfer-said")).to_contain_text("Imported: 1")
    other.locator("#transfer-said a").click()
    expect(questions(other)).to_have_count(2)
    assert other.locator("#chat .message").all_inner_texts() == shown
    drawer(other)
    again = export(other, "export-json", tmp_path / "another")
    assert again.read_bytes() == path.read_bytes()
    ask(other, "and it goes on")
    expect(answers(other).last).to_contain_text("and it goes on")
    other.context.close()
    assert app.stop() == 0, app.output


def test_images_travel_with_their_questions(fake: Served, tmp_path: Path, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    page.get_by_role("tab", name="Image Q&A").click()
    attach(page, [file("a.png", 64, 48)])
    say_on_images(page, "what is this?")
    expect(answers(page).last).to_contain_text("1 image: 64x48")
    drawer(page, "image-")
    path, readable = (export(page, f"image-export-{form}", tmp_path / form) for form in ("json", "markdown"))
    assert path.suffix == readable.suffix == ".zip"
    with zipfile.ZipFile(readable) as archive:
        names = archive.namelist()
        text = archive.read(next(one for one in names if one.endswith(".md"))).decode()
    assert any(one.startswith("images/") and f"]({one})" in text for one in names)

    page.goto(fake.url)
    foot(page)
    bring(page, path)
    expect(page.locator("#transfer-said")).to_contain_text("Imported: 1")
    page.locator("#transfer-said a").click()
    expect(page.locator("#image-chat .pictures img")).to_be_visible()
    say_on_images(page, "still there?")
    expect(answers(page).last).to_contain_text("still there?")


def test_openai_messages_become_a_conversation(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "my own")
    foot(page)
    messages = [{"role": "user", "content": "from <i>elsewhere</i>"}, {"role": "assistant", "content": "welcome"}]
    bring(page, chat("chat.json", {"messages": messages}))
    page.locator("#transfer-said").get_by_text("from <i>elsewhere</i>").click()
    expect(answers(page)).to_have_text(["welcome"])
    ask(page, "and on")
    expect(answers(page).last).to_contain_text("and on")


def test_what_cannot_be_imported_is_said_in_chinese_too(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="zh-CN", viewport={"width": 390, "height": 780})
    foot(page)
    for content, words in ((b"not json", "这不是 JSON 文件"), ({"messages": [{"role": "tool"}]}, "tool")):
        bring(page, chat("聊天.json", content))
        expect(page.locator("#transfer-said")).to_contain_text(words)
        expect(page.locator("#transfer-said")).to_contain_text("没有导入任何内容")

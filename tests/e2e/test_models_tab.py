"""The models tab as a person uses it: adding, pausing, deleting, and who holds the memory; the first run's card."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Dialog, Page, expect

from tests.checkpoints import make_internlm2
from tests.e2e.conftest import OpenPage
from tests.e2e.person import of_card
from tests.hubs import Hub
from tools.served import ROOT, Served

NARROW = {"width": 390, "height": 780}
REPO = "internlm/internlm2-chat-1_8b-sft"
ID = "internlm2-chat-1_8b-sft"


def state(page: Page, model: str = ID) -> str:
    return f"#card-{model} .state"


def opened(page: Page, tab: str = "Models") -> Page:
    """The models tab, alive."""
    page.get_by_role("tab", name=tab).click()
    expect(page.locator("#memory").get_by_role("table")).to_be_visible()
    expect(page.locator("#card-internlm2-chat-1_8b .plan")).to_be_visible()
    expect(page.locator("#memory-button")).not_to_have_text("…")
    return page


def answering(page: Page, asked: list[str]) -> None:
    """Whatever the page asks is agreed to."""

    def agree(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.on("dialog", agree)


@pytest.mark.slow
def test_a_model_by_its_id_from_a_mirror_paused_over_a_restart_loaded_deleted_and_taken_off(
    tmp_path: Path, embedded_models: Path, open_page: OpenPage
) -> None:
    published = make_internlm2(tmp_path / "published")
    with Hub(REPO) as hub:
        hub.state.files = {file.name: file.read_bytes() for file in published.iterdir()}
        hub.fault("stall")
        settings = {"SHUSHENG_FOLDERS": str(embedded_models), "HF_ENDPOINT": "", "MODELSCOPE_ENDPOINT": hub.url + "/no"}
        app = Served(tmp_path / "data", environ=settings)
        page = opened(open_page(app.url, used_up=True))
        page.get_by_label("A mirror of Hugging Face").check()
        address = page.locator("#mirror textarea, #mirror input").first
        address.fill("ftp://example.org")
        address.press("Enter")
        expect(page.locator("#source-notice")).to_contain_text("not an address of a mirror")
        address.fill(hub.url)
        page.get_by_role("button", name="Use it").click()
        expect(page.locator("#source-notice")).to_contain_text(f"Models come from {hub.url}")

        box = page.locator("#add-name textarea, #add-name input").first
        box.fill(REPO)
        box.press("Enter")
        expect(page.locator("#add-news")).to_contain_text("is in the list now", timeout=60_000)
        expect(page.locator(f"#card-{ID}")).to_contain_text("added by you")
        expect(page.locator(f"#card-{ID}")).to_contain_text("Fits: needs")
        of_card(page, ID, "Download").click()
        some = re.compile(r"[\d.]+ [KM]iB of .* left · from Hugging Face")  # of which there is something to keep
        expect(page.locator(f"#card-{ID}")).to_contain_text(some, timeout=60_000)
        of_card(page, ID, "Pause").click()
        expect(page.locator(state(page))).to_have_text(re.compile(r"paused, \d+ %"))
        page.context.close()
        assert app.stop() == 0, app.output

        app = Served(tmp_path / "data", environ=settings)
        page, asked = opened(open_page(app.url, used_up=True)), []
        answering(page, asked)
        expect(page.locator(state(page))).to_have_text(re.compile(r"paused, \d+ %"))
        expect(page.get_by_label("A mirror of Hugging Face")).to_be_checked()
        of_card(page, ID, "Cancel download").click()
        expect(page.locator(state(page))).to_have_text("not downloaded")
        assert not [*(tmp_path / "data" / "models" / ".partial").glob(f"{ID}*")]
        hub.fault("")
        of_card(page, ID, "Download").click()
        expect(page.locator(state(page))).to_have_text("here", timeout=60_000)
        of_card(page, ID, "Load").click()
        expect(page.locator(state(page))).to_have_text("loaded", timeout=90_000)
        expect(of_card(page, ID, "Delete (unload first)")).to_be_disabled()
        of_card(page, ID, "Unload").click()
        expect(page.locator(state(page))).to_have_text("here")
        of_card(page, ID, "Delete").click()
        expect(page.locator(state(page))).to_have_text("not downloaded")
        of_card(page, ID, "Take off the list").click()
        expect(page.locator(f"#card-{ID}")).to_have_count(0)
        assert len(asked) == 2 and ID in asked[0] and ID in asked[1]
        page.context.close()
        assert app.stop() == 0, app.output


def test_a_folder_that_is_not_a_model_is_refused_and_one_that_is_can_be_chosen(
    fake: Served, open_page: OpenPage, tmp_path: Path
) -> None:
    folder = make_internlm2(tmp_path / "mine")
    page, asked = opened(open_page(fake.url, used_up=True, locale="zh-CN", viewport=NARROW), "模型"), []
    answering(page, asked)
    box, news = page.locator("#add-name textarea, #add-name input").first, page.locator("#add-news")
    add = page.get_by_role("button", name="添加", exact=True)
    box.fill(str(ROOT / "docs"))
    add.click()
    expect(news.get_by_role("alert")).to_contain_text("这个模型不能添加")
    expect(news).to_contain_text("config.json")
    expect(box).to_have_value(str(ROOT / "docs"))
    box.fill("不是模型")
    add.click()
    expect(news).to_contain_text("既不是模型名，也不是文件夹")
    box.fill(str(folder))
    add.click()
    expect(news).to_contain_text("已加入列表：mine", timeout=60_000)
    expect(page.locator("#card-mine")).to_contain_text("你添加的")
    page.get_by_role("tab", name="对话").click()
    page.locator("#model input").click()
    page.get_by_role("option", name="mine").click()
    page.get_by_role("tab", name="模型").click()
    of_card(page, "mine", "移出列表").click()
    expect(page.locator("#card-mine")).to_have_count(0)
    page.get_by_role("tab", name="对话").click()
    expect(page.locator("#model input")).to_have_value(re.compile("SmolLM2"))
    assert len(asked) == 1 and (folder / "config.json").exists()
    overflow = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
    assert not page.evaluate(overflow)


def test_who_holds_the_memory_is_drawn_and_told_and_models_are_loaded_and_unloaded_there(
    fake: Served, open_page: OpenPage
) -> None:
    page = open_page(fake.url)
    page.goto(f"{fake.url}?tab=models")
    panel, button = page.locator("#memory"), page.locator("#memory-button")
    expect(panel.get_by_role("table")).to_contain_text("free")
    expect(panel.get_by_role("img", name=re.compile("last 5 minutes: .* in use"))).to_be_visible()
    page.locator("#memory-model input").click()
    page.get_by_role("option", name="InternLM2-Chat-1.8B").click()
    expect(button).to_have_text(re.compile(r"Load InternLM2-Chat-1.8B \(.*GiB\)"))
    button.click()
    expect(button).to_have_text(re.compile("Unload InternLM2-Chat-1.8B"))
    row = panel.get_by_role("row", name=re.compile("InternLM2-Chat-1.8B"))
    expect(row).to_contain_text("weights 1.5 GiB")
    expect(panel.locator(".memory-row")).to_have_count(2)
    expect(panel.locator(".part.weights").first).to_be_visible()
    button.click()
    expect(button).to_have_text(re.compile(r"^\s*Load InternLM2-Chat-1.8B"))
    expect(row).to_have_count(0)


def test_the_first_runs_card_says_what_is_here_and_stays_away_once_it_is_dismissed(
    fake: Served, open_page: OpenPage
) -> None:
    page = open_page(fake.url, locale="zh-CN")
    expect(page.locator("#offer")).to_contain_text("这台电脑适合什么")
    expect(page.locator("#offer")).to_contain_text("InternLM2-Chat-1.8B")
    expect(page.locator("#offer")).to_contain_text("磁盘空闲")
    page.get_by_role("button", name="不再显示").click()
    expect(page.locator("#offer-row")).to_be_hidden()
    page.reload()
    expect(page.locator("#model-state .state.loaded")).to_be_visible()
    expect(page.locator("#offer-row")).to_be_hidden()

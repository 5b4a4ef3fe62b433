"""What a conversation is held with: kept with it, and saved under names."""

from __future__ import annotations

import re

from playwright.sync_api import Locator, Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask
from tools.served import Served


def settings(page: Page) -> None:
    page.locator("#settings .toggle-button").click()


def temperature(page: Page) -> Locator:
    return page.get_by_label("number input for Temperature")


def preset(page: Page) -> Locator:
    return page.get_by_label("Preset", exact=True)


def system(page: Page) -> Locator:
    return page.locator("#settings").get_by_label("System prompt")


def test_prompt_and_settings_stay_with_their_conversation(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    settings(page)
    system(page).fill("Answer like a pirate.")
    temperature(page).fill("1.35")
    temperature(page).press("Tab")
    settings(page)
    ask(page, "ahoy")
    expect(page).to_have_url(re.compile(r"\?c="))
    page.reload()
    expect(answers(page)).to_have_count(1)
    expect(system(page)).to_have_value("Answer like a pirate.")
    expect(temperature(page)).to_have_value("1.35")
    other = open_page(fake.url)
    expect(system(other)).to_have_value("")
    expect(temperature(other)).not_to_have_value("1.35")


def test_a_preset_is_saved_chosen_replaced_and_deleted(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    said = page.locator("#preset-said")
    settings(page)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(said).to_contain_text("Give it a name first")
    for heat, name, words in (("0.1", "dry", "Saved as"), ("1.9", "wild", "Saved as"), ("1.8", "wild", "was replaced")):
        system(page).fill(f"Be {name}.")
        temperature(page).fill(heat)
        preset(page).fill(name)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(said).to_contain_text(f"“{name}”")
        expect(said).to_contain_text(words)

    other = open_page(fake.url)
    settings(other)
    for name, heat in (("dry", "0.1"), ("wild", "1.8")):
        preset(other).click()
        other.get_by_role("option", name=name).click()
        expect(system(other)).to_have_value(f"Be {name}.")
        expect(temperature(other)).to_have_value(heat)
    other.get_by_role("button", name="Delete", exact=True).click()
    expect(other.locator("#preset-said")).to_contain_text("was deleted")
    expect(preset(other)).to_have_value("")
    expect(system(other)).to_have_value("Be wild.")
    preset(other).click()
    expect(other.get_by_role("option")).to_have_text([re.compile("dry")])


def test_the_image_tab_has_presets_of_its_own(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="zh-CN")
    page.get_by_role("tab", name="图片问答").click()
    page.locator("#image-settings .toggle-button").click()
    page.locator("#image-settings").get_by_label("高：最多 12 块").check()
    page.locator("#image-preset input").fill("看小字")
    page.locator("#image-preset-save").click()
    expect(page.locator("#image-preset-said")).to_contain_text("已保存为“看小字”")
    page.locator("#image-settings").get_by_label("低：只看整体").check()
    page.reload()
    page.locator("#image-settings .toggle-button").click()
    page.locator("#image-preset input").click()
    expect(page.get_by_role("option")).to_have_text([re.compile("看小字")])
    page.get_by_role("option", name="看小字").click()
    expect(page.locator("#image-settings").get_by_label("高：最多 12 块")).to_be_checked()

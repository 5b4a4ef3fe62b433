"""Whether everyone can use the page: axe-core on every tab in both themes, and what a hand can reach."""

from __future__ import annotations

from importlib.resources import files

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask
from tests.e2e.test_page import overflow
from tools.served import Served

AXE = files("axe_playwright_python").joinpath("axe.min.js").read_text(encoding="utf-8")
MARKDOWN = """# A heading

**Words**, `code`, $x^2$ and a [link](https://example.org)

```python
x = [1, 'a']  # b
```

> quote"""
UNMENDED: dict[str, str] = {}
"""Rules whose findings cannot be mended from here, and why."""


# -- axe --------------------------------------------------------------------------------------------------------------


def serious(page: Page) -> list[str]:
    page.evaluate(AXE)
    found = page.evaluate("axe.run(document, { resultTypes: ['violations'] })")["violations"]
    return [
        f"{one['id']} ({one['impact']}): {node['target']} {node['failureSummary']}"
        for one in found
        for node in one["nodes"]
        if one["impact"] in ("serious", "critical") and one["id"] not in UNMENDED
    ]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("dark", 390)])
def test_axe_finds_nothing_serious_on_any_tab(fake: Served, open_page: OpenPage, scheme: str, width: int) -> None:
    page = open_page(
        fake.url, color_scheme=scheme, reduced_motion="reduce", viewport={"width": width, "height": 800},
        locale="en-US" if scheme == "light" else "zh-CN",
    )  # fmt: skip
    expect(page.locator("#chat .examples")).to_have_attribute("role", "group")
    assert serious(page) == []
    page.locator("#prompt textarea").fill(MARKDOWN)
    page.locator("#prompt textarea").press("Enter")
    expect(page.locator("#chat .usage").last).to_contain_text("token")
    page.locator("#prompt textarea").fill("fake: words=9 after=3 die=SIGKILL")
    page.locator("#prompt textarea").press("Enter")
    expect(answers(page).last.locator("blockquote")).to_be_visible()
    expect(page.locator("#stop")).to_be_hidden()
    assert serious(page) == []
    page.locator("#settings .toggle-button").click()
    expect(page.locator("#settings textarea")).to_be_in_viewport()
    assert serious(page) == []
    page.locator("#settings .toggle-button").click()
    page.locator("#preferences-button").click()
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+/")
    assert serious(page) == []
    page.keyboard.press("Escape")
    page.locator("#image-tab-button").click()
    expect(page.locator("#image-model-state .state")).to_be_visible()
    expect(page.locator("#image-chat .example")).to_have_count(4)
    expect(page.locator("#image-chat .examples")).to_have_attribute("role", "group")
    assert serious(page) == []
    page.locator("#models-tab-button").click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_contain_text("GiB")
    assert serious(page) == []


# -- widths -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "locale"), [(360, "en-US"), (360, "zh-CN")])
def test_everything_in_the_header_is_in_reach(fake: Served, open_page: OpenPage, width: int, locale: str) -> None:
    page = open_page(fake.url, viewport={"width": width, "height": 740}, locale=locale)
    for tab in ("chat", "image", "models"):
        button = page.locator(f"#{tab}-tab-button")
        expect(button).to_be_in_viewport()
        button.click()
        expect(page.locator(f"#{tab}-tab")).to_be_visible()
        assert overflow(page) <= 0
    page.locator("#preferences-button").click()
    expect(page.locator("#theme")).to_be_in_viewport(ratio=1)
    assert overflow(page) <= 0


def test_what_a_finger_has_to_meet_is_large_enough(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, viewport={"width": 390, "height": 780}, has_touch=True)
    ask(page, "hello")
    for selector in (
        "#send",
        "#new-chat",
        "#preferences-button",
        "#settings .toggle-button",
        "#chat [aria-label=Edit]",
    ):
        shape = page.locator(selector).last.bounding_box()
        assert shape and min(shape["width"], shape["height"]) >= 40, selector

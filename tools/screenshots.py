"""Pictures of the running app for the README and for one's own eyes: wide and narrow, light and dark, both languages.

All go to test-results/screenshots, those that the README shows to docs/ as well.
Usage: python -m tools.screenshots   (needs Chromium)
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tools.served import ROOT, Served

QUESTION = "Write a Python function that reverses a string."
WORDS = {
    "en-US": {"message": "Message", "models": "Models", "refused": "fake: words=12 after=9 die=SIGKILL"},
    "zh-CN": {"message": "消息", "models": "模型", "refused": "fake: words=12 after=9 die=SIGKILL"},
}
SHOWN = {
    "chat-wide-light-en": "chat.png",
    "chat-narrow-dark-zh": "chat-narrow.png",
    "models-wide-light-en": "models.png",
}
SIZES = {"wide": (1280, 800), "narrow": (390, 780)}


def main() -> None:
    target = ROOT / "test-results" / "screenshots"
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "launch.py", "models", "get"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        app = Served(Path(data) / "real", environ={"SHUSHENG_FOLDERS": str(ROOT / "data" / "models")})
        scripted = Served(Path(data) / "fake", "--fake")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for size, scheme, locale in product(SIZES, ("light", "dark"), WORDS):
            take(browser, app, scripted, target, size, scheme, locale)
        browser.close()
        app.stop()
        scripted.stop()
    for name, shown in SHOWN.items():
        shutil.copy(target / f"{name}.png", ROOT / "docs" / shown)


def take(browser: Browser, app: Served, scripted: Served, target: Path, size: str, scheme: str, locale: str) -> None:
    """Every view of one look."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, locale=locale, reduced_motion="reduce"
    )  # type: ignore[call-arg]
    words, look = WORDS[locale], f"{size}-{scheme}-{locale[:2]}"
    page = context.new_page()
    page.goto(app.url)
    expect(page.locator("#model-state .state.loaded")).to_be_visible(timeout=90_000)
    expect(page.locator("#offer")).to_contain_text("GiB")
    page.screenshot(path=target / f"empty-{look}.png")
    ask(page, words["message"], QUESTION)
    expect(page.locator("#status")).to_contain_text("token", timeout=120_000)
    page.screenshot(path=target / f"chat-{look}.png")
    page.get_by_role("tab", name=words["models"]).click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_contain_text("GiB")
    page.screenshot(path=target / f"models-{look}.png")
    page.goto(scripted.url)
    ask(page, words["message"], words["refused"])
    expect(page.locator("blockquote")).to_be_visible()
    page.locator("#settings .toggle-button").click()
    page.screenshot(path=target / f"failure-{look}.png")
    context.close()


def ask(page: Page, label: str, text: str) -> None:
    box = page.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


if __name__ == "__main__":
    main()

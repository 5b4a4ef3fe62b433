"""Pictures of the running app for the README and for one's own eyes: wide and narrow, light and dark, both languages.

The image tab's answers and the failure are the scripted engine's, which docs/screenshots/README.md says.

All go to test-results/screenshots, a choice of them to docs/screenshots as well, with a palette to keep them small.
Usage: python -m tools.screenshots   (needs Chromium)
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tools.served import ROOT, Served

QUESTION = "Write a Python function that reverses a string."
WORDS = {
    "en-US": {
        "message": "Message",
        "models": "Models",
        "images": "Image Q&A",
        "question": "What is in these pictures?",
        "refused": "fake: words=12 after=9 die=SIGKILL",
    },
    "zh-CN": {
        "message": "消息",
        "models": "模型",
        "images": "图片问答",
        "question": "这两张图里有什么？",
        "refused": "fake: words=12 after=9 die=SIGKILL",
    },
}
SHOWN = (
    "chat-wide-light-en", "chat-wide-dark-zh", "chat-narrow-dark-zh", "chat-narrow-light-en", "empty-wide-light-zh",
    "images-wide-light-en", "images-narrow-light-zh", "images-empty-wide-light-en",
    "images-empty-wide-light-zh", "images-empty-narrow-dark-en",
    "models-wide-light-en", "models-wide-dark-zh", "models-narrow-light-zh",
    "failure-wide-light-zh", "failure-narrow-dark-en", "refused-wide-dark-en", "refused-narrow-light-zh",
    "preferences-wide-light-en", "preferences-narrow-dark-zh",
)  # fmt: skip
SIZES = {"wide": (1280, 800), "narrow": (390, 780)}


def main() -> None:
    target = ROOT / "test-results" / "screenshots"
    target.mkdir(parents=True, exist_ok=True)
    subprocess.run([sys.executable, "launch.py", "models", "get"], cwd=ROOT, check=True)
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        real = Path(data) / "real"
        real.mkdir()
        (real / "models").symlink_to(ROOT / "data" / "models")  # in the app's own place, of which no picture tells more
        app = Served(real)
        scripted = Served(Path(data) / "fake", "--fake")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for size, scheme, locale in product(SIZES, ("light", "dark"), WORDS):
            take(browser, app, scripted, target, size, scheme, locale)
        browser.close()
        app.stop()
        scripted.stop()
    shown = ROOT / "docs" / "screenshots"
    shown.mkdir(exist_ok=True)
    for name in SHOWN:
        image = Image.open(target / f"{name}.png").convert("RGB")
        image.quantize(colors=192, dither=Image.Dither.NONE).save(shown / f"{name}.png", optimize=True)


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
    expect(page.locator("#chat .example")).to_have_count(3)
    page.screenshot(path=target / f"empty-{look}.png")
    ask(page, words["message"], QUESTION)
    expect(page.locator("#chat .usage").last).to_contain_text("token", timeout=120_000)
    page.screenshot(path=target / f"chat-{look}.png")
    page.locator("#preferences-button").click()
    page.screenshot(path=target / f"preferences-{look}.png")
    page.keyboard.press("Escape")
    page.get_by_role("tab", name=words["models"]).click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_contain_text("GiB")
    expect(page.locator("#memory-now .bar").first).to_be_visible()
    page.screenshot(path=target / f"models-{look}.png")
    page.goto(scripted.url)
    ask(page, words["message"], words["refused"])
    expect(page.locator("blockquote")).to_be_visible()
    page.screenshot(path=target / f"failure-{look}.png")
    page.goto(scripted.url)
    take_images(page, words, target, look)
    context.close()


def take_images(page: Page, words: dict[str, str], target: Path, look: str) -> None:
    """The image tab before a model is loaded, and with a conversation."""
    expect(page.locator("#model-state .state")).to_be_visible()
    page.get_by_role("tab", name=words["images"]).click()
    state = page.locator("#image-model-state .state")
    expect(state).to_be_attached()  # no more than a dot on a narrow page
    if "loaded" in (state.get_attribute("class") or ""):
        page.locator("#image-unload").click()
    expect(page.locator("#image-panel .plan")).to_be_visible()
    page.locator("#image-prompt input[type=file]").set_input_files([picture("hills"), picture("sun")])
    expect(page.locator("#image-prompt").get_by_label("File thumbnail")).to_have_count(2)
    page.screenshot(path=target / f"images-empty-{look}.png")
    box = page.locator("#image-prompt textarea")
    box.fill(words["question"])
    box.press("Enter")
    expect(page.locator("#image-chat .usage").last).to_contain_text("token")
    expect(page.locator("#image-chat .picture img").last).to_have_js_property("complete", True)
    page.screenshot(path=target / f"images-{look}.png")
    damaged = {"name": "scan.png", "mimeType": "image/png", "buffer": picture("hills")["buffer"][:3000]}
    page.locator("#image-prompt input[type=file]").set_input_files([damaged])
    expect(page.locator("#image-prompt").get_by_label("File thumbnail")).to_have_count(1)
    box.fill(words["question"])
    box.press("Enter")
    expect(page.locator("#image-notice")).to_contain_text("scan.png")
    page.screenshot(path=target / f"refused-{look}.png")


def picture(name: str) -> Any:
    """A small landscape, so that nothing need be fetched or kept for a screenshot."""
    image = Image.new("RGB", (1200, 800), "#f3e3c7")
    draw = ImageDraw.Draw(image)
    draw.ellipse((760, 120, 960, 320), fill="#c3503a" if name == "sun" else "#e8c07a")
    for shade, height, step in (("#8fa7a0", 420, 300), ("#4f6f73", 540, 220), ("#2d4449", 660, 160)):
        points = [(x, height + (120 if (x // step) % 2 else 0)) for x in range(0, 1200 + step, step)]
        draw.polygon([(0, 800), *points, (1200 + step, 800)], fill=shade)
    data = io.BytesIO()
    image.crop((0, 0, 1200, 800) if name == "hills" else (560, 0, 1160, 800)).save(data, "PNG")
    return {"name": f"{name}.png", "mimeType": "image/png", "buffer": data.getvalue()}


def ask(page: Page, label: str, text: str) -> None:
    box = page.get_by_label(label, exact=True)
    box.fill(text)
    box.press("Enter")


if __name__ == "__main__":
    main()

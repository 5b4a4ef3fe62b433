"""The image tab on a real engine: a tiny InternVL2 through `vision_native` in a real worker. What it says is noise."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from engines.checkpoints import load_tokenizer
from tests.e2e.conftest import OpenPage
from tests.e2e.test_images import TWO, answers, attach, file, say, settled, thumbnails
from tests.internvl2_checkpoint import make_internvl2
from tools.served import Served

SECONDS = 90_000
USAGE = re.compile(r"\d+ tokens · [\d.]+ per second · first after .* · context ([\d,]+) of")


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    models = tmp_path_factory.mktemp("models")
    folder = make_internvl2(models / "internvl2-2b", window=8192)
    # The catalogue knows the published tokenizer.model's hash, which no other can have.
    load_tokenizer(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer.model").unlink()
    environ = {"SHUSHENG_FOLDERS": str(models), "SHUSHENG_OFFLINE": "true", "SHUSHENG_BACKEND": "native"}
    # The guard plans for the model of full size, which need not fit here.
    served = Served(tmp_path_factory.mktemp("app"), environ=environ | {"SHUSHENG_FORCE": "true"})
    yield served
    assert not (folder / "executed").exists(), "published code was run"
    assert served.stop() == 0, served.output


@pytest.fixture
def page(app: Served, open_page: OpenPage) -> Page:
    page = open_page(app.url)
    page.get_by_role("tab", name="Image Q&A").click()
    expect(page.locator("#image-model-state .state")).to_be_visible()
    return page


def answered(page: Page, count: int) -> int:
    """Waits for so many answers, the last with its usage; the tokens of context that it took."""
    expect(answers(page)).to_have_count(count, timeout=SECONDS)
    # The bubble comes together with Stop: from then on, no Stop means that it is over.
    expect(page.locator("#image-stop")).to_be_hidden(timeout=SECONDS)
    settled(page)
    # The lines come a moment after the bubbles: until then the last is an earlier answer's.
    expect(page.locator("#image-chat .usage")).to_have_count(count)
    expect(page.locator("#image-chat .usage").last).to_contain_text(USAGE)
    expect(answers(page).last).to_have_text(re.compile(r"\S"))
    used = USAGE.search(page.locator("#image-chat .usage").last.inner_text())
    assert used
    return int(used[1].replace(",", ""))


def test_two_images_a_follow_up_and_another_answer(page: Page, app: Served) -> None:
    attach(page, TWO)
    say(page, "What are these?")
    first = answered(page, 1)
    expect(thumbnails(page)).to_have_count(2)
    (worker,) = app.workers()
    assert "engines.worker" in " ".join(worker.cmdline())

    say(page, "And which is larger?")
    assert answered(page, 2) > first
    expect(page.locator("#image-chat .usage").last).to_contain_text("reused")

    page.get_by_label("Retry").last.click()
    expect(page.locator("#image-stop")).to_be_visible()
    answered(page, 2)
    expect(page.locator("#image-chat .usage").last).to_contain_text("reused")


def test_stop_while_it_streams_then_ask(page: Page) -> None:
    attach(page, [file("c.png", 500, 400, "gold")])
    say(page, "Tell me all about it.")
    expect(answers(page).last).to_contain_text(re.compile(r"\S"), timeout=SECONDS)
    page.locator("#image-stop").click()
    settled(page)
    expect(answers(page).last).to_contain_text("Stopped")
    said = answers(page).first.inner_text()
    say(page, "Go on.")
    answered(page, 2)
    assert answers(page).first.inner_text() == said


def test_unload_gives_the_worker_up_and_a_question_loads_again(page: Page, app: Served) -> None:
    say(page, "hello")
    answered(page, 1)
    page.locator("#image-unload").click()
    expect(page.locator("#image-model-state .state")).to_have_text("here")
    assert not app.workers()
    page.locator("#image-new-chat").click()
    expect(answers(page)).to_have_count(0)
    attach(page, TWO[:1])
    say(page, "again")
    answered(page, 1)
    expect(page.locator("#image-model-state .state")).to_have_text("loaded")

"""A model on its way, as a person sees it: on a fresh machine, with progress and cancel, and when it goes wrong."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, say
from tests.hubs import SIZE, WEIGHTS, Hub
from tools.served import Served

REPO = "internlm/internlm2-chat-1_8b"


def test_a_fresh_app_gets_its_first_model_by_itself_and_answers(tmp_path: Path, open_page: OpenPage) -> None:
    app = Served(tmp_path)
    page = open_page(app.url)
    state = page.locator("#model-state .state")
    expect(state).to_have_text("downloading")
    expect(state).to_have_text("loaded", timeout=180_000)
    say(page, "What is the capital of France? One sentence.")
    expect(answers(page).last).to_contain_text(re.compile(r"\w+ \w+"), timeout=90_000)
    page.context.close()
    assert app.stop() == 0, app.output


@pytest.mark.slow
def test_progress_pause_resume_and_a_file_that_is_not_what_it_should_be(
    tmp_path: Path, embedded_models: Path, open_page: OpenPage
) -> None:
    with Hub(REPO) as hub:
        hub.fault("stall")
        settings = {"SHUSHENG_FOLDERS": str(embedded_models), "SHUSHENG_SOURCES": "local,huggingface"}
        app = Served(tmp_path, environ=settings | {"HF_ENDPOINT": hub.url})
        page = open_page(app.url)
        page.get_by_role("button", name=re.compile("Download InternLM2-Chat-1.8B")).click()
        expect(page.locator("#offer")).to_contain_text(re.compile(r"\d+ KiB of 1\.9 MiB .* left · from Hugging Face"))
        page.get_by_role("tab", name="Models").click()
        card = page.locator("#card-internlm2-chat-1_8b")
        column = page.locator(".card", has=card)
        expect(card.locator(".state")).to_have_text("downloading")
        column.get_by_role("button", name="Pause").click()
        expect(card.locator(".state")).to_have_text(re.compile(r"paused, 3\d %"))

        hub.fault("")
        column.get_by_role("button", name="Resume", exact=True).click()
        # The hub's tokenizer.model is not InternLM2's: everything comes, and nothing of it is loaded.
        expect(card).to_contain_text("tokenizer.model: its checksum is wrong")
        expect(card.locator(".state")).to_contain_text("paused")
        assert hub.asked(WEIGHTS)[0].start > 0.3 * SIZE, "it went on where it had been paused"
        column.get_by_role("button", name="Cancel download").click()
        expect(card.locator(".state")).to_have_text("not downloaded")
        page.context.close()
        assert app.stop() == 0, app.output


def test_sources_that_cannot_be_reached_are_named(tmp_path: Path, embedded_models: Path, open_page: OpenPage) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{closed.getsockname()[1]}"
        settings = {"SHUSHENG_FOLDERS": str(embedded_models), "HF_ENDPOINT": nowhere, "MODELSCOPE_ENDPOINT": nowhere}
        app = Served(tmp_path, environ=settings)
        page = open_page(app.url, locale="zh-CN")
        page.get_by_role("tab", name="模型").click()
        card = page.locator("#card-internlm2-chat-1_8b")
        page.locator(".card", has=card).get_by_role("button", name="下载", exact=True).click()
        expect(card).to_contain_text("魔搭 ModelScope: 连接不上", timeout=60_000)
        expect(card).to_contain_text("Hugging Face: 连接不上")
        page.context.close()
        assert app.stop() == 0, app.output

"""Debian's Chromium, pages in both languages, and apps to look at. Tests wait for what a person would see."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from tools.served import ROOT, Served

# What Gradio itself prints when a page is left while a request is under way; the last, when what came before the
# stream broke is still waiting its turn: it has forgotten by then what the next piece is a change of.
LEAVING = ("AbortError", "Connection errored out", "Unexpected client exception TypeError")
SHOTS = ROOT / "test-results"
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=15_000)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An app with the scripted engine; ending cleanly is part of every test of it."""
    app = Served(tmp_path_factory.mktemp("fake"), "--fake")
    yield app
    assert app.stop() == 0, app.output


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, embedded_models: Path) -> Iterator[Served]:
    """An app with the embedded model."""
    app = Served(tmp_path_factory.mktemp("real"), environ={"SHUSHENG_FOLDERS": str(embedded_models)})
    yield app
    assert app.stop() == 0, app.output


@pytest.fixture
def open_page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Opens a page of an app in a browser of its own, whose error console is to stay empty but for what is `known`."""
    contexts: list[BrowserContext] = []
    problems: list[str] = []
    expected = [*LEAVING]

    def _open(url: str, known: tuple[str, ...] = (), sign_in: tuple[str, str] | None = None, **options: Any) -> Page:
        expected.extend(known)
        context = browser.new_context(**{"locale": "en-US", "viewport": {"width": 1280, "height": 800}} | options)
        contexts.append(context)
        if sign_in:
            form = {"name": sign_in[0], "password": sign_in[1]}
            assert context.request.post(urljoin(url, "login"), form=form).ok
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
        page.goto(url)
        expect(page.locator("#model-state .state")).to_be_attached(timeout=30_000)
        return page

    yield _open
    failed = getattr(request.node, "failed", False)
    for number, context in enumerate(contexts):
        if failed:
            SHOTS.mkdir(exist_ok=True)
            context.pages[0].screenshot(path=SHOTS / f"{request.node.name}-{number}.png")
        context.close()
    problems = [one for one in problems if not any(known in one for known in expected)]
    assert failed or not problems, problems


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    if outcome.get_result().failed:
        item.failed = True  # type: ignore[attr-defined]

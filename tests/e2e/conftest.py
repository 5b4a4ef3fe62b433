"""Debian's Chromium, pages in both languages, and apps to look at. Tests wait for what a person would see."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

from tools.served import ROOT, Served

# What Gradio itself prints when a page is left while a request is under way; the last, when what came before the
# stream broke is still waiting its turn: it has forgotten by then what the next piece is a change of.
LEAVING = ("AbortError", "Connection errored out", "Unexpected client exception TypeError")
# The last mention of this flag counts: the first four are among what Playwright turns off itself. The others give each
# window a page of the browser's own for its address bar, which nobody sees here, at a fifth of what our page takes.
WITHOUT = "PaintHolding,HttpsUpgrades,DestroyProfileOnBrowserClose,OptimizationHints"
WITHOUT += ",WebUIOmniboxPopup,WebUIOmniboxAimPopup"
SHOTS = ROOT / "test-results"
AGAIN = 2
"""Times that Playwright asks anew, over a connection of its own, where the server had just closed the one it kept."""
OpenPage = Callable[..., Page]


@pytest.fixture(scope="module")
def trusted() -> str:
    """The key, by its hash, whose certificates the browser takes for an authority's: a module may have one.

    Errors that are ignored (`ignore_https_errors`) are another matter: each connection begins with one, so that of many
    requests at once one may begin anew 32 times, and fails then, with ERR_TOO_MANY_RETRIES.
    """
    return ""


@pytest.fixture(scope="module")
def browser(trusted: str) -> Iterator[Browser]:
    expect.set_options(timeout=15_000)
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
    flags += ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    flags += [f"--disable-features={WITHOUT}", f"--ignore-certificate-errors-spki-list={trusted}"]
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


@dataclass
class Tab:
    """A page in a browser context of its own, and what its error console has said."""

    page: Page
    shelf: list[Tab] | None
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda one: self.problems.append(one.text) if one.type == "error" else None)

    def emptied(self) -> bool:
        """Whether nothing is left in it of who used it, and it can be lent again."""
        if self.page.is_closed() or len(self.page.context.pages) > 1:
            return False
        try:
            # Of the same site: it stays in its process, which knows the scripts. Nothing of the app's runs in it.
            self.page.goto(urljoin(self.page.url, "manifest.json"))
        except Error:  # the app has ended
            return False
        self.page.evaluate("localStorage.clear(); sessionStorage.clear()")
        self.page.context.clear_cookies()
        return True


@pytest.fixture(scope="module")
def tabs() -> dict[str, list[Tab]]:
    """Those that can be lent, by what they were opened with: where a page has been, the next costs half the time."""
    return {}


@pytest.fixture
def open_page(browser: Browser, tabs: dict[str, list[Tab]], request: pytest.FixtureRequest) -> Iterator[OpenPage]:
    """Opens a page of an app in a browser of its own, whose error console is to stay empty but for what is `known`.

    A test that leaves listeners, routes or the like with its page says `used_up`: nobody else gets that one.
    """
    lent: list[Tab] = []
    expected = [*LEAVING]

    def _open(
        url: str,
        known: tuple[str, ...] = (),
        sign_in: tuple[str, str] | None = None,
        used_up: bool = False,
        **options: Any,
    ) -> Page:
        expected.extend(known)
        options = {"locale": "en-US", "viewport": {"width": 1280, "height": 800}} | options
        shelf = tabs.setdefault(json.dumps([urlsplit(url).netloc, options], sort_keys=True), [])
        if shelf and not used_up:
            tab = shelf.pop()
            tab.problems.clear()
            tab.page.set_viewport_size(options["viewport"])
            tab.page.mouse.move(0, 0)
        else:
            tab = Tab(browser.new_context(**options).new_page(), None if used_up else shelf)
        lent.append(tab)
        if sign_in:
            form = {"name": sign_in[0], "password": sign_in[1]}
            assert tab.page.request.post(urljoin(url, "login"), form=form, max_retries=AGAIN).ok
        tab.page.goto(url)
        expect(tab.page.locator("#model-state .state")).to_be_attached(timeout=30_000)
        # Its conversation is there, or what there is to try, or why there is neither.
        shown = tab.page.locator("#chat :is(.message-row, .placeholder-content h2), #status .notice")
        expect(shown.first).to_be_attached(timeout=30_000)
        return tab.page

    yield _open
    failed = getattr(request.node, "failed", False)
    problems = [one for tab in lent for one in tab.problems if not any(known in one for known in expected)]
    for number, tab in enumerate(lent):
        if failed:
            print(f"page {number} said: {tab.problems}")
        if failed and not tab.page.is_closed():
            SHOTS.mkdir(exist_ok=True)
            tab.page.screenshot(path=SHOTS / f"{request.node.name}-{number}.png")
        if tab.shelf is not None and not failed and tab.emptied():
            tab.shelf.append(tab)
        else:
            tab.page.context.close()
    assert failed or not problems, (problems, [tab.problems for tab in lent])


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    if outcome.get_result().failed:
        item.failed = True  # type: ignore[attr-defined]

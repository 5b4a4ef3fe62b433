"""The page's beginning: what is added to Gradio's, and that Gradio still has what is asked of it."""

from __future__ import annotations

import json
from pathlib import Path

import gradio
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from interface import opening
from interface.i18n import LANGS, t
from interface.keys import SHORTCUTS, shortcuts_html
from interface.vision_events import SAMPLES, sample_path

PAGE = Path(gradio.__file__).parent / "templates" / "frontend" / "index.html"


@pytest.fixture
def client() -> TestClient:
    page = PAGE.read_text(encoding="utf-8")
    routes = [
        *opening.routes("auto"),
        Route("/", lambda request: HTMLResponse(page)),
        Route("/other", lambda request: PlainTextResponse("</head>")),
    ]
    return TestClient(Starlette(routes=routes, middleware=[opening.middleware("auto")]))


def test_gradios_page_is_completed_and_nothing_else_is(client: TestClient) -> None:
    page = client.get("/").text
    assert opening.FITTING in page and opening.VIEWPORT not in page
    assert 'href="manifest.json" crossorigin="use-credentials"' in page
    assert page.index("window.matchMedia =") < page.index("</head>")
    assert "OPENING" not in page
    assert client.get("/other").text == "</head>"


def test_behind_a_prefix_addresses_begin_there() -> None:
    page = PAGE.read_text(encoding="utf-8").replace("{{ base_url | default('./') }}", "./")
    assert '<base href="/desk/" />' in opening.complete(page, "", "/desk")
    assert opening.BASE in opening.complete(page, "", "https://elsewhere.example/desk")


def test_gradio_still_has_the_module_that_changes_the_language() -> None:
    module = PAGE.parent / opening.locale_module()
    assert "changeLocale" in module.read_text(encoding="utf-8")


@pytest.mark.parametrize(("asked", "name"), [("zh-TW,zh;q=0.9", "书生案头"), ("de", "Shusheng Desk")])
def test_the_manifest_speaks_the_readers_language(client: TestClient, asked: str, name: str) -> None:
    answer = client.get("/manifest.json", headers={"accept-language": asked})
    assert answer.headers["content-type"] == opening.MANIFEST
    assert json.loads(answer.text)["name"] == name


def test_icons_and_samples_are_what_they_are_said_to_be(client: TestClient) -> None:
    for name, sizes, _ in opening.ICONS:
        assert client.get(f"/icons/{name}").status_code == 200
        if sizes != "any":
            with Image.open(opening.HERE / "icons" / name) as image:
                assert f"{image.width}x{image.height}" == sizes
    assert client.get("/icons/nothing.png").status_code == 404
    for sample in SAMPLES:
        with Image.open(sample_path(sample)) as image:
            assert image.format == "JPEG" and min(image.size) >= 448


def test_every_shortcut_is_listed_in_both_languages() -> None:
    for lang in LANGS:
        listed = shortcuts_html(lang)
        assert listed.count("<dt>") == len(SHORTCUTS)
        assert all(t(f"keys.{name}", lang) in listed for _, name in SHORTCUTS)

"""The app behind Debian's nginx, with TLS, under a path: by the very block that docs/reaching.md gives."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Page, Response, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, questions, say, stop_button
from tests.ways.conftest import Nginx, ask_about
from tools.served import ROOT, Served, free_port

PLAIN = """
server {{
    listen {plain};
    location /desk/ {{
        proxy_pass http://127.0.0.1:{app}/;
        proxy_set_header Host $http_host;
        client_max_body_size 100m;
    }}
}}
"""
"""As many have it: the prefix is taken away, and HTTP/1.0 spoken behind."""


@dataclass(frozen=True)
class Site:
    app: Served
    url: str
    plain: str
    key: str


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, tls, plain = tmp_path_factory.mktemp("nginx"), free_port(), free_port()
    app = Served(tmp_path_factory.mktemp("app"), "--fake", "--root-path", "/desk")
    there = app.url.rstrip("/").rsplit(":")[-1]
    nginx = Nginx(folder, tls, documented(folder, tls, there) + PLAIN.format(plain=plain, app=there))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "desk.pem"))
        yield Site(
            app, f"https://localhost:{tls}/desk/", f"http://localhost:{plain}/desk/", Nginx.hash_of(folder / "desk.key")
        )
    nginx.stop()
    assert app.stop() == 0, app.output


@pytest.fixture(scope="module")
def trusted(site: Site) -> str:
    return site.key


def documented(folder: Path, port: int, app: str) -> str:
    """The documentation's block with this test's ports, name and certificate in it."""
    cert, key = Nginx.certificate(folder)
    (block,) = re.findall(r"```nginx\n(.*?)```", (ROOT / "docs" / "reaching.md").read_text(encoding="utf-8"), re.S)
    for there, here in {
        "listen 443 ssl": f"listen {port} ssl",
        "desk.example": "localhost",
        "/etc/ssl/desk.pem": str(cert),
        "/etc/ssl/desk.key": str(key),
        "127.0.0.1:7860": f"127.0.0.1:{app}",
    }.items():
        assert there in block, there
        block = block.replace(there, here)
    return str(block)


def page_of(site: Site, open_page: OpenPage) -> tuple[Page, list[Response]]:
    """A page, and every answer that it gets from then on."""
    page = open_page(site.url, used_up=True)
    seen: list[Response] = []
    page.on("response", lambda one: seen.append(one))
    page.reload()
    expect(page.locator("#model-state .state")).to_be_attached()
    return page, seen


def test_everything_a_page_loads_is_under_the_prefix(site: Site, open_page: OpenPage) -> None:
    page, seen = page_of(site, open_page)
    ask(page, "hello")
    page.get_by_role("tab", name="Image Q&A").click()
    expect(page.locator("#image-tab img").first).to_be_visible()  # the samples'
    links = page.eval_on_selector_all(
        "link[rel=manifest], link[rel=icon], link[rel*=apple]", "all => all.map(a => a.href)"
    )
    icons = page.evaluate(
        "async (url) => (await (await fetch(url)).json()).icons.map(i => new URL(i.src, url).href)", links[0]
    )
    for url in [*links, *icons]:
        assert page.evaluate("async (url) => (await fetch(url)).status", url) == 200, url
    own = [one for one in seen if not one.url.startswith(("data:", "blob:"))]
    assert len(own) > 30 and len(links) >= 3 and len(icons) == 4
    assert [one.url for one in own if not one.url.startswith(site.url)] == []
    assert [(one.url, one.status) for one in own if one.status >= 400] == []
    assert {cookie["path"] for cookie in page.context.cookies()} == {"/desk/"}


def test_a_photo_is_asked_about(site: Site, open_page: OpenPage, photo: bytes) -> None:
    ask_about(open_page(site.url), photo)


def test_the_page_is_installed_with_its_prefix(site: Site) -> None:
    manifest = httpx.get(site.url + "manifest.json", headers={"accept-language": "zh"}).json()
    assert manifest["short_name"] == "书生案头"
    for name in ("id", "start_url", "scope"):
        assert httpx.URL(site.url + "manifest.json").join(manifest[name]) == site.url
    slashless = httpx.get(site.url.rstrip("/"))
    assert slashless.is_redirect and slashless.headers["location"] == site.url


def test_the_api_is_under_the_prefix(site: Site) -> None:
    question = {
        "model": "smollm2-135m-instruct",
        "messages": [{"role": "user", "content": "two words"}],
        "stream": True,
    }
    for url in (site.url, site.plain):
        assert httpx.get(url + "v1/models").json()["object"] == "list"
        assert "two " in httpx.post(url + "v1/chat/completions", json=question, timeout=30).text
    assert httpx.get(site.url + "v1x").status_code == 404


@pytest.mark.parametrize("way", ["url", "plain", "app"])
def test_with_the_prefix_and_without_it_and_past_the_proxy(site: Site, photo: bytes, way: str) -> None:
    url = site.app.url if way == "app" else getattr(site, way)
    own = {"origin": f"{httpx.URL(url).scheme}://{httpx.URL(url).netloc.decode()}"}
    uploaded = httpx.post(url + "gradio_api/upload", files={"files": ("p.jpg", photo)}, headers=own, timeout=60)
    assert uploaded.status_code == 200 and Path(uploaded.json()[0]).read_bytes() == photo
    assert httpx.get(url + "config").json()["root"].endswith("/desk")
    assert httpx.get(f"{site.app.url}desk/config").status_code == 200
    foreign = {"origin": "https://evil.example"}
    assert httpx.post(url + "gradio_api/upload", files={"files": ("p", b"")}, headers=foreign).status_code == 403
    assert httpx.get(url, headers={"host": "evil.example"}).status_code == 400


def test_words_come_as_they_are_written(site: Site, open_page: OpenPage) -> None:
    """To HTTP/1.0, where nginx gathers: these few would come with the end of the answer, which does not come."""
    page = open_page(site.plain)
    say(page, "fake: words=9 after=5 hang")
    expect(answers(page)).to_have_text("word0 word1 word2 word3 word4")
    expect(stop_button(page)).to_be_visible()
    expect(questions(page)).to_have_count(1)

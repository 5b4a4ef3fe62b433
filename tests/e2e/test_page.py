"""What the page shows and fetches: text as it was written, nothing from elsewhere, both languages, any width."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, ask, of_card, say, stop_button
from tools.served import Served

HTML = [
    "<script>document.title='pwned'</script>",
    "<iframe src='/'></iframe>",
    "<style>body { display: none }</style>",
    "<b onclick='x'>bold</b>",
    "<img src=x onerror=alert(1)>",
    "<meta http-equiv='refresh' content='0;url=/'>",
    "<base href='/nowhere/'>",
    "<details open ontoggle=alert(1)>",
    "<!-- a comment -->",
    "&lt;p&gt; &amp; &nbsp;",
]


def test_a_reply_that_is_raw_html_stays_visible_as_text(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    for markup in HTML:
        ask(page, markup)
        expect(answers(page).last).to_contain_text(markup)
        expect(page).not_to_have_title("pwned")


def test_markdown_code_and_formulas_are_rendered(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    text = "**bold** and `a<b>c`\n\n```python\nprint('<b>')\n```\n\n$e^{i\\pi}$ \\(a<b\\) \\[\\sum x\\] $$y$$"
    ask(page, text)
    reply = answers(page).last
    expect(reply.locator("strong")).to_have_text("bold")
    expect(reply.locator("p code").first).to_have_text("a<b>c")
    expect(reply.locator("pre code .token").first).to_be_visible()
    expect(reply.locator(".katex")).to_have_count(4)


def test_line_ends_that_are_not_markdowns_hide_nothing(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "\u2028\u2028<iframe src='/'></iframe>\n```\ncode\n```")
    expect(answers(page).last).to_contain_text("<iframe src='/'></iframe>")
    expect(answers(page).last.locator("pre")).to_contain_text("code")


def test_markup_in_a_formula_is_part_of_the_formula(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "See \\( a <script>b</script> \\) and $c<d$")
    expect(answers(page).last).to_contain_text("See")
    sources = answers(page).last.locator("annotation")
    expect(sources.nth(0)).to_have_text("a <script>b</script>")
    expect(sources.nth(1)).to_have_text("c<d")


def test_copied_text_is_what_was_written(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, permissions=["clipboard-read", "clipboard-write"])
    ask(page, "<b>as &amp; written</b>")
    page.get_by_label("Copy message").last.click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).trim() === '<b>as &amp; written</b>'")


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server that counts who asks it for anything."""
    hits: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", hits
    server.shutdown()
    thread.join()
    server.server_close()


def test_remote_images_in_a_reply_are_not_fetched(
    fake: Served, open_page: OpenPage, canary: tuple[str, list[str]]
) -> None:
    address, hits = canary
    page = open_page(fake.url)
    ask(page, f"![x]({address}/a?q=secret) <img src='{address}/b'> ![y][1] [1]: {address}/c")
    expect(answers(page).last).to_contain_text(f"<img src='{address}/b'>")
    assert answers(page).last.locator("img").count() == 0 and hits == []


def test_no_request_leaves_the_machine(fake: Served, open_page: OpenPage, browser: Any) -> None:
    asked: list[str] = []
    context = browser.new_context(locale="zh-CN")
    context.on("request", lambda request: asked.append(request.url))
    page = context.new_page()
    page.goto(fake.url)
    expect(page.locator("#model-state .state")).to_be_visible()
    say(page, "hello **you** $x^2$\n```python\nx = 1\n```", label="消息")
    expect(page.locator("#chat .usage").last).to_contain_text("token")
    page.get_by_role("tab", name="模型").click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_be_visible()
    context.close()
    assert asked and [url for url in asked if not url.startswith((fake.url, "data:", "blob:"))] == []


# -- languages and widths ---------------------------------------------------------------------------------------------


def test_the_chinese_page(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="zh-CN")
    expect(page.get_by_role("tab", name="对话")).to_be_visible()
    expect(page.get_by_role("button", name="发送")).to_be_visible()
    expect(page.get_by_role("heading", name="想聊点什么？")).to_be_visible()
    say(page, "fake: words=400 delay=0.05", label="消息")
    expect(page.locator("#status")).to_contain_text("正在回答")
    page.get_by_role("button", name="停止", exact=True).click()
    expect(answers(page).last).to_contain_text("已停止")
    expect(page.locator("#chat .usage").last).to_contain_text("上下文")
    say(page, "你好，<b>世界</b>", label="消息")
    expect(answers(page).last).to_contain_text("你好，<b>世界</b>")
    say(page, "fake: words=9 after=3 die=SIGABRT", label="消息")
    expect(answers(page).last).to_contain_text("引擎停止了")


def test_another_language_gets_english(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, locale="de-DE")
    expect(page.get_by_role("button", name="Send")).to_be_visible()
    expect(page.get_by_role("heading", name="What is on your mind?")).to_be_visible()


def test_no_width_scrolls_sideways(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, viewport={"width": 360, "height": 780})
    ask(page, "x" * 300 + " and `" + "y" * 200 + "`")
    for tab, element in (("Chat", "#prompt"), ("Models", "#card-internlm2-chat-1_8b")):
        page.get_by_role("tab", name=tab).click()
        for width in (360, 390, 768, 1280, 1920):
            page.set_viewport_size({"width": width, "height": 780})
            expect(page.locator(element)).to_be_visible()
            assert overflow(page) <= 0


def overflow(page: Page) -> int:
    return int(page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth"))


def test_the_composer_stays_in_sight_in_a_long_conversation(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    for turn in range(4):
        ask(page, f"{turn} " + "line\n" * 30)
    expect(page.get_by_label("Message", exact=True)).to_be_in_viewport()
    expect(page.get_by_role("tab", name="Models")).to_be_in_viewport()
    expect(answers(page).last).to_be_in_viewport()


FROM_THE_END = """() => {
  const { scrollHeight, scrollTop, offsetHeight } = document.querySelector("#chat .bubble-wrap");
  return Math.round(scrollHeight - scrollTop - offsetHeight);
}"""


def test_a_growing_answer_is_followed_but_for_who_reads_what_was_before(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "line\n" * 60)
    page.wait_for_function(f"({FROM_THE_END})() < 2")
    say(page, "fake: words=500 delay=0.05")
    for word in ("word40 ", "word80 "):
        expect(answers(page).last).to_contain_text(word)
        page.wait_for_function(f"({FROM_THE_END})() < 2")
    page.locator("#chat .bubble-wrap").hover()
    page.mouse.wheel(0, -900)
    expect(answers(page).last).to_contain_text("word140 ")
    assert page.evaluate(FROM_THE_END) > 800
    top = page.locator("#chat .bubble-wrap").evaluate("box => box.scrollTop")
    expect(answers(page).last).to_contain_text("word220 ")
    assert page.locator("#chat .bubble-wrap").evaluate("box => box.scrollTop") == top
    page.mouse.wheel(0, 100_000)
    expect(answers(page).last).to_contain_text("word300 ")
    page.wait_for_function(f"({FROM_THE_END})() < 2")
    stop_button(page).click()
    expect(answers(page).last).to_contain_text("Stopped")


def test_who_asks_or_opens_a_conversation_is_taken_to_its_end(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "first\n" * 60)
    ask(page, "second\n" * 60)
    page.wait_for_function(f"({FROM_THE_END})() < 2")
    page.locator("#chat .bubble-wrap").hover()
    page.mouse.wheel(0, -1200)
    page.wait_for_function(f"({FROM_THE_END})() > 800")
    ask(page, "third\n" * 60)
    page.wait_for_function(f"({FROM_THE_END})() < 2")
    page.mouse.wheel(0, -1200)
    page.wait_for_function(f"({FROM_THE_END})() > 800")
    page.get_by_role("button", name="New chat").first.click()
    expect(answers(page)).to_have_count(0)
    page.locator("#history-list").get_by_text("first").first.click()
    expect(answers(page)).to_have_count(3)
    page.wait_for_function(f"({FROM_THE_END})() < 2")


def test_the_address_names_its_tab_all_the_while_that_a_page_opens(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url, used_up=True)
    page.add_init_script("""window.named = [];
        const replace = history.replaceState.bind(history);
        history.replaceState = (state, _, url) => { named.push(String(url)); return replace(state, _, url); };""")
    page.goto(f"{fake.url}?tab=models")
    page.wait_for_function("desk.tab === 'models'")
    assert page.evaluate("named.filter((one) => !one.includes('tab=models'))") == []
    page.get_by_role("tab", name="Chat", exact=True).click()
    expect(page).to_have_url(fake.url)


# -- the models tab ---------------------------------------------------------------------------------------------------


def test_the_models_tab_says_what_fits_and_unloads_and_loads(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    ask(page, "load it")
    page.get_by_role("tab", name="Models").click()
    card = page.locator("#card-smollm2-135m-instruct")
    expect(card).to_contain_text("small English demo model")
    expect(card).to_contain_text("Fits: needs")
    expect(card.locator(".state")).to_have_text("loaded")
    of_card(page, "smollm2-135m-instruct", "Unload").click()
    expect(card.locator(".state")).to_have_text("here")
    of_card(page, "smollm2-135m-instruct", "Load").click()
    expect(card.locator(".state")).to_have_text("loaded")


def test_a_load_behind_an_answer_shows_when_it_is_done(fake: Served, open_page: OpenPage) -> None:
    one, two = open_page(fake.url), open_page(fake.url)
    two.get_by_role("tab", name="Models").click()
    card = two.locator("#card-internlm2-chat-1_8b")
    unload = two.locator(".card").get_by_role("button", name="Unload")
    while unload.count():
        shown = unload.count()
        unload.first.click()
        expect(unload).to_have_count(shown - 1)
    say(one, "fake: words=500 delay=0.1")
    expect(answers(one).last).to_contain_text("word3 ")
    of_card(two, "internlm2-chat-1_8b", "Load").click()
    expect(card.locator(".state")).to_have_text("loading")
    one.get_by_role("button", name="Stop", exact=True).click()
    expect(card.locator(".state")).to_have_text("loaded")


def test_a_load_that_fails_says_why_on_its_card(tmp_path: Path, open_page: OpenPage) -> None:
    app = Served(tmp_path, "--fake", environ={"FAKE_LOAD": "fake: die=SIGKILL"})
    page = open_page(app.url)
    page.get_by_role("tab", name="Models").click()
    of_card(page, "internlm2-chat-1_8b", "Load").click()
    expect(page.locator("#card-internlm2-chat-1_8b")).to_contain_text("The engine stopped")
    expect(page.locator("#card-internlm2-chat-1_8b .state")).to_have_text("here")
    page.context.close()
    assert app.stop() == 0, app.output


def test_the_state_above_the_chat_follows_an_idle_unload(tmp_path: Path, open_page: OpenPage) -> None:
    app = Served(tmp_path, "--fake", environ={"SHUSHENG_IDLE_UNLOAD": "3"})
    page = open_page(app.url)
    ask(page, "load it")
    expect(page.locator("#model-state .state")).to_have_text("loaded")
    expect(page.locator("#model-state .state")).to_have_text("here")
    page.context.close()
    assert app.stop() == 0, app.output


def test_the_demo_model_offers_the_real_one(fake: Served, open_page: OpenPage) -> None:
    page = open_page(fake.url)
    expect(page.locator("#offer")).to_contain_text("InternLM2-Chat-1.8B")
    expect(page.locator("#offer")).to_contain_text("needs")
    page.get_by_role("button", name="Chat with it").click()
    expect(page.get_by_label("Model", exact=True)).to_have_value("InternLM2-Chat-1.8B")
    expect(page.locator("#offer-row")).to_be_hidden()
    expect(page.get_by_label("number input for Temperature")).to_have_value("0.8")
    say(page, "hello")
    expect(answers(page).last).to_contain_text("hello")

"""The main job on real input: the embedded model, loaded and run by the product, answering in a real browser."""

from __future__ import annotations

import os
import re
import signal

from playwright.sync_api import expect

from tests.e2e.conftest import OpenPage
from tests.e2e.person import answers, questions, say, settled, stop_button
from tools.served import Served

SECONDS = 90_000
WORDS = re.compile(r"\w+ \w+")
"""What it says is its own business: the model is small, and draws its words. Stories are what it does not end soon."""


def test_the_embedded_model_streams_an_answer_and_remembers(real: Served, open_page: OpenPage) -> None:
    page = open_page(real.url)
    expect(page.locator("#model-state .state")).to_have_text("loaded", timeout=SECONDS)
    say(page, "What is the capital of France? Answer in one sentence.")
    expect(answers(page).last).to_contain_text(WORDS, timeout=SECONDS)
    settled(page)
    expect(page.locator("#chat .usage").last).to_contain_text(
        re.compile(r"\d+ tokens · \d+\.\d per second"), timeout=SECONDS
    )
    say(page, "In which country is that city?")
    expect(answers(page).last).to_contain_text(WORDS, timeout=SECONDS)
    expect(page.locator("#chat .usage").last).to_contain_text("reused", timeout=SECONDS)


def test_it_streams(real: Served, open_page: OpenPage) -> None:
    page = open_page(real.url)
    say(page, "Write a long story about a ship, in ten paragraphs.")
    expect(stop_button(page)).to_be_visible()
    expect(answers(page).last).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=SECONDS)
    early = answers(page).last.inner_text()
    expect(stop_button(page)).to_be_visible()
    expect(answers(page).last).to_contain_text(
        re.compile(re.escape(early.strip()[:40]) + r"[\s\S]{120,}"), timeout=SECONDS
    )
    stop_button(page).click()
    settled(page)


def test_stop_then_ask(real: Served, open_page: OpenPage) -> None:
    page = open_page(real.url)
    say(page, "Write a long story about a river, in ten paragraphs.")
    expect(answers(page).last).to_contain_text(re.compile(r"\w+"), timeout=SECONDS)
    stop_button(page).click()
    settled(page)
    said = answers(page).first.inner_text()
    say(page, "What is two plus two?")
    expect(questions(page)).to_have_count(2)
    expect(page.locator("#chat .usage").last).to_contain_text("tokens", timeout=SECONDS)
    settled(page)
    assert answers(page).first.inner_text() == said


def test_edit_and_resend(real: Served, open_page: OpenPage) -> None:
    page = open_page(real.url)
    say(page, "What is the capital of Italy? One sentence.")
    expect(answers(page).last).to_contain_text(WORDS, timeout=SECONDS)
    settled(page)
    page.get_by_label("Edit").first.click()
    page.locator("#chat textarea").fill("What is the capital of France? One sentence.")
    page.get_by_label("Submit").first.click()
    expect(questions(page)).to_contain_text("France")
    expect(answers(page).last).to_contain_text(WORDS, timeout=SECONDS)
    expect(questions(page)).to_have_count(1)


def test_two_pages_at_once(real: Served, open_page: OpenPage) -> None:
    one, two = open_page(real.url), open_page(real.url)
    say(one, "Write a long story about a mountain, in ten paragraphs.")
    expect(answers(one).last).to_contain_text(WORDS, timeout=SECONDS)
    say(two, "What is the capital of France?")
    expect(two.locator("#status")).to_contain_text("Waiting: 1 before you")
    stop_button(one).click()
    expect(answers(two).last).to_contain_text(WORDS, timeout=SECONDS)


def test_the_worker_is_killed_in_mid_answer(real: Served, open_page: OpenPage) -> None:
    page = open_page(real.url)
    say(page, "Write a long story about the sea, in ten paragraphs.")
    expect(answers(page).last).to_contain_text(re.compile(r"\w+ \w+ \w+"), timeout=SECONDS)
    (worker,) = real.workers()
    os.kill(worker.pid, signal.SIGKILL)
    expect(answers(page).last).to_contain_text("The engine stopped")
    settled(page)
    say(page, "What is the capital of France? One sentence.")
    expect(page.locator("#status")).to_contain_text("Loading SmolLM2-135M-Instruct")
    expect(page.locator("#chat .usage").last).to_contain_text("tokens", timeout=SECONDS)
    expect(answers(page)).to_have_count(2)
    settled(page)

"""From the engine to the eye: how much of a fast engine's answer a real browser shows, with the scripted engine.

The engine notes when its first and its last word were made, the browser at each frame how many it shows; both by this
computer's clock. The words are in Markdown with code and formulas. At each length of the conversation: words a second
from the first that was made until all are on the screen, by words made a second; of what was made, the part on the
screen at the moment of the last word; milliseconds from that moment until all is shown; how often a second more is
drawn; and the CPU seconds that the app's own process and Chromium take for 1,000 words. All share this machine's cores.
Usage: python -m benchmarks.eye [--turns 10 300] [--rate 500] [--words 2000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from playwright.sync_api import Browser, expect, sync_playwright

from benchmarks.embedded import median
from benchmarks.page import browser_processes, spent, written
from engines.fake import ANSWERED
from tools.served import Served

# Of each frame that shows more than the one before: when, and how many words.
WATCH = """() => {
  window.shown = [];
  const look = () => {
    const text = [...document.querySelectorAll("#chat [data-testid=bot]")].at(-1)?.textContent ?? "";
    const last = text.lastIndexOf("word");
    const count = last < 0 ? 0 : parseInt(text.slice(last + 4)) + 1 || 0;
    const before = window.shown.at(-1)?.[1] ?? 0;
    if (count > before) window.shown.push([performance.timeOrigin + performance.now(), count]);
    requestAnimationFrame(look);
  };
  look();
}"""
# Looked for rarely: Playwright's own waiting goes through the page's whole text each time.
ENDED = "says => [...document.querySelectorAll('#chat .usage')].at(-1)?.textContent.includes(says)"
Measured = dict[str, float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--turns", type=int, nargs="+", default=[10, 300])
    arguments.add_argument("--rate", type=int, default=500)
    arguments.add_argument("--words", type=int, default=2000)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    measured: dict[int, list[Measured]] = {turns: [] for turns in given.turns}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds} …", file=sys.stderr)
            for turns, rounds in measured.items():
                rounds.append(measure(browser, turns, given.rate, given.words))
        browser.close()
    print(report({turns: median(rounds) for turns, rounds in measured.items()}, given))


def report(of: dict[int, Measured], given: argparse.Namespace) -> str:
    names = platform.processor() or platform.machine(), psutil.cpu_count(), version("gradio")
    lines = [
        "{} · {}, {} cores · Python {}, gradio {} · {} words at {} a second, medians of {} rounds".format(
            datetime.now(UTC).date(), *names[:2], platform.python_version(), names[2],
            given.words, given.rate, given.rounds,
        ),
        "",
        "| turns | shown : made, a second | shown : made, at the last word | the rest after"
        " | made a second | updates a second | app's CPU | browser's |",
        "|---|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    lines += [
        f"| {turns} | {one['ratio']:.3f} | {one['part']:.3f} | {one['rest']:.0f} ms"
        f" | {one['made']:.0f} | {one['updates']:.1f} | {one['app']:.2f} s | {one['page']:.2f} s |"
        for turns, one in of.items()
    ]
    first, last = of[min(of)], of[max(of)]
    lines += ["", f"app's CPU at {max(of)} turns : at {min(of)} turns = {last['app'] / first['app']:.2f}"]
    return "\n".join(lines)


def measure(browser: Browser, turns: int, rate: int, words: int) -> Measured:
    """One answer at the end of a conversation of so many turns, in a fresh app."""
    with tempfile.TemporaryDirectory() as folder:
        conversation = written(Path(folder), turns, words)
        app = Served(Path(folder), "--fake")
        page = browser.new_page(locale="en-US", viewport={"width": 1280, "height": 800})
        page.goto(f"{app.url}?c={conversation}")
        expect(page.get_by_test_id("bot").last).to_contain_text("二分查找", timeout=60_000)
        expect(page.locator("#model-state .state")).to_have_text("loaded", timeout=60_000)
        page.locator("#prompt textarea").fill(f"fake: words={words} delay={1 / rate} markdown")
        page.evaluate(WATCH)
        processes = [psutil.Process(app.process.pid)], browser_processes()
        before = [spent(those) for those in processes]
        page.locator("#prompt textarea").press("Enter")
        page.wait_for_function(ENDED, arg=f"{words:,} tokens", polling=200, timeout=120_000)
        app_cpu, page_cpu = (spent(those) - earlier for those, earlier in zip(processes, before, strict=True))
        shown = [(at / 1000, count) for at, count in page.evaluate("window.shown")]
        page.close()
        log = (Path(folder) / "logs" / "engine.log").read_text(encoding="utf-8")
        assert app.stop() == 0
    return compared(shown, log, words) | {"app": app_cpu / words * 1000, "page": page_cpu / words * 1000}


def compared(shown: list[tuple[float, int]], log: str, words: int) -> Measured:
    """What the browser showed beside what the engine noted."""
    first, last = map(float, log.rpartition(ANSWERED)[2].split()[1:3])
    ended, all_of_it = shown[-1]
    assert all_of_it == words, "not all of it was shown"
    on_screen = max((count for at, count in shown if at <= last), default=0)
    return {
        "ratio": (last - first) / (ended - first),
        "part": on_screen / words,
        "rest": 1000 * (ended - last),
        "updates": len(shown) / (ended - first),
        "made": (words - 1) / (last - first),
    }


if __name__ == "__main__":
    main()

"""A long conversation in a real browser, with the scripted engine: does the page stay responsive?

At each length: seconds until the conversation is open; milliseconds from a key press to its echo in the composer, at
rest and while an answer streams; how often a second that answer is drawn anew; and the CPU seconds that the app's own
process and Chromium take for 1,000 tokens. All share this machine's cores.
Usage: python -m benchmarks.page [--turns 10 100 300]
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from playwright.sync_api import Page, expect, sync_playwright

from engines.base import GenerationSettings
from interface.history import History
from tools.served import Served

MODEL = "smollm2-135m-instruct"
TOKENS = 800
SCRIPT = f"fake: words={TOKENS} delay=0.01"
KEYS = 25
# Of few "words", as the scripted engine counts: 300 turns have to fit its window.
QUESTION = "第{n}问：二分查找是怎么工作的，什么时候用得上？"
ANSWER = """**第{n}答。**二分查找把有序的列表一次次对半分开，只看可能含有目标的那一半：
先和中间的元素比较，再到较小或较大的一半里继续，直到找到它，或者什么都不剩。

```python
low,high=0,len(items)
while(low<high):
  middle=(low+high)//2
  low,high=(middle+1,high)if(items[middle]<wanted)else(low,middle)
```

每一步都把范围缩小一半，所以$n$个元素最多比较$\\log_2n$次。
列表必须是有序的，否则结果没有意义；列表经常变动时，保持有序的代价可能比查找省下的还多。
"""
# From the key's event to the frame in which the page shows it.
WATCH_KEYS = """() => {
  const box = document.querySelector("#prompt textarea");
  window.echoes = [];
  box.addEventListener("keydown", (event) => {
    const pressed = event.timeStamp;
    box.addEventListener("input", () => requestAnimationFrame(() => setTimeout(
      () => window.echoes.push(performance.now() - pressed))), { once: true });
  });
}"""
WATCH_ANSWER = """() => {
  window.draws = []; let last = "";
  const look = () => {
    const text = [...document.querySelectorAll("#chat [data-testid=bot]")].at(-1)?.textContent ?? "";
    if (text !== last && text.includes("word")) window.draws.push(performance.now());
    last = text;
    requestAnimationFrame(look);
  };
  look();
}"""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--turns", type=int, nargs="+", default=[10, 100, 300])
    given = arguments.parse_args()
    print(machine())
    print(
        "| turns | open | key to echo, at rest | while answering | worst | updates a second | app's CPU | browser's |"
    )
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        conversations = {turns: written(Path(data), turns) for turns in given.turns}
        app = Served(Path(data), "--fake")
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for turns, conversation in conversations.items():
            page = browser.new_page(locale="en-US", viewport={"width": 1280, "height": 800})
            print(row(turns, measure(page, app, conversation)), flush=True)
            page.close()
        browser.close()
        app.stop()


def written(data: Path, turns: int, longest: int = TOKENS) -> str:
    """A conversation of so many turns, put into the store before the app starts; `longest` is its longest answer."""
    store = History(data / "conversations.sqlite3", data / "images").of("")
    conversation = store.create(MODEL, "", GenerationSettings(max_new_tokens=longest))
    with store.transaction():
        for n in range(1, turns + 1):
            store.add(conversation, "user", QUESTION.format(n=n))
            store.add(conversation, "assistant", ANSWER.replace("{n}", str(n)))
    store.file.close()
    return conversation


def measure(page: Page, app: Served, conversation: str) -> dict[str, float]:
    started = time.monotonic()
    page.goto(f"{app.url}?c={conversation}")
    expect(page.get_by_test_id("bot").last).to_contain_text("二分查找", timeout=60_000)
    opened = time.monotonic() - started
    box = page.locator("#prompt textarea")
    page.evaluate(WATCH_KEYS)
    rest = typed(page)
    box.fill(SCRIPT)
    page.evaluate(WATCH_ANSWER)
    processes = [psutil.Process(app.process.pid)], browser_processes()
    before = [spent(those) for those in processes]
    box.press("Enter")
    expect(page.get_by_test_id("bot").last).to_contain_text("word20 ", timeout=60_000)
    busy = typed(page)
    expect(page.locator("#chat .usage").last).to_contain_text(f"{TOKENS} tokens", timeout=120_000)
    app_cpu, page_cpu = (spent(those) - earlier for those, earlier in zip(processes, before, strict=True))
    draws = page.evaluate("window.draws")
    return {
        "open": opened,
        "rest": statistics.median(rest),
        "busy": statistics.median(busy),
        "worst": max(busy),
        "rate": (len(draws) - 1) / (draws[-1] - draws[0]) * 1000,
        "app": app_cpu / TOKENS * 1000,
        "page": page_cpu / TOKENS * 1000,
    }


def typed(page: Page) -> list[float]:
    """Milliseconds for each key."""
    page.evaluate("window.echoes.length = 0")
    page.locator("#prompt textarea").focus()
    for number in range(KEYS):
        page.keyboard.press("abcdefgh"[number % 8])
        page.wait_for_function("count => window.echoes.length > count", arg=number, timeout=60_000)
        page.wait_for_timeout(100)
    return list(page.evaluate("window.echoes"))


def browser_processes() -> list[psutil.Process]:
    """Chromium's, of which one draws the page."""
    family = psutil.Process().children(recursive=True)
    return [one for one in family if "chrom" in one.name()]


def spent(processes: list[psutil.Process]) -> float:
    """CPU seconds so far."""
    times = [one.cpu_times() for one in processes]
    return float(sum(one.user + one.system for one in times))


def row(turns: int, of: dict[str, Any]) -> str:
    return (
        f"| {turns} | {of['open']:.1f} s | {of['rest']:.0f} ms | {of['busy']:.0f} ms | {of['worst']:.0f} ms |"
        f" {of['rate']:.1f} | {of['app']:.1f} s | {of['page']:.1f} s |"
    )


def machine() -> str:
    date = datetime.now(UTC).date().isoformat()
    return (
        f"{date} · {platform.processor() or platform.machine()}, {psutil.cpu_count()} cores · Python"
        f" {platform.python_version()}, gradio {version('gradio')} · {TOKENS} tokens, medians of {KEYS} keys"
    )


if __name__ == "__main__":
    main()

"""The embedded model, measured on this machine, beside plain transformers in the same run. Prints ratios first.

load time, time to first token, tokens per second and peak memory; the share of the engine's tokens per second that
reaches a browser; the time to first token at turns 2, 10 and 20 of a conversation and past a window that it outgrew,
with the KV cache kept and without.
Usage: python -m benchmarks.embedded [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.served import ROOT, Served

MODEL = "smollm2-135m-instruct"
FOLDER = ROOT / "data" / "models" / MODEL
TOKENS = 128
TURNS = (2, 10, 20)
QUESTION = "Write a long story about a ship that sails around the world."


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--json", type=Path)
    given = arguments.parse_args()
    subprocess.run([sys.executable, "launch.py", "models", "get", MODEL], cwd=ROOT, check=True)
    measured = measure(given.rounds)
    print(report(measured))
    if given.json:
        given.json.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


def measure(rounds: int) -> dict[str, Any]:
    """Medians over interleaved rounds: every round runs each contender once, in its own process."""
    ours: list[dict[str, float]] = []
    plain: list[dict[str, float]] = []
    pages: list[dict[str, float]] = []
    for number in range(rounds):
        print(f"round {number + 1} of {rounds} …", file=sys.stderr)
        ours.append(child("ours"))
        plain.append(child("plain"))
        pages.append(through_the_page())
    kept, recomputed = child("turns") | child("past"), child("turns-recomputed") | child("past-recomputed")
    return {
        "machine": machine(),
        "ours": median(ours),
        "plain": median(plain),
        "page": median(pages),
        "turns": kept,
        "turns_recomputed": recomputed,
        "rounds": rounds,
    }


def report(measured: dict[str, Any]) -> str:
    ours, plain, page = measured["ours"], measured["plain"], measured["page"]
    kept, recomputed = measured["turns"], measured["turns_recomputed"]
    lines = [
        measured["machine"],
        f"SmolLM2-135M-Instruct, float32, {TOKENS} new tokens, medians of {measured['rounds']} interleaved rounds",
        "",
        "ratios",
        f"  tokens/s, our streamer : plain generate with TextIteratorStreamer   {ours['rate'] / plain['rate']:.2f}",
        f"  first token, ours : plain                                           {ours['first'] / plain['first']:.2f}",
        f"  load, ours : plain (AutoModel and AutoTokenizer, the same folder)   {ours['load'] / plain['load']:.2f}",
        f"  tokens/s seen in the browser : engine's own in that answer          {page['seen'] / page['rate']:.2f}",
        f"  tokens/s seen in the browser : engine alone, no app and no browser  {page['seen'] / ours['rate']:.2f}",
        *(
            f"  first token at turn {turn:2}, KV cache kept : recomputed               "
            f"     {kept[f'turn {turn}'] / recomputed[f'turn {turn}']:.2f}"
            for turn in TURNS
        ),
        f"  first token past the window, KV cache kept : recomputed           {kept['past'] / recomputed['past']:.2f}",
        "",
        "                       ours     plain",
        f"  load                 {ours['load']:6.2f} s  {plain['load']:6.2f} s   (process start to ready)",
        f"  first token          {ours['first']:6.2f} s  {plain['first']:6.2f} s",
        f"  tokens per second    {ours['rate']:6.1f}    {plain['rate']:6.1f}",
        f"  peak memory          {ours['peak'] / 2**20:6.0f}    {plain['peak'] / 2**20:6.0f}     MiB",
        f"  in the browser       {page['seen']:6.1f}    tokens per second, while the engine made {page['rate']:.1f}",
        "",
        "  first token at turn  " + "".join(f"{turn:8}" for turn in TURNS),
        "    KV cache kept      " + "".join(f"{kept[f'turn {turn}']:7.2f}s" for turn in TURNS),
        "    recomputed         " + "".join(f"{recomputed[f'turn {turn}']:7.2f}s" for turn in TURNS),
        "    prompt, tokens     " + "".join(f"{kept[f'prompt {turn}']:8.0f}" for turn in TURNS),
        f"  past a window of 1024 tokens, mean of {kept['past turns']:.0f} turns: "
        f"{kept['past']:.2f} s, recomputed {recomputed['past']:.2f} s",
    ]
    return "\n".join(lines)


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "gradio"))
    today = datetime.now(UTC).date()
    return f"{today} · {model}, {os.cpu_count()} cores · Python {platform.python_version()}, {versions}"


def median(runs: list[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


# -- contenders, each in a process of its own -------------------------------------------------------------------------


def child(name: str) -> dict[str, float]:
    """Runs one contender in a fresh interpreter; what it measured."""
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.embedded_child", name, str(FOLDER), str(began), str(TOKENS)],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    return dict(json.loads(done.stdout.splitlines()[-1]))


WATCH = """() => {
  window.seen = [];
  const bots = document.querySelectorAll('[data-testid="bot"]');
  new MutationObserver(() => {
    const all = document.querySelectorAll('[data-testid="bot"]');
    const text = all.length ? all[all.length - 1].innerText : '';
    const last = window.seen[window.seen.length - 1];
    if (text && (!last || last[1] !== text.length)) window.seen.push([performance.now(), text.length]);
  }).observe(document.querySelector('#chat'), {childList: true, subtree: true, characterData: true});
}"""


def through_the_page() -> dict[str, float]:
    """One answer in a real browser: tokens a second as they become visible, and as the engine counted them."""
    from playwright.sync_api import expect, sync_playwright

    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        app = Served(Path(data), environ={"SHUSHENG_FOLDERS": str(FOLDER.parent)})
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        page = browser.new_page(locale="en-US")
        page.goto(app.url)
        expect(page.locator("#model-state .state")).to_have_text("loaded", timeout=90_000)
        page.locator("#settings .toggle-button").click()
        page.get_by_label("number input for Longest answer").fill(str(TOKENS))
        page.get_by_label("number input for Longest answer").press("Tab")
        page.evaluate(WATCH)
        page.get_by_label("Message", exact=True).fill(QUESTION)
        page.get_by_label("Message", exact=True).press("Enter")
        expect(page.locator("#chat .usage").last).to_contain_text("tokens", timeout=90_000)
        seen = page.evaluate("window.seen")
        browser.close()
        used = usage(Path(data))
        app.stop()
    # The notice that the length was reached comes after the last token, and is no part of the answer.
    grown = [one for one in seen if one[1] <= used["characters"] + 2]
    seconds = (grown[-1][0] - grown[0][0]) / 1000
    return {"seen": (used["new_tokens"] - 1) / seconds, "rate": used["rate"]}


def usage(data: Path) -> dict[str, float]:
    with sqlite3.connect(data / "conversations.sqlite3") as db:
        (text, kept) = db.execute("SELECT text, usage FROM messages WHERE role = 'assistant'").fetchone()
    numbers = json.loads(kept)
    rate = (numbers["new_tokens"] - 1) / (numbers["seconds"] - numbers["first_token_s"])
    return {"new_tokens": numbers["new_tokens"], "rate": rate, "characters": len(text)}


if __name__ == "__main__":
    main()

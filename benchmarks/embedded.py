"""The embedded model on this machine's CPU, beside plain transformers and OpenVINO GenAI. Prints ratios first.

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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import openvino_peer
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
    packed = openvino_peer.prepare(MODEL)
    contenders: dict[str, Callable[[], dict[str, float]]] = {
        "ours": lambda: child("ours"),
        "plain": lambda: child("plain"),
        "page": through_the_page,
    }
    if packed is not None:
        contenders["openvino"] = lambda: openvino_peer.measure(packed, TOKENS, QUESTION)
    runs: dict[str, list[dict[str, float]]] = {}
    for number in range(rounds):
        print(f"round {number + 1} of {rounds} …", file=sys.stderr)
        for name, run in contenders.items():
            runs.setdefault(name, []).append(run())
            if name != "page":
                with a_busy_core():
                    runs.setdefault(f"{name}, busy", []).append(run())
    return {
        "machine": machine(),
        "rounds": rounds,
        **{name: median(some) for name, some in runs.items()},
        "turns": child("turns") | child("past"),
        "turns_recomputed": child("turns-recomputed") | child("past-recomputed"),
    }


@contextmanager
def a_busy_core() -> Iterator[None]:
    """Another program that takes all of one core."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


PEERS = {"plain": "plain transformers", "openvino": "OpenVINO GenAI"}


def report(measured: dict[str, Any]) -> str:
    ours, page = measured["ours"], measured["page"]
    peers = [name for name in PEERS if name in measured]
    columns = ["ours", *peers]
    kept, recomputed = measured["turns"], measured["turns_recomputed"]

    def rate(name: str) -> float:
        return float(measured[name]["rate"])

    def line(label: str, *cells: str) -> str:
        return f"| {label} | {' | '.join(cells)} |"

    return "\n".join([
        measured["machine"],
        f"SmolLM2-135M-Instruct, {TOKENS} new tokens, greedy, medians of {measured['rounds']} interleaved rounds",
        "",
        "| ratio | |",
        "|---|---|",
        *(line(f"tokens/s, ours : {PEERS[one]}", f"{rate('ours') / rate(one):.2f}") for one in peers),
        *(line(f"the same with one core taken, ours : {PEERS[one]}",
               f"{rate('ours, busy') / rate(f'{one}, busy'):.2f}") for one in peers),
        line("tokens/s with one core taken : without, ours", f"{rate('ours, busy') / rate('ours'):.2f}"),
        line("tokens/s seen in the browser : the engine's own meanwhile", f"{page['seen'] / page['rate']:.2f}"),
        line("the engine's own meanwhile : alone, no app and no browser", f"{page['rate'] / ours['rate']:.2f}"),
        *(line(f"first token at turn {turn}, KV cache kept : recomputed",
               f"{kept[f'turn {turn}'] / recomputed[f'turn {turn}']:.2f}") for turn in TURNS),
        line("first token past the window, KV cache kept : recomputed", f"{kept['past'] / recomputed['past']:.2f}"),
        "",
        line("", "ours", *(PEERS[one] for one in peers)),
        "|---|" + "---|" * len(columns),
        *(line(label, *(f"{measured[one][key] / unit:.{digits}f} {name}".strip() for one in columns))
          for label, key, unit, digits, name in (
              ("load, process start to ready", "load", 1, 2, "s"), ("first token", "first", 1, 2, "s"),
              ("tokens/s", "rate", 1, 1, ""), ("peak memory of the process", "peak", 2**20, 0, "MiB"))),
        line("tokens/s, one core taken", *(f"{rate(f'{one}, busy'):.1f}" for one in columns)),
        "",
        f"In the browser {page['seen']:.1f} tokens/s, while the engine made {page['rate']:.1f}.",
        "",
        line("one conversation", *(f"turn {turn}" for turn in TURNS)),
        "|---|" + "---|" * len(TURNS),
        line("prompt, tokens", *(f"{kept[f'prompt {turn}']:.0f}" for turn in TURNS)),
        line("first token, KV cache kept", *(f"{kept[f'turn {turn}']:.2f} s" for turn in TURNS)),
        line("recomputed", *(f"{recomputed[f'turn {turn}']:.2f} s" for turn in TURNS)),
        "",
        f"Past a window of 1024 tokens, mean of {kept['past turns']:.0f} turns: {kept['past']:.2f} s, "
        f"recomputed {recomputed['past']:.2f} s.",
    ])  # fmt: skip


def machine() -> str:
    model = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.processor(),
    )
    versions = ", ".join(f"{name} {version(name)}" for name in ("onnxruntime", "torch", "transformers", "gradio"))
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

"""Many clients of one app with the scripted engine, over real HTTP: is anyone lost, and does the app stay as it was?

First all ask at once, each with a key of its own, and come again when they are told to: everyone must be answered or
refused by name. Then as many turns one after the other, of which every third is dropped by its client, before or in
the middle of the answer: memory, threads and open files of the app before and after.
Usage: python -m benchmarks.crowd [--clients 60] [--turns 500]
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from tools.served import Served

MODEL = "smollm2-135m-instruct"
WORDS = 20
QUESTION = f"fake: words={WORDS} delay=0.01"
ANSWER = "".join(f"word{n} " for n in range(WORDS))
AT_A_TIME = 8
MOST_TRIES = 100
SETTLE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Ended:
    """How one question ended: `what` is "answered", "dropped", a refusal's status and code, or "lost: …".

    `first` is the time to the first word, `retry_after` what a refusal said.
    """

    what: str
    seconds: float
    first: float = 0.0
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class Held:
    """What the app's own process, and its engine's, hold."""

    app_mib: float
    engine_mib: float
    threads: int
    files: int

    @classmethod
    def of(cls, app: Served) -> Held:
        own, engines = psutil.Process(app.process.pid), app.workers()
        return cls(
            own.memory_info().rss / 2**20, sum(one.memory_info().rss for one in engines) / 2**20,
            own.num_threads(), own.num_fds(),
        )  # fmt: skip


def serve(data: Path, clients: int) -> Served:
    """An app that knows so many clients by their keys."""
    keys = ",".join(f"client{n}:key{n}" for n in range(clients))
    return Served(data, "--fake", environ={"SHUSHENG_API_KEYS": keys})


def ask(app: Served, client: int, drop_after: int | None = None) -> Ended:
    """One question of one client, streamed; with `drop_after` it hangs up after so many pieces."""
    began, said, first = time.monotonic(), "", 0.0
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "stream": True}
    headers = {"authorization": f"Bearer key{client}"}

    def ended(what: str, retry_after: str = "0") -> Ended:
        return Ended(what, time.monotonic() - began, first, float(retry_after))

    try:
        with httpx.stream("POST", app.url + "v1/chat/completions", json=body, headers=headers, timeout=300) as answer:
            if answer.status_code != 200:
                error = json.loads(answer.read())["error"]
                return ended(f"{answer.status_code} {error['code']}", answer.headers.get("retry-after", "0"))
            pieces = 0
            for line in answer.iter_lines():
                if drop_after is not None and pieces >= drop_after:
                    return ended("dropped")
                if not line.startswith("data: {"):
                    continue
                chunk = json.loads(line.removeprefix("data: "))
                if "error" in chunk:
                    return ended(f"lost: {chunk['error']['code']}")
                if piece := chunk["choices"][0]["delta"].get("content"):
                    first = first or time.monotonic() - began
                    said, pieces = said + piece, pieces + 1
    except (httpx.HTTPError, ValueError, KeyError) as error:
        return ended(f"lost: {type(error).__name__}")
    return ended("answered" if said == ANSWER else "lost: incomplete")


def at_once(app: Served, clients: int) -> tuple[list[Ended], list[Ended]]:
    """All ask in the same moment, and come again when they are told to: how the first try ended, and the last."""
    begin = threading.Barrier(clients)

    def one(client: int) -> tuple[Ended, Ended]:
        begin.wait()
        began = time.monotonic()
        first = last = ask(app, client)
        for _ in range(MOST_TRIES):
            if not last.retry_after:
                break
            time.sleep(last.retry_after)
            last = ask(app, client)
        return first, Ended(last.what, time.monotonic() - began, last.first)

    with ThreadPoolExecutor(clients) as pool:
        ended = list(pool.map(one, range(clients)))
    return [one for one, _ in ended], [one for _, one in ended]


def turns(app: Served, count: int) -> Counter[str]:
    """So many questions of a few clients side by side; every third hangs up, at its beginning or later on."""

    def one(turn: int) -> str:
        drop_after = (turn // 3) % 6 if turn % 3 == 2 else None
        return ask(app, turn % AT_A_TIME, drop_after).what

    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return Counter(pool.map(one, range(count)))


def settled(app: Served) -> Held:
    """What is held when nothing has been under way for a while."""
    time.sleep(SETTLE_SECONDS)
    return Held.of(app)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=60)
    parser.add_argument("--turns", type=int, default=500)
    given = parser.parse_args()
    machine = f"{platform.machine()}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.1f}"
    print(f"{datetime.now(UTC):%Y-%m-%d} · {machine} · Python {platform.python_version()}, gradio {version('gradio')}")
    with tempfile.TemporaryDirectory() as folder:
        app = serve(Path(folder) / "data", max(given.clients, AT_A_TIME))
        try:
            report(app, given.clients, given.turns)
        finally:
            app.stop()


def report(app: Served, clients: int, count: int) -> None:
    """Prints the tables."""
    first, last = at_once(app, clients)
    print(f"\n{clients} clients at once: first {dict(Counter(one.what for one in first))}")
    print(f"coming again when told to: {dict(Counter(one.what for one in last))}")
    waits = sorted(one.seconds for one in last)
    print(f"until answered: median {statistics.median(waits):.1f} s, last {waits[-1]:.1f} s")
    turns(app, 5 * AT_A_TIME)  # what a first time costs is not what a leak costs
    print(f"\n| turns | app MiB | engine MiB | threads | files |\n|---|---|---|---|---|\n{line(0, settled(app))}")
    ended: Counter[str] = Counter()
    for part in range(1, 6):
        ended += turns(app, count // 5)
        print(line(part * (count // 5), settled(app)), flush=True)
    print(f"\n{dict(ended)}")


def line(turn: int, held: Held) -> str:
    return f"| {turn} | {held.app_mib:.1f} | {held.engine_mib:.1f} | {held.threads} | {held.files} |"


if __name__ == "__main__":
    main()

"""What kill -9 costs: an app that writes as fast as it can is killed at random moments, and its file is looked at.

The app's own store, answers and runner are at work in a child process: one conversation is answered by the scripted
engine in its worker, another is filled with turns of all sizes. Whatever the store has committed is acknowledged over a
pipe; after the kill each acknowledged turn has to be in the file, whole, and the answer that was growing up to less
than a second before its end.
Usage: python -m benchmarks.durability [--kills 200] [--seed N]
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from configs.load import load_catalogue, load_config
from engines.base import GenerationSettings
from engines.job import Delta
from engines.library import Library
from engines.runner import Runner
from engines.worker import Worker
from interface.answers import Answers
from interface.history import History, Store
from tools.served import ROOT

LONGEST_LIFE = 2.5
"""Seconds from the first acknowledged turn to the kill, at most."""


KILLS_PER_FILE = 20


@dataclass
class Outcome:
    """What was found after all kills. Times in seconds."""

    kills: int = 0
    acknowledged: int = 0
    lost: int = 0
    corrupt: int = 0
    growing: int = 0
    """Kills in the middle of an answer of which something had been shown."""
    worst_loss: float = 0.0
    """How long before a kill the first word was shown that is not in the file."""


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--kills", type=int, default=200)
    arguments.add_argument("--seed", type=int, default=None)
    arguments.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.write:
        write(given.write)
        return
    with tempfile.TemporaryDirectory() as folder:
        start = time.monotonic()
        outcome = run(Path(folder), given.kills, given.seed)
        size = max(one.stat().st_size for one in Path(folder).glob("*/*.sqlite3"))
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", "sqlite": sqlite3.sqlite_version, "system": platform.platform()}
    facts |= {"cores": psutil.cpu_count(), "largest_file": size, "seconds": round(time.monotonic() - start)}
    print(json.dumps(asdict(outcome) | facts, indent=2))


def run(folder: Path, kills: int, seed: int | None = None) -> Outcome:
    """Kills so many writers one after the other, a few on each file."""
    chance, outcome = random.Random(seed), Outcome()
    for number in range(kills):
        place = folder / str(number // KILLS_PER_FILE)
        place.mkdir(exist_ok=True)
        said, killed_at = _killed_writer(place, chance.uniform(0, LONGEST_LIFE))
        _look(place / "conversations.sqlite3", said, killed_at, outcome)
        print(outcome, file=sys.stderr)
    return outcome


def _killed_writer(folder: Path, life: float) -> tuple[list[list[Any]], float]:
    """What a writer acknowledged before it was killed, and when that was."""
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.durability", "--write", str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout is not None
        lines = [writer.stdout.readline()]
        reading = threading.Thread(target=lambda: lines.extend(writer.stdout or ()))
        reading.start()
        time.sleep(life)
        workers = psutil.Process(writer.pid).children(recursive=True)
        killed_at = time.monotonic()
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        reading.join()
        assert not psutil.wait_procs(workers, timeout=30)[1], "a worker was left behind"
    return [json.loads(line) for line in lines if line.endswith(b"\n")], killed_at


def _look(path: Path, said: list[list[Any]], killed_at: float, outcome: Outcome) -> None:
    """Opens the file as the next app would."""
    outcome.kills += 1
    with closing(sqlite3.connect(path)) as db:
        outcome.corrupt += db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]
        stored = {id: (text, status) for id, text, status in db.execute("SELECT id, text, status FROM messages")}
    shown: dict[int, list[tuple[int, float]]] = {}
    for kind, id, *rest in said:
        if kind == "turn":
            outcome.acknowledged += 1
            outcome.lost += _digest(stored.get(id, ("", ""))[0]) != rest[0]
        else:
            shown.setdefault(id, []).append((rest[0], rest[1]))
    for id, lengths in shown.items():
        text, status = stored[id]
        if status == "growing":
            outcome.growing += 1
            missing = [killed_at - at for length, at in lengths if length > len(text)]
            outcome.worst_loss = max([outcome.worst_loss, *missing])


# -- the child that is killed -----------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """Writes until it is killed."""
    config = load_config({"data": folder}, {})
    runner = Runner(Library(config, load_catalogue(), fake=True), config.limits, lambda: Worker(folder / "engine.log"))
    store = History(folder / "conversations.sqlite3", folder / "images").of("")
    store.file.settle()
    threading.Thread(target=_fill, args=(store,), daemon=True).start()
    _converse(Answers(runner, store), config.models.model)


_speaking = threading.Lock()


def _say(*what: object) -> None:
    with _speaking:
        sys.stdout.write(json.dumps(what) + "\n")
        sys.stdout.flush()


def _converse(answers: Answers, model: str) -> None:
    """Questions and growing answers, each cut after a while."""
    id = answers.store.create(model, "", GenerationSettings(max_new_tokens=30_000))
    while True:
        question = f"fake: words=30000 delay=0.002 {random.random()}"
        answers.ask(id, question)
        asked, answer = answers.store.path(id)[-2:]
        _say("turn", asked.id, _digest(question))
        growing = answers.of(id)
        assert growing is not None
        length, until = 0, time.monotonic() + random.uniform(0.5, 4)
        for event in growing.job.watch():
            if isinstance(event, Delta):
                length += len(event.text)
                _say("shown", answer.id, length, time.monotonic())
            if time.monotonic() > until:
                growing.job.cancel()
        growing.recorded.wait()


def _fill(store: Store) -> None:
    """Turns of all sizes as fast as the disk takes them, some of them in the place of others."""
    id = store.create("filled", "", GenerationSettings())
    while True:
        text = random.randbytes(int(10 ** random.uniform(0, 4.3))).hex()
        with store.transaction():
            if random.random() < 0.2:
                for one in store.path(id)[-1:]:
                    store.rewind(id, one.id)
            store.configure(id, "filled", text[:20], GenerationSettings(seed=random.randrange(10**6)))
            row = store.add(id, "user", text)
        _say("turn", row, _digest(text))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    main()

"""What the tests on a card share: a card that is made small, the app's own runner, and rows for docs/."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.load import load_catalogue, load_config
from engines.library import Library
from engines.memory import MIB
from engines.probe import free_memory
from engines.runner import Runner
from engines.worker import Worker


def row(*cells: object) -> None:
    """A line for the table in docs/, printed at once."""
    print("\n| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


class Ballast:
    """Leaves so many GiB of the card to the others, until it is closed."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("ballast.py"))],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def leave(self, free: float) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(f"{free}\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline().strip() == "holds"

    def close(self) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            self._process.wait(30)


@contextmanager
def card_with(free: float) -> Iterator[None]:
    """Leaves `free` GiB of the card to the others."""
    ballast = Ballast()
    try:
        ballast.leave(free)
        yield
    finally:
        ballast.close()


@contextmanager
def running(
    models: Path, tmp_path: Path, start: Callable[[Path], Worker] = Worker, deadline: float = 300, **settings: Any
) -> Iterator[tuple[Library, Runner]]:
    """The app's library and runner on the checkpoints in `models`; `settings` are configured beside."""
    config = load_config({"data": tmp_path} | settings, {})
    config = replace(
        config,
        models=replace(config.models, folders=(models,)),
        limits=replace(config.limits, load_deadline=deadline),
    )
    library = Library(config, load_catalogue())
    runner = Runner(library, config.limits, lambda: start(tmp_path / "engine.log"))
    try:
        yield library, runner
    finally:
        assert runner.close(30)
        if (log := tmp_path / "engine.log").exists():
            lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
            print("\n".join(line for line in lines if line.strip() and "Loading" not in line)[-1200:])


def freed(start: int, seconds: float = 10) -> bool:
    """Whether the card has again what was free at the start."""
    end = time.monotonic() + seconds
    while free_memory() < start - 64 * MIB and time.monotonic() < end:
        time.sleep(0.05)
    return free_memory() >= start - 64 * MIB

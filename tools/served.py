"""The real launch.py as a child process on a free port: for tests, benchmarks and screenshots."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil

from interface import reach

ROOT = Path(__file__).resolve().parent.parent
PORTS = itertools.count(20_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
"""Below those that systems hand out by themselves: one of them would go to whoever asks next."""


def free_port() -> int:
    """A port on loopback for a program that starts later. The tests beside this one get others."""
    return next(port for port in PORTS if reach.free_port(reach.LOCAL, port, exact=True))


class Served:
    """A running app, at any free port unless it is to choose its `own_port`.

    Its log is a file, so that a full pipe cannot block it.
    """

    def __init__(
        self,
        data: Path,
        *flags: str,
        environ: dict[str, str] | None = None,
        own_port: bool = False,
        program: str = "launch.py",
    ) -> None:
        port = [] if own_port else ["--port", "0"]
        self.data = data
        data.mkdir(parents=True, exist_ok=True)
        self._out = data / "out.txt"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, program, *port, "--no-browser", "--data", str(data), *flags],
                cwd=ROOT,
                env=os.environ | {"LANG": "C.UTF-8"} | (environ or {}),
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.url = self._address()

    def _address(self, seconds: float = 60) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, f"the app ended:\n{self.output}"
            found = re.search(r"http://\S+", self.output)
            if found and httpx.get(found[0] + "config", timeout=10).status_code in (200, 401):
                return found[0]
            time.sleep(0.05)
        raise AssertionError(f"the app did not start:\n{self.output}")

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    def workers(self) -> list[psutil.Process]:
        """The engine processes that are alive."""
        try:
            family = psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []
        return [one for one in family if one.status() != psutil.STATUS_ZOMBIE]

    def stop(self, by: signal.Signals = signal.SIGTERM, seconds: float = 15) -> int:
        """Ends it as a person or a system would; the exit code. No child may stay behind."""
        family = self.workers()
        self.process.send_signal(by)
        code = self.process.wait(seconds)
        assert not psutil.wait_procs(family, timeout=5)[1], "a worker was left behind"
        return code

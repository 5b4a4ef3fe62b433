"""The device's memory by use, looked at once a second while somebody wants to know, with the last minutes of it.

One thread for the whole app, which ends when nobody has asked for a while. Loads nothing, plans nothing.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from engines.memory import DeviceMemory, OtherProgram
from engines.status import RunnerStatus

EVERY = 1.0
KEPT = 300
"""Samples; five minutes of a page that stays open."""
ASLEEP_AFTER = 10.0
"""Seconds without a question: longer than a page's timer waits when nothing is going on."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The device at one moment. `ours` are bytes by model; `at` is time.monotonic()."""

    at: float
    device: DeviceMemory
    ours: dict[str, int]

    @property
    def taken(self) -> int:
        return max(0, self.device.total - self.device.free)

    @property
    def others(self) -> int:
        """Bytes that are neither ours nor free."""
        return max(0, self.taken - sum(self.ours.values()))

    @property
    def named(self) -> tuple[OtherProgram, ...]:
        """The largest other programs; of those that share memory no more is told than others hold in all."""
        left, named = self.others, []
        for one in sorted(self.device.others, key=lambda one: -one.bytes):
            if size := min(one.bytes, left):
                named.append(OtherProgram(one.pid, one.name, size))
                left -= size
        return tuple(named)


class MemoryWatch:
    """`status` names the loaded models, `look` asks the driver, leaving out programs of these pids, and `held` tells
    the bytes that a model's process holds."""

    def __init__(
        self,
        status: Callable[[], RunnerStatus],
        look: Callable[[frozenset[int]], DeviceMemory],
        held: Callable[[int, str], int],
    ) -> None:
        self._status, self._look, self._held = status, look, held
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._lock = threading.Lock()
        self._asked = 0.0
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    def samples(self) -> tuple[Sample, ...]:
        """What was seen so far, the newest last: at least one. Being asked keeps the watch awake."""
        with self._lock:
            self._asked = time.monotonic()
            asleep = self._thread is None
        if asleep:
            self._take()  # the first one is wanted now
            self._wake()
        with self._lock:
            return tuple(self._samples)

    def close(self) -> None:
        self._closed.set()

    # -- within ------------------------------------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="memory-watch", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(EVERY):
            with self._lock:
                if time.monotonic() - self._asked > ASLEEP_AFTER:
                    self._thread = None
                    return
            self._take()

    def _take(self) -> None:
        engaged = self._status().here
        device = self._look(frozenset(one.pid for one in engaged))
        # Of a card the driver may not say what a process holds: then what was measured at the load counts.
        ours = {one.model: self._held(one.pid, device.kind) or one.memory for one in engaged}
        with self._lock:
            self._samples.append(Sample(time.monotonic(), device, ours))

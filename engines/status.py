"""Loaded models as the runner keeps them, and what it tells of them and of how much there is to do."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from engines.memory import MemoryPlan, Resident
from engines.wire import WorkerHandle


@dataclass
class Kept:
    """A loaded model and its worker, which gives `parallel` answers at once and gives each a number of its own.

    `used` is when it was asked last, `memory` the bytes that it holds.
    """

    worker: WorkerHandle
    plan: MemoryPlan
    memory: int
    parallel: int
    used: float
    load_seconds: float
    numbers: Iterator[int] = field(default_factory=itertools.count)


@dataclass(frozen=True, slots=True)
class Engaged:
    """A loaded model, as others see it: `memory` was measured, `plan` is what the guard said before."""

    model: str
    pid: int
    memory: int
    plan: MemoryPlan


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """What is loaded, being loaded and answering, and how many jobs there are."""

    engaged: tuple[Engaged, ...]
    loading: str | None
    running: int
    waiting: int
    answering: str | None = None

    @property
    def residents(self) -> list[Resident]:
        """The loaded models as the guard counts them: not those that a server elsewhere answers for."""
        return [Resident(one.model, one.memory, one.pid) for one in self.here]

    @property
    def here(self) -> tuple[Engaged, ...]:
        """Those that hold memory of this machine."""
        return tuple(one for one in self.engaged if one.plan.settings.backend != "remote")

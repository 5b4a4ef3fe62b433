"""What the runner tells of itself: which models are loaded, and how much there is to do."""

from __future__ import annotations

from dataclasses import dataclass

from engines.memory import MemoryPlan


@dataclass(frozen=True, slots=True)
class Engaged:
    """A loaded model, as others see it: `memory` was measured, `plan` is what the guard said before."""

    model: str
    pid: int
    memory: int
    plan: MemoryPlan


@dataclass(frozen=True, slots=True)
class RunnerStatus:
    """What is loaded, what is being loaded, and how many jobs there are."""

    engaged: tuple[Engaged, ...]
    loading: str | None
    running: int
    waiting: int

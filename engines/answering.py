"""The answers that one worker gives at once: their words as they come, their stops, and what ends them.

Used by the runner's thread alone, which takes every reply: so nothing here can happen twice or out of order.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from configs.schema import Limits
from engines.base import Usage
from engines.errors import AppError, EngineHung, InputError, ServerError
from engines.job import Job, Working
from engines.status import Kept
from engines.wire import Cancel, Done, Failed, Generate, Gone, Reply, Text

TICK = 0.05
"""Seconds that a step waits for a reply: so long a cancel, or the next question, may go unnoticed."""

Over = tuple[Job, Usage | AppError]
"""A job, and how it ended."""


@dataclass
class _Answer:
    """`heard` is when the engine last said something of it, `told` when it was told to stop."""

    job: Job
    began: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    told: float | None = None


class Answering:
    """What a loaded model answers at this moment. `deaf`: it did not stop when it was told to, and all was given up."""

    def __init__(self, kept: Kept, limits: Limits) -> None:
        self._kept, self._limits = kept, limits
        self._answers: dict[int, _Answer] = {}
        self.deaf = False

    def __bool__(self) -> bool:
        return bool(self._answers)

    @property
    def has_room(self) -> bool:
        return len(self._answers) < self._kept.parallel

    def begin(self, job: Job) -> None:
        number = next(self._kept.numbers)
        job.now(Working(0.0))
        self._answers[number] = _Answer(job)
        self._kept.worker.send(Generate(number, job.messages, job.settings))

    def step(self, grace: float) -> Iterator[Over]:
        """Takes one reply, if there is one soon, and holds every answer to its limits; yields those that are over.

        An engine has `grace` seconds to stop an answer. Raises what ends all that are left: the worker's death, an
        engine's error, its silence.
        """
        yield from self._take(self._kept.worker.receive(TICK))
        now = time.monotonic()
        for number, one in self._answers.items():
            if one.told is None and (one.job.cancelled or one.job.abandoned(self._limits.abandon_after)):
                one.told = now
                self._kept.worker.send(Cancel(number))
            if one.told is not None and now - one.told > grace:
                yield from self._give_up(grace)
                return
            if now - one.heard > self._limits.silence_limit:
                raise EngineHung(model=one.job.model, stage="answer", seconds=self._limits.silence_limit)

    def _take(self, reply: Reply | None) -> list[Over]:
        match reply:
            case Text(number, text):
                one = self._answers[number]
                one.heard = time.monotonic()
                if text and one.told is None:
                    one.job.say(text)
            case Done(number, usage, memory):
                self._kept.memory = max(self._kept.memory, memory)
                return [(self._answers.pop(number).job, usage)]
            case Failed(int(number), (InputError() | ServerError()) as error):
                return [(self._answers.pop(number).job, error)]
            case Failed(_, error):
                raise error
            case Gone() as gone:
                raise gone.error(self._kept.plan.model, "answer")
        return []

    def _give_up(self, grace: float) -> list[Over]:
        """All answers of an engine that does not hear: those it was to stop are stopped, the others lose theirs."""
        self.deaf, now = True, time.monotonic()
        hung = EngineHung(model=self._kept.plan.model, stage="answer", seconds=grace)
        over: list[Over] = [
            (one.job, hung if one.told is None else Usage(0, 0, 0, 0.0, now - one.began, "cancelled"))
            for one in self._answers.values()
        ]
        self._answers.clear()
        return over

"""Whose turn it is: those who ask take turns, so that one with twenty questions costs another one answer of waiting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from configs.schema import Limits
from engines.errors import Busy, BusyWithYours
from engines.job import Job


def admit(job: Job, waiting: Sequence[Job], limits: Limits, room: int) -> None:
    """Raises Busy(waiting, limit) or BusyWithYours(waiting, limit), unless the queue can take a job.

    `room` are the jobs that would not wait. Who has no name shares the queue with all who have none.
    """
    if len(waiting) >= limits.max_waiting + room:
        raise Busy(waiting=len(waiting), limit=limits.max_waiting)
    own = sum(one.owner == job.owner for one in waiting) if job.owner else 0
    if own >= limits.max_waiting_each + room:
        raise BusyWithYours(waiting=own, limit=limits.max_waiting_each)


def in_turn(waiting: Sequence[Job], running: Sequence[Job] = ()) -> list[Job]:
    """The queue in the order in which it is taken. `waiting` is in the order of arrival, which decides between equals.

    A question's round is the number of questions that its owner has before it, at work or waiting. Loads and unloads
    come after all that was there before them, and a later question to their model after them.
    """
    before = Counter(job.owner for job in running if job.kind == "answer")
    rounds: dict[Job, int] = {}
    not_before: dict[str, int] = {}
    for job in waiting:
        if job.kind == "answer":
            rounds[job] = max(before[job.owner], not_before.get(job.model, 0))
            before[job.owner] += 1
        else:
            rounds[job] = not_before[job.model] = max(rounds.values(), default=0)
    return sorted(waiting, key=rounds.__getitem__)

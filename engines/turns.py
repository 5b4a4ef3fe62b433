"""Whose turn it is: each of one's own questions costs the next as many places as the queue has, and nobody else any.

So who has twenty questions keeps another waiting for one answer, and nobody is passed for ever.
"""

from __future__ import annotations

import bisect
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


def place(job: Job, arrival: int, waiting: list[Job], running: Sequence[Job], limits: Limits) -> None:
    """Puts a job among those that wait, of which the first is the next. `arrival` is its number among all jobs.

    Loads and unloads come after all that was there before them, and a later question to their model after them.
    """
    job.turn = _turn(job, arrival, waiting, running, limits)
    bisect.insort_right(waiting, job, key=lambda one: one.turn)


def _turn(job: Job, arrival: int, waiting: Sequence[Job], running: Sequence[Job], limits: Limits) -> int:
    if job.kind != "answer":
        return max([arrival, *(one.turn for one in waiting)])
    own = sum(one.kind == "answer" and one.owner == job.owner for one in (*waiting, *running))
    needed = (one.turn for one in waiting if one.kind != "answer" and one.model == job.model)
    return max([arrival + own * (limits.max_waiting + 1), *needed])

"""Whose turn it is, and when the queue takes no more: one who asks much does not keep another waiting."""

from __future__ import annotations

import pytest

from configs.schema import Limits
from engines.errors import Busy, BusyWithYours
from engines.job import Job, Kind
from engines.turns import admit, place


def jobs(text: str) -> list[Job]:
    """ "a1 b1 load:m2": questions by owner and a number, a load or unload by its model."""
    made = []
    for word in text.split():
        kind, _, model = word.partition(":")
        if model and kind in ("load", "unload"):
            job = Job("load" if kind == "load" else "unload", model)
        else:
            job = Job("answer", model or "m", owner=kind[0].strip("-"))
        job.name = word  # type: ignore[attr-defined]
        made.append(job)
    return made


def order(text: str, running: str = "", places: int = 16) -> str:
    """The order in which jobs are taken that come in the order of `text`."""
    at_work, waiting = jobs(running), list[Job]()
    for number, job in enumerate(jobs(text)):
        place(job, number, waiting, at_work, Limits(max_waiting=places))
    return " ".join(job.name for job in waiting)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("waiting", "running", "taken"),
    [
        ("", "", ""),
        ("a1 a2 a3", "", "a1 a2 a3"),
        ("a1 a2 a3 b1", "", "a1 b1 a2 a3"),
        ("a1 a2 a3 b1 b2 c1", "", "a1 b1 c1 a2 b2 a3"),
        # Whose answer is on its way has had a turn.
        ("a2 a3 b1", "a1", "b1 a2 a3"),
        ("a3 a4 b1 b2", "a1 a2", "b1 b2 a3 a4"),
        # Those without a name are one.
        ("-1 -2 a1", "", "-1 a1 -2"),
        # A load comes after all that was there, and what needs it after that.
        ("a1 a2 load:m2 b1 c1:m2", "", "a1 b1 a2 load:m2 c1:m2"),
        ("a1 unload:m a2 b1", "", "a1 unload:m b1 a2"),
        ("load:m2 a1:m2 a2:m2 b1:m2", "", "load:m2 a1:m2 b1:m2 a2:m2"),
    ],
)
def test_those_who_ask_take_turns(waiting: str, running: str, taken: str) -> None:
    assert order(waiting, running) == taken


def test_twenty_questions_cost_another_one_answer_of_waiting() -> None:
    twenty = " ".join(f"a{n}" for n in range(1, 21))
    assert order(f"{twenty} b1", "a0", 21).split()[:2] == ["b1", "a1"]


def test_nobody_is_passed_for_ever() -> None:
    """Each letter is someone new: the second question of `a` waits for no more of them than the queue has places."""
    crowd = " ".join(f"{chr(ord('b') + n)}1" for n in range(20))
    assert order(f"a1 a2 {crowd}", places=4).split().index("a2") == 5


@pytest.mark.parametrize(
    ("waiting", "kind", "owner", "room", "refused"),
    [
        ("a1 a2", "answer", "a", 0, BusyWithYours),
        ("a1 a2", "answer", "a", 1, None),
        ("a1 a2", "answer", "b", 0, None),
        ("a1 b1 -1", "answer", "c", 0, Busy),
        ("a1 b1 -1", "answer", "c", 1, None),
        ("-1 -2", "answer", "", 0, None),
        ("-1 -2 -3", "load", "", 0, Busy),
    ],
)
def test_the_queue_takes_so_many_and_of_each_so_many(
    waiting: str, kind: Kind, owner: str, room: int, refused: type[Exception] | None
) -> None:
    job, limits = Job(kind, "m", owner=owner), Limits(max_waiting=3, max_waiting_each=2)
    if refused is None:
        return admit(job, jobs(waiting), limits, room)
    with pytest.raises(refused) as caught:
        admit(job, jobs(waiting), limits, room)
    assert caught.value.facts["limit"] == (2 if refused is BusyWithYours else 3)  # type: ignore[attr-defined]

"""A page follows one thing at a time."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from interface.latest import Latest


def counted(to: int, closed: list[int]) -> Generator[int, None, None]:
    try:
        yield from range(to)
    finally:
        closed.append(to)


def test_a_pages_stream_goes_on_with_what_was_wanted_last() -> None:
    latest = Latest()
    closed: list[int] = []
    one = latest.only("page", lambda: counted(9, closed), -1)
    other = latest.only("another", lambda: counted(3, closed), -1)
    assert [next(one), next(other), next(one)] == [0, 0, 1]
    assert list(latest.only("page", lambda: counted(4, closed), -1)) == [-1]
    assert list(latest.only("page", lambda: counted(2, closed), -1)) == [-1]
    assert list(one) == [0, 1] and list(other) == [1, 2]
    assert closed == [9, 2, 3] and latest._wanted == {}
    assert list(latest.only("page", lambda: counted(2, closed), -1)) == [0, 1]


def test_a_page_that_is_gone_leaves_nothing_behind() -> None:
    latest = Latest()
    closed: list[int] = []
    one = latest.only("page", lambda: counted(9, closed), -1)
    next(one)
    one.close()
    assert closed == [9] and latest._wanted == {}

    def failing() -> Generator[int, None, None]:
        yield 1
        raise KeyError

    with pytest.raises(KeyError):
        list(latest.only("page", failing, -1))
    assert latest._wanted == {}
    assert list(latest.only(None, lambda: counted(2, closed), -1)) == [0, 1]

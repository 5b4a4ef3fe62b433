"""A crowd in small: benchmarks/crowd.py has the large one, whose figures are in docs/scaling.md."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.crowd import Held, at_once, serve, turns
from tests.app.test_http import until
from tools.served import Served

CLIENTS, TURNS = 24, 30


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    app = serve(tmp_path_factory.mktemp("app"), CLIENTS)
    yield app
    assert app.stop() == 0, app.output
    assert "Traceback" not in (app.data / "logs" / "app.log").read_text(encoding="utf-8") + app.output


def test_everyone_is_answered_or_refused_by_name_and_told_when_to_come_again(app: Served) -> None:
    first, last = at_once(app, CLIENTS)
    assert {one.what for one in first} <= {"answered", "429 rate_limit_exceeded"}
    assert all(one.retry_after > 0 for one in first if one.what != "answered")
    assert {one.what for one in last} == {"answered"}


def test_dropped_clients_leave_nothing_behind(app: Served) -> None:
    turns(app, TURNS)
    before = Held.of(app)
    ended = turns(app, TURNS)
    assert ended == Counter(answered=TURNS - TURNS // 3, dropped=TURNS // 3)

    def as_before() -> bool:
        """AnyIO keeps as many threads as worked at once; those that idled for 10 s end when there is work again."""
        assert turns(app, 1) == Counter(answered=1)
        held = Held.of(app)
        return held.threads <= before.threads and held.files <= before.files

    until(as_before, 30)

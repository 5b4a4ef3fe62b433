"""kill -9 at random moments of a write. SHUSHENG_TEST_KILLS=200 for the figures in docs/durability.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks import durability


@pytest.mark.slow
def test_a_killed_app_loses_no_turn_and_less_than_a_second_of_an_answer(tmp_path: Path) -> None:
    kills = int(os.environ.get("SHUSHENG_TEST_KILLS", "8"))
    found = durability.run(tmp_path, kills)
    assert (found.kills, found.corrupt, found.lost) == (kills, 0, 0), found
    assert found.acknowledged > kills and found.growing > 0, found
    assert found.worst_loss < 1, found

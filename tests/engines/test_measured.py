"""What loads took is kept by model, device and backend, and a spoiled file costs nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.measured import Measurements
from engines.memory import Measured

ONE, TWO = Measured(100, 90, 10, 5.0), Measured(100, 95, 15, 4.0)


def test_the_last_load_of_each_backend_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "measurements.json"
    measurements = Measurements(path)
    assert measurements.of("m", "card") == {}
    measurements.keep("m", "card", "turbomind", ONE)
    measurements.keep("m", "card", "pytorch", ONE)
    measurements.keep("m", "card", "turbomind", TWO)
    measurements.keep("m", "other card", "turbomind", ONE)
    assert Measurements(path).of("m", "card") == {"turbomind": TWO, "pytorch": ONE}
    assert Measurements(path).of("n", "card") == {}


@pytest.mark.parametrize("text", ["", "[]", "{", '{"card": 3}', '{"card": {"m": {"turbomind": {"x": 1}}}}'])
def test_a_spoiled_file_counts_as_empty_and_is_written_anew(tmp_path: Path, text: str) -> None:
    path = tmp_path / "measurements.json"
    path.write_text(text)
    measurements = Measurements(path)
    assert measurements.of("m", "card") == {}
    measurements.keep("m", "card", "turbomind", ONE)
    assert measurements.of("m", "card") == {"turbomind": ONE}


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    measurements = Measurements(tmp_path / "missing" / "measurements.json")
    measurements.keep("m", "card", "turbomind", ONE)
    assert measurements.of("m", "card") == {}

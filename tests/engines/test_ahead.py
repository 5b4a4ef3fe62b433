"""What is begun while libraries are being imported: it may come to nothing, and never stands in the way."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import pytest

from engines import ahead


class Driver:
    """Stands for NVIDIA's library: takes down what is asked of it, and fails from a call on."""

    def __init__(self, fails: str = "") -> None:
        self.asked: list[str] = []
        self._fails = fails

    def __getattr__(self, name: str) -> Any:
        def call(*args: Any) -> int:
            self.asked.append(name)
            return 100 if name == self._fails else 0

        return call


def test_the_cards_context_is_made_in_the_background(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    ahead.start_card().join(10)
    assert driver.asked == ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"]
    assert os.environ["CUDA_MODULE_LOADING"] == "LAZY"


@pytest.mark.parametrize("fails", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain"])
def test_a_driver_that_fails_is_left_alone(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    driver = Driver(fails)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    assert not ahead._retain_context() and driver.asked[-1] == fails


def test_without_a_driver_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert not ahead._retain_context()

"""What is begun while libraries are being imported: it may come to nothing, and never stands in the way."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path
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


def test_what_cannot_be_begun_without_a_card_says_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for thread in ahead.start_kernels(written_in_triton=True):
        thread.join(60)
        assert not thread.is_alive()
    assert capfd.readouterr() == ("", "")


def test_a_triton_that_cannot_be_imported_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "__init__.py").write_text("raise RuntimeError('made for another machine')")
    for name in [name for name in sys.modules if name.split(".")[0] == "triton"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    threads = ahead.start_kernels(written_in_triton=True)
    for thread in threads:
        thread.join(60)
    assert len(threads) == 2 and not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("was_on", [True, False])
def test_the_collector_is_as_it_was_after_a_pause(was_on: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if was_on else gc.disable)()
        with pytest.raises(OSError), ahead.collector_paused():
            assert not gc.isenabled()
            raise OSError
        assert gc.isenabled() == was_on
    finally:
        (gc.enable if before else gc.disable)()

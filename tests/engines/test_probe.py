"""What the driver and the system are asked, on this machine and on one described to the probe."""

from __future__ import annotations

import os
import subprocess
import sys
import types
from pathlib import Path

import psutil
import pytest

from engines import probe


def test_this_machine_has_memory() -> None:
    memory = probe.device_memory()
    assert 0 < memory.free <= memory.total and 0 < memory.host_free <= memory.host_total
    assert memory.kind == "cuda" or memory.total == memory.host_total <= psutil.virtual_memory().total


def test_a_process_and_its_children_are_counted_together() -> None:
    eater = "x = bytearray(64 * 2**20); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", eater], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None and child.stdout.readline() == "1\n"
        assert probe.process_memory(child.pid, "cpu") > 64 * 2**20
        assert probe.process_memory(os.getpid(), "cpu") > probe.process_memory(child.pid, "cpu")
        child.communicate("\n")
    assert probe.process_memory(child.pid, "cpu") == 0


def test_a_containers_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.max").write_text("1000000000\n")
    (tmp_path / "memory.current").write_text("700000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 200000000\nactive_file 100000000\n")
    monkeypatch.setattr(probe, "CGROUP", tmp_path)
    assert probe.host_memory() == (1_000_000_000, 600_000_000)
    (tmp_path / "memory.max").write_text("max\n")
    assert probe.host_memory()[0] == psutil.virtual_memory().total


def test_kills_for_want_of_memory_are_the_containers_or_else_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "CGROUP", tmp_path)
    monkeypatch.setattr(probe, "VMSTAT", tmp_path / "vmstat")
    assert probe.oom_kills() == 0
    (tmp_path / "vmstat").write_text("nr_free_pages 12\noom_kill 7\n")
    assert probe.oom_kills() == 7
    (tmp_path / "memory.events").write_text("low 0\nmax 9\noom 3\noom_kill 2\noom_group_kill 1\n")
    assert probe.oom_kills() == 2


class Driver(types.ModuleType):
    """NVML as a machine with one 8 GB card and a game on it would answer."""

    class NVMLError(Exception): ...

    class NVMLError_LibraryNotFound(NVMLError): ...

    class NVMLError_DriverNotLoaded(NVMLError): ...

    def __init__(self) -> None:
        super().__init__("pynvml")
        gigabyte = 2**30
        process = types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=2 * gigabyte)
        self.nvmlInit = lambda: None
        self.nvmlDeviceGetCount = lambda: 1
        self.nvmlSystemGetDriverVersion = lambda: "580.65.06"
        self.nvmlSystemGetCudaDriverVersion_v2 = lambda: 13010
        self.nvmlDeviceGetCudaComputeCapability = lambda handle: (8, 9)
        self.nvmlDeviceGetHandleByIndex = lambda index: index
        self.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
        self.nvmlDeviceGetName = lambda handle: "NVIDIA GeForce RTX 4060"
        self.nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=8 * gigabyte, free=5 * gigabyte)
        self.nvmlDeviceGetComputeRunningProcesses = lambda handle: [process]
        self.nvmlDeviceGetGraphicsRunningProcesses = lambda handle: []


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    driver = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    monkeypatch.setattr(probe, "torch_has_cuda", lambda: True)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return driver


def test_a_card_with_its_free_memory_and_the_programs_on_it(driver: Driver) -> None:
    memory = probe.device_memory()
    assert (memory.name, memory.kind) == ("NVIDIA GeForce RTX 4060", "cuda")
    assert (memory.total, memory.free) == (8 * 2**30, 5 * 2**30)
    assert [one.bytes for one in memory.others] == [2 * 2**30]
    assert probe.device_memory(frozenset([os.getpid()])).others == ()
    assert probe.process_memory(os.getpid(), "cuda") == 2 * 2**30


def test_a_card_that_is_hidden_or_that_torch_cannot_use_does_not_count(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert probe.device_memory().kind == "cpu"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert probe.device_memory().kind == "cuda"
    monkeypatch.setattr(probe, "torch_has_cuda", lambda: False)
    assert probe.device_memory().kind == "cpu"


def test_a_driver_that_does_not_answer_is_no_card(driver: Driver) -> None:
    def broken() -> None:
        raise Driver.NVMLError

    driver.nvmlInit = broken
    assert probe.device_memory().kind == "cpu"


def test_lmdeploy_is_for_a_torch_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its tests install it everywhere, without what it takes to run."""
    pytest.importorskip("lmdeploy", reason="tools/install.py --dev installs it where there are wheels of it")
    backends = probe.vision_backends.__wrapped__
    monkeypatch.setattr(probe, "torch_has_cuda", lambda: False)
    assert backends() == ("native",)
    monkeypatch.setattr(probe, "torch_has_cuda", lambda: True)
    assert backends() == ("turbomind", "pytorch", "native")


def test_what_the_driver_says_of_itself(driver: Driver, tmp_path: Path) -> None:
    card = probe.Card("NVIDIA GeForce RTX 4060", 8 * 2**30, (8, 9))
    assert probe.driver(tmp_path) == probe.Driver("ok", "580.65.06", (13, 1), (card,))
    driver.nvmlDeviceGetCount = lambda: 0
    assert probe.driver(tmp_path).state == "none"


@pytest.mark.parametrize(
    ("error", "with_card", "without"),
    [
        (Driver.NVMLError_LibraryNotFound(), "missing", "none"),
        (Driver.NVMLError_DriverNotLoaded("Driver Not Loaded"), "failed", "none"),
        (Driver.NVMLError("Driver/library version mismatch"), "failed", "failed"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
def test_a_card_whose_driver_does_not_work(
    driver: Driver, tmp_path: Path, error: Exception, with_card: str, without: str
) -> None:
    def fails() -> None:
        raise error

    driver.nvmlInit = fails
    assert probe.driver(tmp_path).state == without
    sound, graphics = tmp_path / "0000:01:00.1", tmp_path / "0000:01:00.0"
    for device, kind in ((sound, "0x040300"), (graphics, "0x030000")):
        device.mkdir()
        (device / "vendor").write_text("0x10de\n")
        (device / "class").write_text(f"{kind}\n")
    assert probe.driver(tmp_path) == probe.Driver(with_card, detail=str(error))
    (graphics / "class").unlink()  # what is left is a card's sound
    assert probe.driver(tmp_path).state == without

"""The guard's word here and now, beside a real engine on the CPU in its worker."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from configs.load import load_catalogue
from configs.schema import AppConfig
from engines import probe
from engines.library import Library
from engines.memory import GIB, MIB, LoadSettings, Resident
from engines.wire import Load, Loaded
from engines.worker import Worker
from tests.checkpoints import make_internlm2

SMALL, LARGE = load_catalogue().ids
FREE = 6 * GIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internlm2(tmp_path_factory.mktemp("internlm2"), hidden=1024, layers=4)


@pytest.fixture
def resident(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Resident]:
    """A loaded model on a machine without a card, of which the system says that 6 GiB are available."""
    monkeypatch.setattr(probe, "torch_has_cuda", lambda: False)
    monkeypatch.setattr(probe, "host_memory", lambda: (8 * GIB, FREE))
    worker = Worker(tmp_path / "engine.log")
    worker.send(Load(SMALL, folder, LoadSettings("transformers", "cpu", "float32", 1024)))
    while not isinstance(reply := worker.receive(60), Loaded):
        assert reply is not None, "nothing came"
    yield Resident(SMALL, reply.memory, worker.pid)
    worker.kill()


def rss(pid: int, kind: str) -> int:
    """Bytes of a process, as the kernel tells them apart: "Anon" is its own, "File" could be read again."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"Rss{kind}:"))


def near(left: int, right: int) -> bool:
    return abs(left - right) < 4 * MIB


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux tells what is mapped")
def test_mapped_weights_are_not_counted_twice(resident: Resident, folder: Path, tmp_path: Path) -> None:
    library = Library(AppConfig(tmp_path), load_catalogue())
    mapped, own = rss(resident.pid, "File"), rss(resident.pid, "Anon")
    assert mapped > (folder / "model.safetensors").stat().st_size * 0.6, "query, key and value are copied, no more"
    beside, instead = library.plan(LARGE, [resident]), library.plan(SMALL, [resident])
    assert near(beside.device.free, FREE - mapped), "who stays keeps its weights in memory"
    assert near(instead.device.free, FREE + own), "who goes frees what was not free before"


@pytest.mark.skipif(not psutil.LINUX, reason="only Linux tells what is mapped")
def test_a_measure_that_is_out_of_date_is_taken_again(resident: Resident, tmp_path: Path) -> None:
    library = Library(AppConfig(tmp_path), load_catalogue())
    stale = Resident(SMALL, resident.bytes + 4 * GIB, resident.pid)
    assert near(library.plan(SMALL, [stale]).device.free, library.plan(SMALL, [resident]).device.free)

"""The guard's word here and now, beside a real engine on the CPU in its worker."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from configs.load import load_catalogue, load_config
from configs.schema import AppConfig
from engines import library as library_module
from engines import probe
from engines.library import Library
from engines.memory import GIB, MIB, DeviceMemory, LoadSettings, Resident
from engines.wire import Load, Loaded
from engines.worker import Worker
from tests.checkpoints import make_internlm2

SMALL, LARGE = load_catalogue().ids[:2]
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


VISION = "internvl2-2b"
CARD = DeviceMemory("card", "cuda", 8 * GIB, int(7.5 * GIB), 32 * GIB, 32 * GIB)


def configured(folder: Path, **values: object) -> Library:
    return Library(load_config({"data": folder} | values, {}), load_catalogue())


def test_what_a_load_took_moves_the_next_plan_and_tells_how_long_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "device_memory", lambda pids=frozenset(): CARD)
    library = configured(tmp_path)
    plan = library.plan(VISION, device=CARD)
    assert library.load_seconds(VISION) is None and plan.settings.backend == "turbomind"
    library.observe(plan, plan.need.total - 200 * MIB, 12.5)
    again = configured(tmp_path)
    assert again.load_seconds(VISION) == 12.5
    assert again.plan(VISION, device=CARD).need.context == plan.need.context - 200 * MIB
    assert again.measured(VISION, CARD.name)["turbomind"].planned == plan.need.total
    assert configured(tmp_path, backend="pytorch").plan(VISION, device=CARD).need.context != plan.need.context


def test_nothing_is_learned_from_the_scripted_engine_or_from_a_device_that_does_not_say(tmp_path: Path) -> None:
    library = configured(tmp_path)
    plan = library.plan(VISION, device=CARD)
    library.observe(plan, 0, 1.0)
    library.observe(replace(plan, settings=replace(plan.settings, backend="fake")), GIB, 1.0)
    assert library.measured(VISION, CARD.name) == {}


def test_backend_and_force_are_configured(tmp_path: Path) -> None:
    assert configured(tmp_path, backend="pytorch").plan(VISION, device=CARD).settings.backend == "pytorch"
    small = replace(CARD, total=6 * GIB, free=6 * GIB)
    assert configured(tmp_path).plan(VISION, device=small).verdict == "refuse"
    forced = configured(tmp_path, force=True).plan(VISION, device=small)
    assert forced.verdict == "load" and forced.forced


def test_a_card_that_is_here_is_planned_for_with_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    probe.vision_backends.cache_clear()
    monkeypatch.setattr(probe, "torch_has_cuda", lambda: False)
    assert probe.vision_backends() == ("native",)
    probe.vision_backends.cache_clear()


def test_after_a_failed_load_less_is_admitted_or_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library_module, "device_memory", lambda pids=frozenset(): CARD)
    monkeypatch.setattr(library_module, "vision_backends", lambda: ("turbomind", "pytorch", "native"))
    monkeypatch.setattr(Library, "folder", lambda self, model: tmp_path)
    library = configured(tmp_path)
    plan, _ = library.admit(VISION, ())
    less, load = library.admit(VISION, (), after=plan)
    assert load.system == library.spec(VISION).system_prompt != ""
    assert less.settings.backend == "turbomind" and less.need.total < plan.need.total and load.settings == less.settings
    other, _ = library.admit(VISION, (), after=plan, broken=True)
    assert (plan.settings.backend, other.settings.backend) == ("turbomind", "pytorch")
    small = replace(CARD, total=7 * GIB, free=7 * GIB)
    monkeypatch.setattr(library_module, "device_memory", lambda pids=frozenset(): small)
    forced, _ = library.admit(VISION, (), force=True)
    assert library.admit(VISION, (), True, forced)[0].need.total < forced.need.total, "forced goes on being forced"

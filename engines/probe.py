"""Asks the driver and the operating system how much memory there is: the only file that does.

Uses NVIDIA's own library (NVML), so the app's process needs no torch to know. Knows no model and no plan.
"""

from __future__ import annotations

import importlib.util
import os
import re
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Literal

import psutil

from engines.memory import MIB, VISION_BACKENDS, Backend, DeviceMemory, Kind, OtherProgram

CGROUP = Path("/sys/fs/cgroup")
VMSTAT = Path("/proc/vmstat")
NAMED, PROGRAMS = 32 * MIB, 6
"""What a program must hold of the host's memory to be named, and how many are."""
PCI = Path("/sys/bus/pci/devices")
NVIDIA, DISPLAYS = "0x10de", ("0x0300", "0x0302")
"""PCI's names for a maker, and for what it makes: graphics cards, and those without a connector."""


@dataclass(frozen=True, slots=True)
class Card:
    """A card as the driver describes it. Sizes in bytes; the compute capability is like (8, 9)."""

    name: str
    total: int
    capability: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver: not needed (none), not installed (missing), not at work (failed, with its own words), or ok.

    `cuda` is the newest CUDA that it knows.
    """

    state: Literal["none", "missing", "failed", "ok"]
    version: str = ""
    cuda: tuple[int, int] = (0, 0)
    cards: tuple[Card, ...] = ()
    detail: str = ""


def device_memory(own_pids: frozenset[int] = frozenset()) -> DeviceMemory:
    """The device that models are loaded on, as it is now: the first visible CUDA card, or the CPU.

    A card counts only when the installed torch can use it. `own_pids` are our workers, not listed among the other
    programs.
    """
    host_total, host_free = host_memory()
    card = _card(own_pids) if torch_has_cuda() else None
    if card is None:
        # A model is mostly its file mapped into memory, which the system counts as free, for it can read it again. But
        # a model that loses its weights reads them for every token: here they are in use until their worker ends.
        free = max(0, host_free - sum(_mapped(pid) for pid in own_pids))
        return DeviceMemory(_cpu_name(), "cpu", host_total, free, host_total, free, cores=os.cpu_count() or 1)
    name, total, free, others = card
    return DeviceMemory(name, "cuda", total, free, host_total, host_free, others)


def looked_at(own_pids: frozenset[int]) -> DeviceMemory:
    """device_memory with the other programs of the host named where there is no card, and this app among them."""
    device = device_memory(own_pids)
    return replace(device, others=host_programs(own_pids)) if device.kind == "cpu" else device


def host_programs(own_pids: frozenset[int]) -> tuple[OtherProgram, ...]:
    """Programs that hold much of the host's memory, those of one name together. A container sees only its own."""
    held: dict[str, list[int]] = {}
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        about = process.info
        if about["pid"] not in own_pids and about["memory_info"] is not None:
            memory = about["memory_info"]
            size = memory.rss - getattr(memory, "shared", 0)
            entry = held.setdefault(about["name"] or f"pid {about['pid']}", [about["pid"], 0])
            entry[1] += max(0, size)
    large = (OtherProgram(pid, name, size) for name, (pid, size) in held.items() if size >= NAMED)
    return tuple(sorted(large, key=lambda one: -one.bytes)[:PROGRAMS])


def free_memory() -> int:
    """Bytes free on the card now, and nothing else; 0 without one."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = _handle()
        return int(pynvml.nvmlDeviceGetMemoryInfo(handle).free) if handle is not None else 0
    except pynvml.NVMLError:
        return 0


def host_memory() -> tuple[int, int]:
    """Bytes of memory this process may use in all, and of them those free; a container's limit counts."""
    memory = psutil.virtual_memory()
    limit, used = _read_int(CGROUP / "memory.max"), _read_int(CGROUP / "memory.current")
    if limit is None or used is None:
        return memory.total, memory.available
    # Page cache counts as used in a cgroup, but is given up when it is asked for.
    reclaimable = sum(_counter(CGROUP / "memory.stat", name) or 0 for name in ("inactive_file", "active_file"))
    return min(memory.total, limit), min(memory.available, limit - used + reclaimable)


def swap_memory() -> int:
    """Bytes of swap that this computer has."""
    return int(psutil.swap_memory().total)


def process_memory(pid: int, kind: Kind) -> int:
    """Bytes of the device that the process and its children hold, files they map included; 0 if it cannot be known."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        if kind == "cpu":
            return sum(one.memory_info().rss for one in family)
        pids = {one.pid for one in family}
    except psutil.Error:
        return 0
    return sum(program.bytes for program in _programs() if program.pid in pids)


def _mapped(pid: int) -> int:
    """Bytes of memory that are files which the process and its children map. Only Linux tells."""
    try:
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        return sum(getattr(one.memory_info(), "shared", 0) for one in family)
    except psutil.Error:
        return 0


def oom_kills() -> int:
    """How many processes the kernel has ended for want of memory: in this container, or else on this machine."""
    inside = _counter(CGROUP / "memory.events", "oom_kill")
    return inside if inside is not None else _counter(VMSTAT, "oom_kill") or 0


@cache
def vision_backends() -> tuple[Backend, ...]:
    """What can run image models here, LMDeploy's two engines first where it is installed. Imports none of them."""
    spec = importlib.util.find_spec("lmdeploy") if torch_has_cuda() else None
    if spec is None or spec.origin is None:
        return ("native",)
    compiled = any((Path(spec.origin).parent / "turbomind").glob("_turbomind*"))
    return VISION_BACKENDS if compiled else ("pytorch", "native")


@cache
def torch_has_cuda() -> bool:
    """Whether the installed torch was built for CUDA. Read from its version file: importing it takes seconds."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return False
    text = (Path(spec.origin).parent / "version.py").read_text(encoding="utf-8")
    return re.search(r"^cuda[^=\n]*=\s*['\"]", text, re.MULTILINE) is not None


def driver(pci: Path = PCI) -> Driver:
    """What NVIDIA's driver says of itself and of every card, whatever torch can use of that."""
    try:
        import pynvml
    except ImportError:
        return Driver("none")
    try:
        pynvml.nvmlInit()
        cards = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        newest = int(pynvml.nvmlSystemGetCudaDriverVersion_v2())
        return Driver(
            "ok" if cards else "none", pynvml.nvmlSystemGetDriverVersion(), (newest // 1000, newest % 1000 // 10),
            tuple(_described(one) for one in cards),
        )  # fmt: skip
    except pynvml.NVMLError_LibraryNotFound:
        return Driver("missing" if _on_the_bus(pci) else "none")
    except pynvml.NVMLError as error:
        unused = isinstance(error, pynvml.NVMLError_DriverNotLoaded) and not _on_the_bus(pci)
        return Driver("none" if unused else "failed", detail=str(error))


def _described(handle: object) -> Card:
    import pynvml

    major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
    total = int(pynvml.nvmlDeviceGetMemoryInfo(handle).total)
    return Card(pynvml.nvmlDeviceGetName(handle), total, (int(major), int(minor)))


def _on_the_bus(pci: Path) -> bool:
    """Whether there is a card of NVIDIA's, driver or not. Only Linux tells."""
    return any(
        _read_text(vendor) == NVIDIA and _read_text(vendor.parent / "class").startswith(DISPLAYS)
        for vendor in pci.glob("*/vendor")
    )


def _card(own_pids: frozenset[int]) -> tuple[str, int, int, tuple[OtherProgram, ...]] | None:
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = _handle()
        if handle is None:
            return None
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        name = pynvml.nvmlDeviceGetName(handle)
    except pynvml.NVMLError:
        return None
    others = tuple(one for one in _programs() if one.pid not in own_pids)
    return name, int(memory.total), int(memory.free), others


def _handle() -> object | None:
    """The card that torch calls cuda:0 in a worker, as CUDA_VISIBLE_DEVICES says; both count by PCI bus there."""
    import pynvml

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return pynvml.nvmlDeviceGetHandleByIndex(0) if pynvml.nvmlDeviceGetCount() else None
    first = visible.split(",")[0].strip()
    if first.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(first))
    if first.startswith(("GPU-", "MIG-")):
        return pynvml.nvmlDeviceGetHandleByUUID(first)
    return None


def _programs() -> list[OtherProgram]:
    """Every process with memory on the card. A container sees only its own."""
    import pynvml

    try:
        pynvml.nvmlInit()
        handle = _handle()
        if handle is None:
            return []
        running = [
            *pynvml.nvmlDeviceGetComputeRunningProcesses(handle),
            *pynvml.nvmlDeviceGetGraphicsRunningProcesses(handle),
        ]
    except pynvml.NVMLError:
        return []
    held = {one.pid: int(one.usedGpuMemory or 0) for one in running}
    return [OtherProgram(pid, _program_name(pid), size) for pid, size in held.items()]


def _program_name(pid: int) -> str:
    try:
        return psutil.Process(pid).name()
    except psutil.Error:
        return f"pid {pid}"


def _cpu_name() -> str:
    return f"CPU × {os.cpu_count()}"  # read in any language


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _counter(path: Path, name: str) -> int | None:
    """What a file of "name number" lines says of a name."""
    try:
        text = path.read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(rf"^{name} (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None

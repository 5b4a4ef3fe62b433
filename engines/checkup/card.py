"""The card, its driver, and whether torch can use them. A real `import torch` is in a process of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from engines.checkup.finding import Finding, note, ok, problem
from engines.fetch import one_line
from engines.memory import DeviceMemory
from engines.probe import Driver

TORCH = (sys.executable, "-c", """\
import json, torch, warnings
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    there = torch.cuda.is_available()
print(json.dumps({"version": torch.__version__, "cuda": torch.version.cuda or "", "available": there,
    "architectures": torch.cuda.get_arch_list() if there else [], "detail": str(said[-1].message) if said else ""}))
""")  # fmt: skip
TURBOMIND, BFLOAT16 = (7, 0), (8, 0)
"""The compute capabilities from which on LMDeploy's TurboMind runs, and from which on a card computes in bfloat16."""


@dataclass(frozen=True, slots=True)
class Torch:
    """What `import torch` came to. `detail` is what it said in doing so; `architectures` are like "sm_80"."""

    state: Literal["imported", "missing", "broken", "slow"]
    version: str = ""
    cuda: str = ""
    available: bool = False
    architectures: tuple[str, ...] = ()
    detail: str = ""


def import_torch(seconds: float, program: tuple[str, ...] = TORCH) -> Torch:
    """Imports torch in a child process, which is ended after so many seconds."""
    try:
        done = subprocess.run(program, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return Torch("slow")
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return Torch("missing" if "No module named 'torch'" in last else "broken", detail=one_line(last))
    said = json.loads(done.stdout.strip().splitlines()[-1])
    architectures = tuple(said.pop("architectures"))
    return Torch("imported", **said | {"architectures": architectures, "detail": one_line(said["detail"])})


def card(driver: Driver, environ: Mapping[str, str]) -> Finding:
    """The card and its driver."""
    if driver.state == "none":
        return ok("card", "card_none")
    if driver.state != "ok":
        return problem("card", f"card_driver_{driver.state}", detail=driver.detail)
    first = driver.cards[0]
    facts = {
        "name": first.name, "count": len(driver.cards), "total": first.total, "driver": driver.version,
        "cuda": _dotted(driver.cuda), "capability": _dotted(first.capability),
    }  # fmt: skip
    visible = environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and (not visible.strip() or visible.strip().startswith("-")):
        return note("card", "card_hidden", visible=visible, **facts)
    return ok("card", "card_ok", **facts)


def torch(said: Torch, driver: Driver, seconds: float) -> list[Finding]:
    """Whether torch can be imported, and works with the card that is here. That it is missing, packages() says."""
    if said.state == "missing":
        return []
    if said.state == "slow":
        return [note("torch", "torch_slow", seconds=seconds)]
    if said.state == "broken":
        return [problem("torch", "torch_broken", detail=said.detail)]
    facts = {"version": said.version, "cuda": said.cuda}
    if driver.state != "ok" or said.available:
        return [ok("torch", "torch_ok", **facts), *_capability(said, driver)]
    needs = _version(said.cuda)
    if not said.cuda:
        return [problem("torch", "torch_without_cuda", **facts)]
    if driver.cuda[0] < needs[0]:  # within a major version newer builds run on older drivers
        return [problem("torch", "torch_driver_old", driver=driver.version, known=_dotted(driver.cuda), **facts)]
    return [problem("torch", "torch_no_card", detail=said.detail, **facts)]


def _capability(said: Torch, driver: Driver) -> list[Finding]:
    if not (said.available and driver.cards):
        return []
    first = driver.cards[0]
    facts = {"name": first.name, "capability": _dotted(first.capability), "cuda": said.cuda}
    if said.architectures and not any(_runs_on(one, first.capability) for one in said.architectures):
        return [problem("card.capability", "card_unsupported", **facts)]
    if first.capability < TURBOMIND:
        return [note("card.capability", "card_without_turbomind", needs=_dotted(TURBOMIND), **facts)]
    if first.capability < BFLOAT16:
        return [note("card.capability", "card_without_bfloat16", needs=_dotted(BFLOAT16), **facts)]
    return []


def memory(device: DeviceMemory) -> list[Finding]:
    """Who holds the card's memory; nothing where models run on the CPU."""
    if device.kind == "cpu":
        return []
    programs = [{"name": one.name, "pid": one.pid, "bytes": one.bytes} for one in device.others]
    facts = {"name": device.name, "free": device.free, "total": device.total, "programs": programs}
    if device.free >= device.total // 2:
        return [ok("card.memory", "card_memory" if programs else "card_memory_unused", **facts)]
    return [note("card.memory", "card_memory_taken" if programs else "card_memory_taken_unseen", **facts)]


def _runs_on(architecture: str, capability: tuple[int, int]) -> bool:
    """Machine code for sm_86 runs on 8.6 to 8.9; compute_86 is translated for anything from 8.6 on."""
    found = re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]*", architecture)
    if not found:
        return False
    major, minor = int(found[2]), int(found[3])
    return (major, minor) <= capability and (found[1] == "compute" or major == capability[0])


def _version(text: str) -> tuple[int, int]:
    major, _, minor = text.partition(".")
    return int(major or 0), int(re.sub(r"\D.*", "", minor) or 0)


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"

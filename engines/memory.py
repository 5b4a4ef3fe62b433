"""The values that the memory guard works with: what there is, what a load takes, and what the guard says of it.

Sizes are bytes. need.py computes what loads take, planner.py decides; neither asks a driver.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from configs.schema import Dtype, Quantization, WeightsChoice
from engines.base import DETAIL_TILES, Detail

MIB = 2**20
GIB = 2**30

Kind = Literal["cuda", "cpu"]
Backend = Literal["transformers", "onnxruntime", "turbomind", "pytorch", "native", "remote", "fake"]
VISION_BACKENDS: tuple[Backend, ...] = ("turbomind", "pytorch", "native")
"""What can run image models, the preferred first."""
Verdict = Literal["load", "unload_first", "refuse"]

PREFILL_CHUNK = 512
"""Tokens of a prompt that go through a text model at once: bounds the workspace, and how long a cancel can take."""


@dataclass(frozen=True, slots=True)
class OtherProgram:
    """A process that is not ours and holds memory of the device."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the driver says at this moment. On the CPU `total` and `free` are the host's, and `cores` its threads."""

    name: str
    kind: Kind
    total: int
    free: int
    host_total: int
    host_free: int
    others: tuple[OtherProgram, ...] = ()
    cores: int = 1


@dataclass(frozen=True, slots=True)
class Resident:
    """A model of ours that is loaded, and what its process holds of the device."""

    model: str
    bytes: int
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Need:
    """What a load takes of the device at its peak, by purpose."""

    weights: int
    kv_cache: int
    vision: int
    workspace: int
    context: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.vision + self.workspace + self.context


@dataclass(frozen=True, slots=True)
class LoadSettings:
    """How an engine is to be loaded. `context` and `prefill_chunk` are in tokens, `max_tiles` are those of one image.

    Each of `max_batch` answers at once has the whole context.

    The last three are for LMDeploy's KV cache: bits of a key or value, bytes of the whole, and what is taken before it
    is made, counted from what is free before the process has touched the device.
    """

    backend: Backend
    device: Kind
    dtype: Dtype
    context: int
    prefill_chunk: int = PREFILL_CHUNK
    max_tiles: int = 0
    auto_tiles: int = 0
    """Of one image when no detail is asked for; 0 is as many as there may be."""
    max_batch: int = 1
    quantization: Quantization = "none"
    weight_bits: int = 0
    """Of the decoder's weights as integers, where a text model has them so; 0 is as they are stored."""
    graphs: bool = False
    """Whether a text model decodes by CUDA graphs (engines/graphs.py), if it can."""
    kv_bits: int = 16
    kv_bytes: int = 0
    before_kv: int = 0

    def tiles(self, detail: Detail) -> int:
        """Tiles that one image may be cut into for a detail; several images share `max_tiles`."""
        return DETAIL_TILES.get(detail, self.auto_tiles or self.max_tiles)

    def kv_ratio(self, free: int) -> float:
        """The KV cache as the share of free memory that LMDeploy asks for, if `free` bytes are free before the load."""
        left = free - self.before_kv
        return min(0.95, self.kv_bytes / left) if left > 0 else 0.95


@dataclass(frozen=True, slots=True)
class Choice:
    """One way to load a model, and what that takes. `roomy`: enough for what people usually want of it.

    `beside` are bytes that it must leave free: it is for memory that nothing else has a use for. `host` are those of
    the host's memory that a load on a card takes while it lasts, besides what every one does.
    """

    settings: LoadSettings
    need: Need
    roomy: bool
    beside: int = 0
    host: int = 0


@dataclass(frozen=True, slots=True)
class Measured:
    """What a load took on this machine: the planned peak, the driver's, and the seconds of the load.

    `context` is what the driver's peak leaves for process and libraries when the plan's other parts are taken off.
    """

    planned: int
    held: int
    context: int
    load_seconds: float


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person wants of a load, and what the machine offers. Takes the most that fits, up to `usual_context`
    for each of `max_batch` answers at once.

    `context` and `backend` are fixed when given. After a failure `below` asks for less than so many bytes, or `without`
    for another backend. `measured` are earlier loads of the model here, by backend. `weights` are a text model's, whole
    ("full") or in integers; "auto" takes the latter on a CPU, and on a card without room for the former.
    """

    context: int | None = None
    usual_context: int = 8192
    gpu_margin: int = 256 * MIB
    host_margin: int = 512 * MIB
    force: bool = False
    backend: Backend | None = None
    backends: tuple[Backend, ...] = VISION_BACKENDS
    below: int | None = None
    without: Backend | None = None
    measured: Mapping[str, Measured] = field(default_factory=dict)
    max_batch: int = 4
    weights: WeightsChoice = "auto"


@dataclass(frozen=True, slots=True)
class Note:
    """A reason or a remedy, by code; interface/messages.py words it."""

    code: str
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """The guard's answer. `evict` names what must go first when the verdict is unload_first."""

    model: str
    verdict: Verdict
    device: DeviceMemory
    need: Need
    settings: LoadSettings
    reasons: tuple[Note, ...] = ()
    remedies: tuple[Note, ...] = ()
    evict: tuple[str, ...] = ()
    forced: bool = False

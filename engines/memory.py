"""The planner: what a model needs in memory, and whether and how it fits. Pure arithmetic; asks no driver.

Sizes are bytes. `plan_load` answers before anything loads, from the catalogue's numbers and a DeviceMemory alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Literal

from configs.schema import DTYPE_BYTES, Dtype, ModelSpec, Quantization

MIB = 2**20
GIB = 2**30

Kind = Literal["cuda", "cpu"]
Backend = Literal["transformers", "turbomind", "pytorch", "native", "fake"]
Verdict = Literal["load", "unload_first", "refuse"]

CONTEXT_LADDER = (32768, 16384, 8192, 4096, 2048, 1024)
COMFORTABLE = 4096
PREFILL_CHUNK = 512
"""Tokens of a prompt that go through the model at once: bounds the workspace, and how long a cancel can take."""

CUDA_CONTEXT = 688 * MIB
"""Driver context, kernels and cuBLAS workspace of one torch process: 678 MiB on an H100, less on smaller cards."""
ALLOCATOR_SLACK = 96 * MIB
"""What torch's allocator holds in pieces too small to use, as measured; docs/gpu-verification.md."""
CPU_CONTEXT = 420 * MIB
"""A worker process with torch and transformers imported, before any weight."""
CUDA_HOST = 1536 * MIB
"""Host memory of a worker whose model lives on a GPU; weights stream through the page cache."""


@dataclass(frozen=True, slots=True)
class OtherProgram:
    """A process that is not ours and holds memory of the device."""

    pid: int
    name: str
    bytes: int


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """What the driver says at this moment. On the CPU `total` and `free` are the host's."""

    name: str
    kind: Kind
    total: int
    free: int
    host_total: int
    host_free: int
    others: tuple[OtherProgram, ...] = ()


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
    """How an engine is to be loaded. `context` is in tokens."""

    backend: Backend
    device: Kind
    dtype: Dtype
    context: int
    prefill_chunk: int = PREFILL_CHUNK
    max_tiles: int = 0
    max_batch: int = 1
    kv_bits: int = 16
    kv_bytes: int = 0
    """Of a vision model's KV cache: what LMDeploy is to be told as a ratio of what is free at its moment."""
    quantization: Quantization = "none"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the person wants of a load. `context` None takes the most that fits, up to `usual_context`."""

    context: int | None = None
    usual_context: int = 8192
    gpu_margin: int = 256 * MIB
    host_margin: int = 512 * MIB
    force: bool = False


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


def plan_load(
    spec: ModelSpec,
    device: DeviceMemory,
    resident: Sequence[Resident] = (),
    wishes: Wishes = Wishes(),
    alternatives: Sequence[ModelSpec] = (),
) -> MemoryPlan:
    """Whether `spec` can be loaded on `device` now, and with which settings.

    The largest context of the ladder that fits is taken, beside what is resident if it can be, in its place if not.
    `alternatives` are offered in a refusal when they would fit. Raises nothing: a refusal is a plan, too.
    """
    others = [one for one in resident if one.model != spec.id]
    # What the model itself holds, if it is loaded, it need not find again.
    own = sum(one.bytes for one in resident if one.model == spec.id)
    device = replace(device, free=device.free + own)
    contexts = _contexts(spec, wishes)
    # A neighbour may stay while there is room for a real conversation, and goes before the context gets tiny.
    for some in ([one for one in contexts if one >= COMFORTABLE], contexts):
        for evicted in _evictions(others):
            freed = sum(one.bytes for one in evicted)
            for context in some:
                plan = _plan(spec, device, context)
                if _missing(plan, device, wishes, freed) <= 0:
                    return _accepted(plan, evicted, contexts[0])
    plan = _plan(spec, device, contexts[-1])
    if wishes.force:
        return replace(plan, verdict="load", reasons=(_shortage(plan, wishes),), forced=True)
    return replace(
        plan,
        verdict="refuse",
        reasons=(_shortage(plan, wishes),),
        remedies=_remedies(spec, plan, others, wishes, alternatives),
    )


def need_of(spec: ModelSpec, kind: Kind, context: int) -> Need:
    """The peak of a text model with `context` tokens of KV cache.

    Workspace is one prefill chunk through the widest layer, its attention mask, the keys and values of one layer
    repeated to all heads, and the sampler's copies of one row of logits.
    """
    shape = spec.architecture
    size = DTYPE_BYTES[spec.dtype if kind == "cuda" else spec.cpu_dtype]
    widest = (3 * shape.intermediate + 4 * shape.hidden) * size * PREFILL_CHUNK
    repeated = 2 * shape.heads * shape.head_dim * size * context
    mask = (1 + size) * PREFILL_CHUNK * context
    logits = 40 * shape.vocab
    return Need(
        weights=shape.parameters * size,
        kv_cache=2 * shape.layers * shape.kv_heads * shape.head_dim * size * context,
        vision=0,
        workspace=widest + repeated + mask + logits + (ALLOCATOR_SLACK if kind == "cuda" else 0),
        context=CUDA_CONTEXT if kind == "cuda" else CPU_CONTEXT,
    )


def _contexts(spec: ModelSpec, wishes: Wishes) -> list[int]:
    if wishes.context is not None:
        return [min(wishes.context, spec.window)]
    most = min(wishes.usual_context, spec.window)
    return [most, *(step for step in CONTEXT_LADDER if step < most)]


def _evictions(others: Sequence[Resident]) -> list[tuple[Resident, ...]]:
    """Which residents might go, the fewest and smallest first."""
    choices = [some for count in range(len(others) + 1) for some in combinations(others, count)]
    return sorted(choices, key=lambda some: (len(some), sum(one.bytes for one in some)))


def _plan(spec: ModelSpec, device: DeviceMemory, context: int) -> MemoryPlan:
    dtype = spec.dtype if device.kind == "cuda" else spec.cpu_dtype
    settings = LoadSettings("transformers", device.kind, dtype, context)
    return MemoryPlan(spec.id, "load", device, need_of(spec, device.kind, context), settings)


def _missing(plan: MemoryPlan, device: DeviceMemory, wishes: Wishes, freed: int = 0) -> int:
    """Bytes that are lacking, of the device or of the host; 0 or less when it fits."""
    if device.kind == "cpu":
        return plan.need.total + wishes.host_margin - device.free - freed
    on_device = plan.need.total + wishes.gpu_margin - device.free - freed
    on_host = CUDA_HOST + wishes.host_margin - device.host_free
    return max(on_device, on_host)


def _accepted(plan: MemoryPlan, evicted: Sequence[Resident], wanted: int) -> MemoryPlan:
    reasons = [Note("fits", {"need": plan.need.total, "free": plan.device.free})]
    if plan.settings.context < wanted:
        reasons.append(Note("context_reduced", {"wanted": wanted, "context": plan.settings.context}))
    if not evicted:
        return replace(plan, reasons=tuple(reasons))
    notes = tuple(Note("unload", {"model": one.model, "bytes": one.bytes}) for one in evicted)
    return replace(
        plan,
        verdict="unload_first",
        reasons=(Note("resident", {"models": ", ".join(one.model for one in evicted)}), *reasons[1:]),
        remedies=notes,
        evict=tuple(one.model for one in evicted),
    )


def _shortage(plan: MemoryPlan, wishes: Wishes) -> Note:
    device = plan.device
    missing = _missing(plan, device, wishes)
    if device.kind == "cuda" and plan.need.total + wishes.gpu_margin <= device.free:
        return Note("host_short", {"need": CUDA_HOST, "free": device.host_free, "missing": missing})
    if plan.need.total > device.total:
        return Note("too_big", {"need": plan.need.total, "total": device.total})
    return Note("short", {"need": plan.need.total, "free": device.free, "missing": missing})


def _remedies(
    spec: ModelSpec,
    plan: MemoryPlan,
    others: Sequence[Resident],
    wishes: Wishes,
    alternatives: Sequence[ModelSpec],
) -> tuple[Note, ...]:
    device = plan.device
    notes: list[Note] = []
    freed = sum(one.bytes for one in others)
    for step in CONTEXT_LADDER:
        if step < plan.settings.context and _missing(_plan(spec, device, step), device, wishes, freed) <= 0:
            notes.append(Note("context", {"context": step, "need": need_of(spec, device.kind, step).total}))
            break
    lacking = _missing(plan, device, wishes, freed)
    for program in sorted(device.others, key=lambda one: -one.bytes):
        if program.bytes >= lacking:
            notes.append(Note("close_program", {"name": program.name, "bytes": program.bytes}))
            break
    for other in alternatives:
        if other.id != spec.id:
            candidate = plan_load(other, device, [*others], Wishes(None, 1024, wishes.gpu_margin, wishes.host_margin))
            if candidate.verdict != "refuse":
                notes.append(Note("use_model", {"model": other.id, "need": candidate.need.total}))
    return tuple(notes)

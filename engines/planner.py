"""The memory guard: whether a model can be loaded now, and how. Answers before anything loads; asks no driver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

from configs.schema import ModelSpec, Remote
from engines.memory import GIB, Choice, DeviceMemory, LoadSettings, MemoryPlan, Need, Note, Resident, Wishes
from engines.need import CUDA_HOST, choices, look_seconds
from engines.need_text import CONTEXT_LADDER, cpu_speed

EIGHT = 7.5 * GIB
"""Cards sold as 8 GB report 7.76 to 8.00 GiB."""


def plan_load(
    spec: ModelSpec,
    device: DeviceMemory,
    resident: Sequence[Resident] = (),
    wishes: Wishes = Wishes(),
    alternatives: Sequence[ModelSpec] = (),
) -> MemoryPlan:
    """Whether `spec` can be loaded on `device` now, and with which settings.

    The best choice that fits is taken, beside what is resident if it can be, in its place if not. A vision model that
    is not quantized is refused on a card under 8 GB. `alternatives` are offered in a refusal when they would fit.
    Raises nothing: a refusal is a plan, too.
    """
    if spec.remote is not None:
        return _elsewhere(spec, spec.remote, device)
    others = [one for one in resident if one.model != spec.id]
    # What the model itself holds, if it is loaded, it need not find again.
    own = sum(one.bytes for one in resident if one.model == spec.id)
    device = replace(device, free=device.free + own)
    ways = choices(spec, device.kind, wishes)
    if not ways:
        return _impossible(spec, device, others, wishes, alternatives)
    small = spec.vision is not None and spec.quantization == "none" and device.kind == "cuda" and device.total < EIGHT
    if not small or wishes.force:
        # A neighbour may stay while there is room for a real conversation, and goes before the context gets tiny.
        for some in ([one for one in ways if one.roomy], ways):
            for evicted in _evictions(others):
                freed = sum(one.bytes for one in evicted)
                for choice in some:
                    if _missing(choice, device, wishes, freed) <= 0:
                        return _accepted(spec, device, choice, evicted, ways[0], forced=small)
    least = min(ways, key=lambda one: one.need.total)
    reason = Note("card_too_small", {"total": device.total}) if small else _shortage(least, device, wishes)
    reasons = [reason]
    if _rounded(least) and reason.code != "host_short":
        reasons.append(Note("rounded_already", {"bits": least.settings.weight_bits}))
    plan = MemoryPlan(spec.id, "load", device, least.need, least.settings, tuple(reasons), forced=True)
    if wishes.force:
        return plan
    remedies = _remedies(spec, least, device, others, wishes, alternatives, small)
    return replace(plan, verdict="refuse", remedies=remedies, forced=False)


def _elsewhere(spec: ModelSpec, remote: Remote, device: DeviceMemory) -> MemoryPlan:
    """Of a model that a server elsewhere answers for: nothing of this device is needed."""
    settings = LoadSettings("remote", device.kind, spec.dtype, spec.window, max_batch=remote.parallel)
    return MemoryPlan(
        spec.id, "load", device, Need(0, 0, 0, 0, 0), settings, (Note("remote", {"server": remote.servers}),)
    )


def _evictions(others: Sequence[Resident]) -> list[tuple[Resident, ...]]:
    """Which residents might go, the fewest and smallest first."""
    choices = [some for count in range(len(others) + 1) for some in combinations(others, count)]
    return sorted(choices, key=lambda some: (len(some), sum(one.bytes for one in some)))


def _missing(choice: Choice, device: DeviceMemory, wishes: Wishes, freed: int = 0) -> int:
    """Bytes that are lacking, of the device or of the host; 0 or less when it fits."""
    if device.kind == "cpu":
        return choice.need.total + wishes.host_margin - device.free - freed
    on_device = choice.need.total + choice.beside + wishes.gpu_margin - device.free - freed
    on_host = CUDA_HOST + choice.host + wishes.host_margin - device.host_free
    return max(on_device, on_host)


def _accepted(
    spec: ModelSpec, device: DeviceMemory, choice: Choice, evicted: Sequence[Resident], best: Choice, forced: bool
) -> MemoryPlan:
    settings, wanted = choice.settings, best.settings
    reasons = [Note("fits", {"need": choice.need.total, "free": device.free})]
    if settings.backend != wanted.backend:
        reasons.append(Note("backend_changed", {"backend": settings.backend, "wanted": wanted.backend}))
    if settings.context < wanted.context:
        reasons.append(Note("context_reduced", {"wanted": wanted.context, "context": settings.context}))
    if settings.max_tiles < wanted.max_tiles:
        reasons.append(Note("tiles_reduced", {"wanted": wanted.max_tiles, "tiles": settings.max_tiles}))
    if _rounded(choice):
        code = "weights_as_asked" if wanted.weight_bits else "weights_rounded"
        reasons.append(Note(code, {"bits": settings.weight_bits}))
    if wanted.graphs and not settings.graphs:
        reasons.append(Note("no_graphs"))
    if settings.max_batch > 1:
        reasons.append(Note("batch", {"answers": settings.max_batch}))
    if spec.vision is not None and device.kind == "cpu":
        one, most = (look_seconds(spec, tiles, device.cores) for tiles in (1, settings.max_tiles))
        reasons.append(Note("slow_on_cpu", {"one": one, "most": most}))
    if settings.backend == "onnxruntime":
        speed = {"rate": round(cpu_speed(spec, device.cores)), "cores": device.cores}
        reasons.append(Note("cpu_speed", speed | {"bits": settings.weight_bits}))
    plan = MemoryPlan(spec.id, "load", device, choice.need, settings, tuple(reasons), forced=forced)
    if not evicted:
        return plan
    notes = tuple(Note("unload", {"model": one.model, "bytes": one.bytes}) for one in evicted)
    return replace(
        plan,
        verdict="unload_first",
        reasons=(Note("resident", {"models": ", ".join(one.model for one in evicted)}), *reasons[1:]),
        remedies=notes,
        evict=tuple(one.model for one in evicted),
    )


def _rounded(choice: Choice) -> bool:
    """Whether weights are rounded for want of memory, or because somebody wants that; without a card it is usual."""
    return choice.settings.weight_bits > 0 and choice.settings.backend == "transformers"


def _impossible(
    spec: ModelSpec,
    device: DeviceMemory,
    others: Sequence[Resident],
    wishes: Wishes,
    alternatives: Sequence[ModelSpec],
) -> MemoryPlan:
    """The refusal of a model that nothing here can run, or not with so little; --force does not change that."""
    reason = Note("no_smaller" if wishes.below is not None else "no_backend", {"device": device.name})
    anyhow = choices(spec, "cuda", Wishes())[-1]
    need = Need(anyhow.need.weights, 0, 0, 0, 0)
    remedies = _others(spec, device, others, wishes, alternatives)
    return MemoryPlan(spec.id, "refuse", device, need, anyhow.settings, (reason,), remedies)


def _shortage(choice: Choice, device: DeviceMemory, wishes: Wishes) -> Note:
    need, missing = choice.need.total, _missing(choice, device, wishes)
    if device.kind == "cuda" and need + wishes.gpu_margin <= device.free:
        return Note("host_short", {"need": CUDA_HOST + choice.host, "free": device.host_free, "missing": missing})
    if need > device.total:
        return Note("too_big", {"need": need, "total": device.total})
    return Note("short", {"need": need, "free": device.free, "missing": missing})


def _remedies(
    spec: ModelSpec,
    choice: Choice,
    device: DeviceMemory,
    others: Sequence[Resident],
    wishes: Wishes,
    alternatives: Sequence[ModelSpec],
    small: bool,
) -> tuple[Note, ...]:
    """What would help: less context, an end of another program, another model. None but the last on a small card."""
    notes: list[Note] = []
    freed = sum(one.bytes for one in others)
    for step in () if small else CONTEXT_LADDER:
        less = choices(spec, device.kind, replace(wishes, context=step))
        fitting = [one for one in less if _missing(one, device, wishes, freed) <= 0]
        if step < choice.settings.context and fitting:
            notes.append(Note("context", {"context": step, "need": fitting[0].need.total}))
            break
    lacking = _missing(choice, device, wishes, freed)
    for program in () if small else sorted(device.others, key=lambda one: -one.bytes):
        if program.bytes >= lacking:
            notes.append(Note("close_program", {"name": program.name, "bytes": program.bytes}))
            break
    return (*notes, *_others(spec, device, others, wishes, alternatives))


def _others(
    spec: ModelSpec, device: DeviceMemory, others: Sequence[Resident], wishes: Wishes, alternatives: Sequence[ModelSpec]
) -> tuple[Note, ...]:
    """Models of the same kind that would fit; for a text model, any that would."""
    notes = []
    for other in alternatives:
        if other.id != spec.id and other.remote is None and (spec.vision is None or other.vision is not None):
            wanted = replace(wishes, context=None, backend=None, below=None, force=False, measured={})
            candidate = plan_load(other, device, others, wanted)
            if candidate.verdict != "refuse":
                notes.append(Note("use_model", {"model": other.id, "need": candidate.need.total}))
    return tuple(notes)

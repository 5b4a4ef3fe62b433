"""The models this machine can have: the catalogue, what is here of it, and the guard's word on each.

The one place where catalogue, files, driver and planner meet. Loads nothing itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from configs.schema import AppConfig, Catalogue, ModelSpec
from engines.acquire import locate
from engines.errors import ModelMissing, ModelUnknown, NotEnoughMemory
from engines.measured import Measurements
from engines.memory import VISION_BACKENDS, Backend, DeviceMemory, Measured, MemoryPlan, Resident, Wishes
from engines.planner import plan_load
from engines.probe import device_memory, process_memory, vision_backends
from engines.verified import own_folders, sound
from engines.wire import Load


class Library:
    """`fake` answers for every model with the scripted engine, which needs no files and no memory."""

    def __init__(self, config: AppConfig, catalogue: Catalogue, fake: bool = False) -> None:
        self.config, self.catalogue, self.fake = config, catalogue, fake
        self._measurements = Measurements(config.data / "measurements.json")

    def spec(self, model: str) -> ModelSpec:
        """The catalogue's entry. Raises ModelUnknown(model, nearest, known)."""
        if model in self.catalogue:
            return self.catalogue[model]
        near = difflib.get_close_matches(model, self.catalogue.ids, n=1, cutoff=0.3)
        raise ModelUnknown(model=model, nearest=near[0] if near else "", known=", ".join(self.catalogue.ids))

    def folder(self, model: str) -> Path | None:
        """Where its verified files are, or None if they are not here."""
        return self.config.data if self.fake else locate(self.spec(model), self.config)

    def plan(
        self,
        model: str,
        resident: Sequence[Resident] = (),
        device: DeviceMemory | None = None,
        context: int | None = None,
        force: bool | None = None,
        backend: Backend | None = None,
        below: int | None = None,
        without: Backend | None = None,
    ) -> MemoryPlan:
        """What the guard says, now and here, or about a `device` described by hand. None: as configured.

        `below` asks for settings that need less than so many bytes, `without` for another backend than that.
        """
        memory = self.config.memory
        if memory.backend != "auto":
            backend = backend or memory.backend
        backends = VISION_BACKENDS  # of a card that is not here
        if device is None:
            backends = vision_backends()
            device = device_memory(frozenset(one.pid for one in resident))
            if device.kind == "cpu":  # an idle model may have lost some of its mapped weights since it was measured
                resident = [replace(one, bytes=process_memory(one.pid, "cpu")) for one in resident]
        wishes = Wishes(
            context, memory.context, memory.gpu_margin, memory.host_margin,
            memory.force if force is None else force,
            backend, backends, below, without, self.measured(model, device.name), memory.max_batch,
        )  # fmt: skip
        return plan_load(self.spec(model), device, resident, wishes, self.catalogue.models)

    def admit(
        self, model: str, resident: Sequence[Resident], force: bool = False, after: MemoryPlan | None = None,
        broken: bool = False,
    ) -> tuple[MemoryPlan, Load]:  # fmt: skip
        """The plan and the load that follows it; `force` loads against the guard's word.

        `after` is the plan of a load that failed: this one asks for less, or, if its engine is `broken`, for another.

        Raises ModelMissing(model), NotEnoughMemory(plan), or what is wrong with a folder of the person's own.
        """
        folder = self.folder(model)
        if folder is None:
            spec = self.spec(model)
            for own in own_folders(spec, self.config):
                sound(own, spec)
            raise ModelMissing(model=model, tried=())
        below = after.need.total if after is not None and not broken else None
        without = after.settings.backend if after is not None and broken else None
        plan = self.plan(model, resident, force=force or None, below=below, without=without)
        if self.fake:
            plan = replace(plan, verdict="load", settings=replace(plan.settings, backend="fake"), evict=())
        if plan.verdict == "refuse":
            raise NotEnoughMemory(plan=plan)
        return plan, Load(model, folder, plan.settings, "" if self.fake else self.spec(model).system_prompt)

    def observe(self, plan: MemoryPlan, held: int, seconds: float) -> None:
        """Keeps what a load took: the bytes of the device at the peak so far, and the seconds."""
        backend, need = plan.settings.backend, plan.need
        if held > 0 and backend != "fake":
            seen = Measured(need.total, held, need.context + held - need.total, seconds)
            self._measurements.keep(plan.model, plan.device.name, backend, seen)

    def measured(self, model: str, device: str) -> dict[str, Measured]:
        """The last load of a model on a device, by backend."""
        return self._measurements.of(model, device)

    def load_seconds(self, model: str) -> float | None:
        """Seconds that the last load of this model took here, if there was one."""
        seen = self.measured(model, device_memory().name)
        return min((one.load_seconds for one in seen.values()), default=None)

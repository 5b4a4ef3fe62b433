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
from engines.memory import DeviceMemory, MemoryPlan, Resident, Wishes, plan_load
from engines.probe import device_memory
from engines.verified import own_folders, sound
from engines.worker import Load


class Library:
    """`fake` answers for every model with the scripted engine, which needs no files and no memory."""

    def __init__(self, config: AppConfig, catalogue: Catalogue, fake: bool = False) -> None:
        self.config, self.catalogue, self.fake = config, catalogue, fake

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
        force: bool = False,
    ) -> MemoryPlan:
        """What the guard says, now and here, or about a `device` described by hand."""
        memory = self.config.memory
        wishes = Wishes(context, memory.context, memory.gpu_margin, memory.host_margin, force)
        device = device or device_memory(frozenset(one.pid for one in resident))
        return plan_load(self.spec(model), device, resident, wishes, self.catalogue.models)

    def load_seconds(self, model: str) -> float | None:
        """Seconds that the last load of this model took here, if there was one."""
        return None

    def admit(self, model: str, resident: Sequence[Resident], force: bool = False) -> tuple[MemoryPlan, Load]:
        """The plan and the load that follows it.

        Raises ModelMissing(model), NotEnoughMemory(plan), or what is wrong with a folder of the person's own.
        """
        folder = self.folder(model)
        if folder is None:
            spec = self.spec(model)
            for own in own_folders(spec, self.config):
                sound(own, spec)
            raise ModelMissing(model=model, tried=())
        plan = self.plan(model, resident, force=force)
        if self.fake:
            plan = replace(plan, verdict="load", settings=replace(plan.settings, backend="fake"), evict=())
        if plan.verdict == "refuse":
            raise NotEnoughMemory(plan=plan)
        return plan, Load(model, folder, plan.settings)

"""The models this machine can have: the catalogue, what is here of it, and the guard's word on each.

The one place where catalogue, files, driver and planner meet. Loads nothing itself.
"""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from configs.load import own_catalogue
from configs.schema import AppConfig, Catalogue, ModelSpec
from engines import disk
from engines.acquire import Progress, acquire, locate
from engines.additions import Additions, describe
from engines.errors import DiskFull, DownloadCancelled, ModelMissing, ModelUnknown, NotEnoughMemory
from engines.measured import Measurements
from engines.memory import VISION_BACKENDS, Backend, DeviceMemory, Measured, MemoryPlan, Resident, Wishes
from engines.planner import plan_load
from engines.preferences import Preferred
from engines.probe import device_memory, process_memory, vision_backends
from engines.quantize import quantized
from engines.reach import Reach
from engines.verified import own_folders, sound
from engines.wire import Load


class Library:
    """`fake` answers for every model with the scripted engine, which needs no files and no memory."""

    def __init__(self, config: AppConfig, catalogue: Catalogue, fake: bool = False) -> None:
        self.config, self.fake = config, fake
        self.preferred = Preferred(config.data / "preferences.json")
        self._ours, self._additions = (
            own_catalogue(config.data, catalogue),
            Additions(config.data / "added-models.json"),
        )
        self.reach = Reach()
        self._changing = threading.Lock()
        self._measurements = Measurements(config.data / "measurements.json")

    @property
    def catalogue(self) -> Catalogue:
        """The models that the app knows, those of the person's own list, and those that were added on the page."""
        return Catalogue((*self._ours.models, *self._additions.models))

    def spec(self, model: str) -> ModelSpec:
        """The catalogue's entry. Raises ModelUnknown(model, nearest, known)."""
        if model in self.catalogue:
            return self.catalogue[model]
        near = difflib.get_close_matches(model, self.catalogue.ids, n=1, cutoff=0.3)
        raise ModelUnknown(model=model, nearest=near[0] if near else "", known=", ".join(self.catalogue.ids))

    def folder(self, model: str) -> Path | None:
        """Where its verified files are, or None if they are not here; what needs none has the data folder."""
        spec = self.spec(model)
        return self.config.data if self.fake or spec.remote is not None else locate(spec, self.config)

    def add(self, name: str) -> ModelSpec:
        """Adds the model of a hub's repository, a folder or a server; no weights are fetched. Blocks for seconds.

        Raises what additions.describe does, or DiskFull.
        """
        with self._changing:
            spec = describe(name, self.config, self.preferred.now, self.catalogue.models)
            self._keep((*self._additions.models, spec))
            return spec

    def remove(self, model: str) -> None:
        """Takes an added model off the list, with what of it is in the data folder. A folder of one's own stays."""
        with self._changing:
            if model not in [spec.id for spec in self._additions.models]:
                return
            disk.delete(self.spec(model), self.config)
            self._keep(tuple(spec for spec in self._additions.models if spec.id != model))

    def acquire(self, model: str, progress: Callable[[Progress], None], cancelled: Callable[[], bool]) -> Path:
        """acquire.acquire, from where the person prefers; and what a CPU wants made of it, so that no load waits."""
        spec = self.spec(model)
        folder = acquire(spec, self.config, progress, cancelled, self.preferred.now)
        if self.plan(model).settings.backend == "onnxruntime":

            def tick() -> None:
                if cancelled():
                    raise DownloadCancelled(model=model)

            def making() -> None:
                progress(Progress("converting", "local", 0, spec.disk, 0.0, None))

            quantized(folder, disk.quantized(self.config, model), spec.integer_bits, making, tick)
        return folder

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
            backend, backends, below, without, self.measured(model, device.name), memory.max_batch, memory.weights,
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
        spec = self.spec(model)
        if self.fake:
            return plan, Load(model, folder, plan.settings)
        made = disk.quantized(self.config, model)
        return plan, Load(model, folder, plan.settings, spec.system_prompt, spec.remote, made)

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

    def _keep(self, added: tuple[ModelSpec, ...]) -> None:
        try:
            self._additions.keep(added)
        except OSError:
            raise DiskFull(needed=2**16, free=disk.free(self.config), folder=str(self.config.data)) from None

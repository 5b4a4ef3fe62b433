"""Loads and unloads that a person asked for belong to the server: the last one of each model, for any page to see."""

from __future__ import annotations

from collections.abc import Callable

from engines.errors import AppError
from engines.job import Job
from engines.runner import Runner


class Loads:
    """Safe from any thread. Words nothing; a load that the queue refuses is one that has failed."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._jobs: dict[str, Job] = {}

    def load(self, model: str, force: bool = False) -> Job:
        """Queues a load, with `force` even against the guard's word; one that is under way is returned as it is."""
        if self.loading(model):
            return self._jobs[model]
        return self._keep(model, lambda: self._runner.load(model, force))

    def unload(self, model: str) -> Job:
        return self._keep(model, lambda: self._runner.unload(model))

    def of(self, model: str) -> Job | None:
        return self._jobs.get(model)

    def loading(self, model: str) -> bool:
        """Whether a load of `model` is under way or in the queue."""
        job = self._jobs.get(model)
        return job is not None and job.kind == "load" and not job.ended

    @property
    def busy(self) -> bool:
        return any(not job.ended for job in list(self._jobs.values()))

    def _keep(self, model: str, ask: Callable[[], Job]) -> Job:
        try:
            job = ask()
        except AppError as error:
            job = Job("load", model)
            job.finish(error)
        self._jobs[model] = job
        return job

"""Loads and unloads that a person asked for: any page can see how they go, and how they ended. Words nothing."""

from __future__ import annotations

from engines.job import Job
from engines.runner import Runner


class Loads:
    """The last one of each model. Safe from any thread."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._jobs: dict[str, Job] = {}

    def load(self, model: str, force: bool = False) -> Job:
        """Queues a load; a running one is returned as it is. Raises Busy."""
        job = self._jobs.get(model)
        if job is None or job.ended or job.kind != "load":
            job = self._jobs[model] = self._runner.load(model, force)
        return job

    def unload(self, model: str) -> Job:
        """Queues an unload. Raises Busy."""
        job = self._jobs[model] = self._runner.unload(model)
        return job

    def of(self, model: str) -> Job | None:
        return self._jobs.get(model)

    @property
    def busy(self) -> bool:
        return any(not job.ended for job in list(self._jobs.values()))

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

    def load(self, model: str) -> None:
        self._keep(model, self._runner.load)

    def unload(self, model: str) -> None:
        self._keep(model, self._runner.unload)

    def loading(self, model: str) -> bool:
        """Whether a load of `model` is under way or in the queue."""
        job = self._jobs.get(model)
        return job is not None and job.kind == "load" and not job.ended

    @property
    def running(self) -> bool:
        return any(not job.ended for job in list(self._jobs.values()))

    def error(self, model: str) -> AppError | None:
        """Why the last load or unload of `model` failed, if it did."""
        job = self._jobs.get(model)
        return None if job is None else job.error

    def _keep(self, model: str, ask: Callable[[str], Job]) -> None:
        try:
            self._jobs[model] = ask(model)
        except AppError as error:
            refused = self._jobs[model] = Job("load", model)
            refused.finish(error)

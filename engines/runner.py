"""One thread owns the engines; everyone else holds a Job.

Every load, answer and unload goes through one queue, in which those who ask take turns. Answers of one model run side
by side, as many as its engine gives at once; everything else waits until nothing runs. Engines live in worker
processes: one that dies, hangs or runs out of memory ends its jobs with a named error that keeps the partial answers,
and the next question gets a fresh one.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from configs.schema import Limits
from engines.answering import TICK, Answering
from engines.base import GenerationSettings, Message, Usage
from engines.errors import AppError, Busy, EngineError, EngineFailed, EngineHung, NotEnoughMemory, OutOfMemory
from engines.job import NOTHING, Job, Loading, Ready, Waiting
from engines.memory import MemoryPlan, Note
from engines.status import Engaged, Kept, RunnerStatus
from engines.turns import admit, place
from engines.wire import Failed, Gone, Library, Load, Loaded, Stage, WorkerHandle

log = logging.getLogger(__name__)

CANCEL_GRACE = 10.0
"""Seconds an engine has to notice a cancel before its worker is ended."""
CLOSE_GRACE = 2.0


class Runner:
    """`start` makes a worker. All methods are safe from any thread; none waits for an engine but `close`."""

    def __init__(self, library: Library, limits: Limits, start: Callable[[], WorkerHandle]) -> None:
        self._library, self._limits, self._start = library, limits, start
        self._jobs: list[Job] = []
        self._arrivals = itertools.count()
        self._running: list[Job] = []
        self._at_once = 1
        self._residents: dict[str, Kept] = {}
        self._loading: str | None = None
        self._closing = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="runner", daemon=True)
        self._thread.start()

    def submit(self, model: str, messages: Sequence[Message], settings: GenerationSettings, owner: str = "") -> Job:
        """Queues a question of `owner`, whoever that is. Raises Busy(waiting, limit), BusyWithYours(waiting, limit)."""
        return self._enqueue(Job("answer", model, messages, settings, owner, self._forget))

    def load(self, model: str, force: bool = False) -> Job:
        """Queues a load; it ends with Ready. `force` loads against the guard's word."""
        return self._enqueue(Job("load", model, on_cancel=self._forget, force=force))

    def unload(self, model: str) -> Job:
        """Queues an unload; it ends with Ready, when the memory has been given back."""
        return self._enqueue(Job("unload", model, on_cancel=self._forget))

    def status(self) -> RunnerStatus:
        with self._wake:
            kept = self._residents.items()
            engaged = tuple(Engaged(model, one.worker.pid, one.memory, one.plan) for model, one in kept)
            answering = next((one.model for one in self._running if one.kind == "answer"), None)
            return RunnerStatus(engaged, self._loading, len(self._running), len(self._jobs), answering)

    def close(self, timeout: float = 10.0) -> bool:
        """Cancels everything, ends every worker, and returns whether the thread ended in time."""
        with self._wake:
            self._closing = True
            jobs = [*self._jobs, *self._running]
            self._wake.notify_all()
        for job in jobs:
            job.cancel()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    # -- the queue -----------------------------------------------------------------------------------------------

    def _enqueue(self, job: Job) -> Job:
        with self._wake:
            if self._closing:
                raise Busy(waiting=len(self._jobs), limit=self._limits.max_waiting)
            admit(job, self._jobs, self._limits, self._at_once - len(self._running))
            place(job, next(self._arrivals), self._jobs, self._running, self._limits)
            self._restate_positions()
            self._wake.notify_all()
        return job

    def _forget(self, job: Job) -> None:
        """A cancelled job that is still in the queue never reaches an engine."""
        with self._wake:
            if job in self._jobs:
                self._jobs.remove(job)
                job.finish(NOTHING)
                self._restate_positions()

    def _restate_positions(self) -> None:
        for ahead, job in enumerate(self._jobs, len(self._running)):
            job.now(Waiting(ahead))

    def _next(self) -> Job | None:
        """The next job, or None when something idle is to be unloaded or the runner closes."""
        with self._wake:
            while not self._jobs and not self._closing:
                idle_in = self._idle_in()
                if idle_in is not None and idle_in <= 0:
                    return None
                self._wake.wait(idle_in)
            return None if self._closing else self._taken()

    def _next_of(self, model: str) -> Job | None:
        """The next job, if it is a question to this model."""
        with self._wake:
            first = self._jobs[0] if self._jobs and not self._closing else None
            return self._taken() if first and (first.kind, first.model) == ("answer", model) else None

    def _taken(self) -> Job:
        job = self._jobs.pop(0)
        self._running.append(job)
        self._restate_positions()
        return job

    def _end(self, job: Job, end: Usage | Ready | AppError) -> None:
        """Ends a job that was taken out of the queue."""
        if isinstance(end, AppError):
            log.warning("%s of %s failed: %s", job.kind, job.model, end)
        with self._wake:
            self._running.remove(job)
            self._restate_positions()
            job.finish(end)

    def _idle_in(self) -> float | None:
        """Seconds until the next resident has been idle for too long; None if nothing is loaded."""
        if not self._residents:
            return None
        return min(one.used for one in self._residents.values()) + self._limits.idle_unload - time.monotonic()

    # -- the runner's thread -------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            job = self._next()
            if job is None:
                self._unload_idle()
                continue
            failure: AppError | None = None
            try:
                self._serve(job)
            except AppError as error:
                # The traceback would keep what the failed work held.
                failure = error.with_traceback(None)
            except Exception:
                log.exception("%s of %s failed", job.kind, job.model)
                failure = AppError(model=job.model)
            if failure is not None:
                for each in [*self._running]:
                    self._end(each, failure)
        for model in [*self._residents]:
            self._drop(model)

    def _serve(self, job: Job) -> None:
        """Carries it out and ends it. Raises what ends all that run."""
        began = time.monotonic()
        if job.kind == "unload":
            self._drop(job.model)
        elif (resident := self._alive(job.model) or self._load(job)) is None:
            return self._end(job, NOTHING)
        elif job.kind == "answer":
            return self._answer(job, resident)
        self._end(job, Ready(time.monotonic() - began))

    def _alive(self, model: str) -> Kept | None:
        """The loaded model, if its worker has not died in the meantime."""
        resident = self._residents.get(model)
        if resident is not None and not resident.worker.alive:
            log.warning("the idle worker of %s has died", model)
            self._drop(model)
            return None
        return resident

    def _load(self, job: Job) -> Kept | None:
        """The job's model, loaded as the guard says; once more with less if that fails. None when it was cancelled."""
        plan, load = self._library.admit(job.model, self.status().residents, job.force)
        self._loading = job.model
        try:
            try:
                resident = self._begin(job, plan, load)
            except (EngineError, OutOfMemory) as failure:
                plan, load = self._smaller(job, plan, failure)
                resident = self._begin(job, plan, load)
        finally:
            self._loading = None
        if resident is not None:
            with self._wake:
                self._residents[job.model] = resident
            self._observe(resident)
        return resident

    def _smaller(self, job: Job, plan: MemoryPlan, failure: AppError) -> tuple[MemoryPlan, Load]:
        """What to try after a load that failed: less, or another engine; raises `failure` if there is nothing."""
        broken = isinstance(failure, EngineFailed)
        try:
            smaller, load = self._library.admit(job.model, self.status().residents, job.force, plan, broken)
        except NotEnoughMemory:
            raise failure from None
        if smaller.settings == plan.settings:
            raise failure
        log.warning("%s did not load: %s; tried again with less", job.model, failure)
        job.now(Loading("again", 0.0))
        return replace(smaller, reasons=(*smaller.reasons, Note("smaller_after_failure"))), load

    def _begin(self, job: Job, plan: MemoryPlan, load: Load) -> Kept | None:
        """A fresh worker with the model in it, after what must go has gone. None when the job was cancelled."""
        for model in plan.evict:
            self._drop(model)
        began = time.monotonic()
        worker = self._start()
        try:
            worker.send(load)
            loaded = self._await_load(job, worker)
        except BaseException:
            worker.kill()
            raise
        if loaded is None:
            worker.kill()
            return None
        now = time.monotonic()
        return Kept(worker, plan, loaded.memory, loaded.parallel, now, now - began)

    def _observe(self, resident: Kept) -> None:
        """Puts what the driver counts beside what was planned, for the log and for the next plan."""
        plan, held = resident.plan, resident.memory
        log.info("%s: planned %d MiB, holds %d MiB", plan.model, plan.need.total >> 20, held >> 20)
        self._library.observe(plan, held, resident.load_seconds)

    def _await_load(self, job: Job, worker: WorkerHandle) -> Loaded | None:
        began = time.monotonic()
        stage = "process"
        job.now(Loading(stage, 0.0))
        while True:
            seconds = time.monotonic() - began
            match worker.receive(TICK):
                case Stage(name):
                    stage = name
                    job.now(Loading(stage, seconds))
                case Loaded() as loaded:
                    return loaded
                case Failed(_, error):
                    raise error
                case Gone() as gone:
                    raise gone.error(job.model, stage)
            if job.cancelled:
                return None
            if seconds > self._limits.load_deadline:
                raise EngineHung(model=job.model, stage=stage, seconds=self._limits.load_deadline)

    def _answer(self, job: Job, resident: Kept) -> None:
        """Answers it, and those after it in the queue that this engine can answer at the same time."""
        model, held = job.model, resident.memory
        answering, self._at_once = Answering(resident, self._limits), resident.parallel
        try:
            answering.begin(job)
            while answering:
                while answering.has_room and (another := self._next_of(model)):
                    answering.begin(another)
                for ended, end in answering.step(CLOSE_GRACE if self._closing else CANCEL_GRACE):
                    if answering.deaf:
                        self._drop(model, kill=True)
                    if resident.memory > held:
                        held = resident.memory
                        self._observe(resident)
                    self._end(ended, end)
        except BaseException:
            self._drop(model, kill=True)
            raise
        finally:
            self._at_once, resident.used = 1, time.monotonic()

    def _drop(self, model: str, kill: bool = False) -> None:
        resident = self._residents.get(model)
        if resident is None:
            return
        try:
            resident.worker.kill() if kill else resident.worker.close()
        finally:
            with self._wake:  # only now: until it has ended, it holds its memory
                del self._residents[model]
        log.info("%s unloaded", model)

    def _unload_idle(self) -> None:
        limit = time.monotonic() - self._limits.idle_unload
        for model in [model for model, one in self._residents.items() if one.used <= limit]:
            self._drop(model)

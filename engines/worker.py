"""The child process that one engine lives in, and the parent's handle on it.

An engine may abort, hang or eat all memory: only its own process dies of that. Ending the process is also how a model
is unloaded, the one sure way to get GPU memory back. wire.py has the messages.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import psutil

from engines.base import Engine, Message, Usage
from engines.errors import AppError, Cancelled, EngineFailed, OutOfMemory
from engines.probe import oom_kills
from engines.wire import Cancel, Command, Done, Failed, Generate, Gone, Load, Loaded, Reply, Stage, Text, write

ROOT = Path(__file__).resolve().parent.parent
ALIVE_EVERY = 0.5
# Cards in the driver's order: where they are not alike, torch would count from the fastest, and probe.py by PCI bus.
DEFAULTS = {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
FIXED = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
# Where it was when a library aborts the process: nothing else would say so.
FIXED["PYTHONFAULTHANDLER"] = "1"


# -- the parent's side ---------------------------------------------------------------------------------------------


class Worker:
    """A running child. `receive` is for one thread; `kill` may be called from any, and again."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from engines.worker import main; main()"],
                cwd=ROOT,
                env=DEFAULTS | os.environ | FIXED,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A group of its own: Ctrl-C in the terminal is ours to handle, and its children die with it.
                start_new_session=True,
            )
        self._oom_kills = oom_kills()
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="worker-reader", daemon=True)
        self._writer = threading.Thread(target=self._write, name="worker-writer", daemon=True)
        self._reader.start()
        self._writer.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        # poll() says None, too, while the reader is just about to reap it.
        try:
            return self._process.poll() is None and psutil.Process(self.pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def send(self, command: Command) -> None:
        """Hands a command over without waiting. A child that is dead or stuck is noticed by what `receive` says."""
        if not isinstance(command, Cancel):
            self._oom_kills = oom_kills()
        self._commands.put(command)

    def receive(self, timeout: float) -> Reply | None:
        """The next reply, or None after `timeout` seconds. After Gone there are no more."""
        try:
            return self._replies.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self, timeout: float = 2.0) -> None:
        """Ends the child: asks by closing its stdin, then kills it and whatever it started."""
        self._commands.put(None)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout)
        self.kill()

    def kill(self) -> None:
        """Ends the child and its group at once, and waits until they are reaped."""
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        self._commands.put(None)
        self._writer.join(5)
        self._reader.join(5)

    def _write(self) -> None:
        """Hands commands over until None comes. A pipe holds 64 KiB: a long one waits until the child reads it."""
        assert self._process.stdin is not None  # noqa: S101  Popen was given a pipe
        with contextlib.suppress(OSError), self._process.stdin as stream:
            while command := self._commands.get():
                write(stream, command)

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        with self._process.stdout as stream:
            try:
                while True:
                    self._replies.put(pickle.load(stream))  # noqa: S301  our own child's
            except (EOFError, OSError, pickle.UnpicklingError, ValueError):
                pass
        code = self._process.wait()
        # The kernel counts before it kills. A worker that is killed from here is not listened to any more.
        memory = code == -signal.SIGKILL and oom_kills() > self._oom_kills
        self._replies.put(Gone(signal.Signals(-code).name if code < 0 else "", code, memory))


# -- the child's side ----------------------------------------------------------------------------------------------


def main() -> None:
    """The child's life: one Load, then answers, as many at once as the engine gives, until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to stdout, from C++ too: they get stderr in its place, and the real one is ours alone.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = _Child(output)
    threading.Thread(target=_to_the_end, args=(child.listen, sys.stdin.buffer), name="listener", daemon=True).start()
    _to_the_end(child.run)


def _to_the_end(work: Callable[..., None], *args: object) -> None:
    """Runs one of the child's threads. Whichever ends, the process ends with it.

    Not by Python's own way out, which aborts when another thread is reading stdin.
    """
    code = 1
    try:
        work(*args)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


class _Child:
    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._saying = threading.Lock()
        self._commands: queue.SimpleQueue[Load | Generate] = queue.SimpleQueue()
        self._wanted: set[int] = set()
        """The answers that are asked for and not cancelled."""

    def listen(self, stream: BinaryIO) -> None:
        """Reads commands. The parent's end, however it came, is this process's end."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                command: Command = pickle.load(stream)  # noqa: S301  our own parent's
                if isinstance(command, Cancel):
                    self._wanted.discard(command.number)
                    continue
                if isinstance(command, Generate):
                    self._wanted.add(command.number)
                self._commands.put(command)

    def run(self) -> None:
        """Loads, and answers for ever; returns only after a load that failed."""
        load = self._commands.get()
        assert isinstance(load, Load)  # noqa: S101
        engine = self._guarded(load.model, None, lambda: make_engine(load, lambda name: self._say(Stage(name))))
        if engine is None:
            return
        gc.freeze()  # or looking through all that was imported makes an answer wait for 0.2 s now and then
        self._say(Loaded(engine.memory(), engine.parallel))
        for _ in range(engine.parallel - 1):
            threading.Thread(target=_to_the_end, args=(self._answer, engine, load), daemon=True).start()
        self._answer(engine, load)

    def _answer(self, engine: Engine, load: Load) -> None:
        while True:
            job = self._commands.get()
            assert isinstance(job, Generate)  # noqa: S101
            usage = self._guarded(load.model, job.number, lambda: self._generate(engine, job, load.system))  # noqa: B023
            self._wanted.discard(job.number)
            if usage is not None:
                self._say(Done(job.number, usage, engine.memory()))

    def _generate(self, engine: Engine, job: Generate, system: str) -> Usage:
        said = time.monotonic()

        def emit(text: str) -> None:
            nonlocal said
            if job.number not in self._wanted:
                raise Cancelled
            if text or time.monotonic() - said > ALIVE_EVERY:
                said = time.monotonic()
                self._say(Text(job.number, text))

        own = (Message.of("system", system),) if system and job.messages[0].role != "system" else ()
        return engine.generate((*own, *job.messages), job.settings, emit)

    def _guarded(self, model: str, number: int | None, work: Callable[[], Any]) -> Any:
        """What `work` returns, or None after its failure has been reported by name; `number` as Failed has it."""
        stage = "load" if number is None else "answer"
        try:
            return work()
        except EngineFailed as error:  # the engine does not know what it is called, nor what it was asked for
            traceback.print_exc()
            failed: AppError = EngineFailed(**{"model": model, "stage": stage} | error.facts)
        except AppError as error:
            failed = error
        except Exception as error:
            traceback.print_exc()
            failed = _named(error, model, stage)
        self._say(Failed(number, failed))
        return None

    def _say(self, reply: Reply) -> None:
        with self._saying:
            write(self._output, reply)


def make_engine(load: Load, stage: Callable[[str], None]) -> Engine:
    """The engine that a Load asks for. Heavy imports happen in here, in the child."""
    if load.settings.backend == "fake":
        from engines.fake import FakeEngine, Script

        return FakeEngine(stage, Script.of(os.environ.get("FAKE_LOAD", "fake:")), load.settings.context)
    if load.remote is not None:
        from engines.remote import RemoteEngine

        return RemoteEngine(load.remote, load.settings, stage)
    if load.settings.backend == "onnxruntime":
        from engines.text_onnx import OnnxTextEngine

        assert load.quantized is not None  # noqa: S101
        return OnnxTextEngine(load.folder, load.settings, load.quantized, stage)
    if load.settings.backend == "native":
        from engines.vision_native import NativeVisionEngine

        return NativeVisionEngine(load.folder, load.settings, stage)
    if load.settings.backend in ("turbomind", "pytorch"):
        from engines.vision import LMDeployEngine

        return LMDeployEngine(load.folder, load.settings, stage)
    from engines.text import TextEngine

    return TextEngine(load.folder, load.settings, stage)


def _named(error: Exception, model: str, stage: str) -> AppError:
    text = str(error).lower()
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text:
        return OutOfMemory(model=model, stage=stage)
    return EngineFailed(model=model, stage=stage, kind=type(error).__name__)

"""The child process that one engine lives in, and the parent's handle on it.

An engine may abort, hang or eat all memory: only its own process dies of that. Ending the process is also how a model
is unloaded, the one sure way to get GPU memory back. Messages are pickled values over the child's stdin and stdout.
"""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

import psutil

from engines.base import Engine, GenerationSettings, Message, Usage
from engines.errors import AppError, Cancelled, EngineFailed, OutOfMemory
from engines.memory import LoadSettings

ROOT = Path(__file__).resolve().parent.parent
ALIVE_EVERY = 0.5


@dataclass(frozen=True, slots=True)
class Load:
    """To the child: make this engine. Sent once."""

    model: str
    folder: Path
    settings: LoadSettings


@dataclass(frozen=True, slots=True)
class Generate:
    """To the child: answer. `number` tells this answer's Cancel from a late one of the last."""

    number: int
    messages: tuple[Message, ...]
    settings: GenerationSettings


@dataclass(frozen=True, slots=True)
class Cancel:
    number: int


Command = Load | Generate | Cancel


@dataclass(frozen=True, slots=True)
class Stage:
    """From the child: loading has come to this stage."""

    name: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """From the child: ready; `memory` is what it holds of the device, in bytes."""

    memory: int


@dataclass(frozen=True, slots=True)
class Text:
    """From the child: a piece of the answer; an empty one only says that it lives."""

    text: str


@dataclass(frozen=True, slots=True)
class Done:
    usage: Usage
    memory: int


@dataclass(frozen=True, slots=True)
class Failed:
    error: AppError


@dataclass(frozen=True, slots=True)
class Gone:
    """The child is dead: by `signal` (its name), or with `exit_code`."""

    signal: str
    exit_code: int


Reply = Stage | Loaded | Text | Done | Failed | Gone


# -- the parent's side ---------------------------------------------------------------------------------------------


class Worker:
    """A running child. `receive` is for one thread; `kill` may be called from any, and again."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        environ = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from engines.worker import main; main()"],
                cwd=ROOT,
                env=environ,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                # A group of its own: Ctrl-C in the terminal is ours to handle, and its children die with it.
                start_new_session=True,
            )
        self._replies: queue.SimpleQueue[Reply] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, name="worker-reader", daemon=True)
        self._reader.start()

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
        """Hands a command over. A dead child is noticed by `receive`, not here."""
        with contextlib.suppress(OSError):
            _write(self._stdin, command)

    def receive(self, timeout: float) -> Reply | None:
        """The next reply, or None after `timeout` seconds. After Gone there are no more."""
        try:
            return self._replies.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self, timeout: float = 2.0) -> None:
        """Ends the child: asks by closing its stdin, then kills it and whatever it started."""
        self._hang_up()
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
        self._hang_up()
        self._reader.join(5)

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._stdin.close()

    @property
    def _stdin(self) -> IO[bytes]:
        assert self._process.stdin is not None  # noqa: S101  Popen was given a pipe
        return self._process.stdin

    def _read(self) -> None:
        assert self._process.stdout is not None  # noqa: S101
        with self._process.stdout as stream:
            try:
                while True:
                    self._replies.put(pickle.load(stream))  # noqa: S301  our own child's
            except (EOFError, OSError, pickle.UnpicklingError, ValueError):
                pass
        code = self._process.wait()
        self._replies.put(Gone(signal.Signals(-code).name if code < 0 else "", code))


def _write(stream: IO[bytes], message: object) -> None:
    pickle.dump(message, stream)
    stream.flush()


# -- the child's side ----------------------------------------------------------------------------------------------


def main() -> None:
    """The child's life: one Load, then answers until stdin closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Libraries print to stdout, from C++ too: they get stderr in its place, and the real one is ours alone.
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    child = _Child(output)
    threading.Thread(target=child.listen, args=(sys.stdin.buffer,), name="listener", daemon=True).start()
    child.run()


class _Child:
    def __init__(self, output: BinaryIO) -> None:
        self._output = output
        self._commands: queue.SimpleQueue[Load | Generate] = queue.SimpleQueue()
        self._cancelled = -1
        self._said = 0.0

    def listen(self, stream: BinaryIO) -> None:
        """Reads commands. The parent's end, however it came, is this process's end."""
        with contextlib.suppress(EOFError, OSError, pickle.UnpicklingError):
            while True:
                command: Command = pickle.load(stream)  # noqa: S301  our own parent's
                if isinstance(command, Cancel):
                    self._cancelled = command.number
                else:
                    self._commands.put(command)
        os._exit(0)

    def run(self) -> None:
        load = self._commands.get()
        assert isinstance(load, Load)  # noqa: S101
        engine = self._guarded(load.model, "load", lambda: make_engine(load, lambda name: self._say(Stage(name))))
        if engine is None:
            return
        self._say(Loaded(engine.memory()))
        while True:
            job = self._commands.get()
            assert isinstance(job, Generate)  # noqa: S101
            usage = self._guarded(load.model, "answer", lambda: self._generate(engine, job))  # noqa: B023
            if usage is not None:
                self._say(Done(usage, engine.memory()))

    def _generate(self, engine: Engine, job: Generate) -> Usage:
        def emit(text: str) -> None:
            if self._cancelled == job.number:
                raise Cancelled
            if text or time.monotonic() - self._said > ALIVE_EVERY:
                self._say(Text(text))

        return engine.generate(job.messages, job.settings, emit)

    def _guarded(self, model: str, stage: str, work: Callable[[], Any]) -> Any:
        """What `work` returns, or None after its failure has been reported by name."""
        try:
            return work()
        except AppError as error:
            failed = error
        except Exception as error:
            traceback.print_exc()
            failed = _named(error, model, stage)
        self._say(Failed(failed))
        return None

    def _say(self, reply: Reply) -> None:
        self._said = time.monotonic()
        _write(self._output, reply)


def make_engine(load: Load, stage: Callable[[str], None]) -> Engine:
    """The engine that a Load asks for. Heavy imports happen in here, in the child."""
    if load.settings.backend == "fake":
        from engines.fake import FakeEngine, Script

        return FakeEngine(stage, Script.of(os.environ.get("FAKE_LOAD", "fake:")), load.settings.context)
    if load.settings.backend == "native":
        from engines.vision_native import NativeVisionEngine

        return NativeVisionEngine(load.folder, load.settings, stage)
    from engines.text import TextEngine

    return TextEngine(load.folder, load.settings, stage)


def _named(error: Exception, model: str, stage: str) -> AppError:
    text = str(error).lower()
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if memory or "out of memory" in text or "can't allocate memory" in text or "not enough memory" in text:
        return OutOfMemory(model=model, stage=stage)
    return EngineFailed(model=model, stage=stage, kind=type(error).__name__)

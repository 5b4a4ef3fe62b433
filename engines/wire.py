"""What the runner and a worker's process say to each other: pickled values over the child's stdin and stdout."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from configs.schema import Remote
from engines.base import GenerationSettings, Message, Usage
from engines.errors import AppError, EngineDied, OutOfMemory
from engines.memory import LoadSettings, MemoryPlan, Resident


@dataclass(frozen=True, slots=True)
class Load:
    """To the child: make this engine. Sent once. `system` is the model's own prompt, for who gives none."""

    model: str
    folder: Path
    settings: LoadSettings
    system: str = ""
    remote: Remote | None = None
    quantized: Path | None = None
    """Where its weights for a CPU are kept once they are made."""


@dataclass(frozen=True, slots=True)
class Generate:
    """To the child: answer. `number` is in the Cancel and in the replies that belong to it, and comes once only."""

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
    """From the child: ready, for `parallel` answers at once; `memory` is what it holds of the device, in bytes."""

    memory: int
    parallel: int = 1


@dataclass(frozen=True, slots=True)
class Text:
    """From the child: a piece of an answer; an empty one only says that it lives."""

    number: int
    text: str


@dataclass(frozen=True, slots=True)
class Done:
    number: int
    usage: Usage
    memory: int


@dataclass(frozen=True, slots=True)
class Failed:
    """From the child: the answer of this number, or the load if it is None, failed."""

    number: int | None
    error: AppError


@dataclass(frozen=True, slots=True)
class Gone:
    """The child is dead: by `signal` (its name), or with `exit_code`; `out_of_memory`: the kernel chose it for that."""

    signal: str
    exit_code: int
    out_of_memory: bool = False

    def error(self, model: str, stage: str) -> AppError:
        if self.out_of_memory:
            return OutOfMemory(model=model, stage=stage)
        return EngineDied(model=model, signal=self.signal, exit_code=self.exit_code, stage=stage)


Reply = Stage | Loaded | Text | Done | Failed | Gone


class WorkerHandle(Protocol):
    """A worker as the runner sees it; engines.worker.Worker is one."""

    @property
    def pid(self) -> int: ...
    @property
    def alive(self) -> bool: ...
    def send(self, command: Command) -> None: ...
    def receive(self, timeout: float) -> Reply | None: ...
    def close(self) -> None: ...
    def kill(self) -> None: ...


class Library(Protocol):
    """What the runner needs of engines.library.Library: the guard's word before every load."""

    def admit(
        self, model: str, resident: Sequence[Resident], force: bool = False, after: MemoryPlan | None = None,
        broken: bool = False,
    ) -> tuple[MemoryPlan, Load]: ...  # fmt: skip
    def observe(self, plan: MemoryPlan, held: int, seconds: float) -> None: ...


def write(stream: IO[bytes], message: object) -> None:
    pickle.dump(message, stream)
    stream.flush()

"""One request to the runner and the log of what became of it.

The log belongs to the server, not to a page: any number of followers read it from the start, whenever they come, and
see the same. A job that nobody has followed for a while is abandoned, and the runner stops it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from engines.base import GenerationSettings, Message, Usage
from engines.errors import AppError

HEARTBEAT = 0.25
"""Seconds: a follower that yields this often to its page notices a lost page this fast."""

NOTHING = Usage(0, 0, 0, 0.0, 0.0, "cancelled")
"""The usage of a job that ended before an engine saw it."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """In the queue, with so many jobs before it."""

    ahead: int


@dataclass(frozen=True, slots=True)
class Loading:
    """Its model is being loaded: the stage and the seconds since the load began."""

    stage: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Working:
    """The engine has it, and nothing new was said since the last event."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Delta:
    """The next piece of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class Ready:
    """A load or unload is done."""

    seconds: float


Event = Waiting | Loading | Working | Delta | Usage | Ready
Kind = Literal["answer", "load", "unload"]


class Job:
    """Made by the Runner. Iterate it for events; `cancel()` never blocks and is safe from any thread."""

    def __init__(
        self,
        kind: Kind,
        model: str,
        messages: Sequence[Message] = (),
        settings: GenerationSettings = GenerationSettings(),
        owner: str = "",
        on_cancel: Callable[[Job], None] = lambda job: None,
        force: bool = False,
    ) -> None:
        self.kind, self.model, self.owner, self.force = kind, model, owner, force
        self.messages, self.settings = tuple(messages), settings
        self.turn = 0
        """Its place among those that wait, which the runner gives it."""
        self.created = time.monotonic()
        self._on_cancel = on_cancel
        self._cancelled = threading.Event()
        self._changed = threading.Condition()
        self._log: list[Delta] = []
        self._state: Waiting | Loading | Working = Waiting(0)
        self._state_since = self.created
        self._end: Usage | Ready | AppError | None = None
        self._followers = 0
        self._left = self.created

    # -- for anyone ----------------------------------------------------------------------------------------------

    def cancel(self) -> None:
        self._cancelled.set()
        self._on_cancel(self)

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    @property
    def text(self) -> str:
        """The answer so far."""
        with self._changed:
            return "".join(delta.text for delta in self._log)

    @property
    def ended(self) -> bool:
        return self._end is not None

    @property
    def error(self) -> AppError | None:
        """Why it failed, once it has."""
        return self._end if isinstance(self._end, AppError) else None

    @property
    def now_at(self) -> Event | AppError:
        """What it is doing at this moment, or how it ended."""
        with self._changed:
            return self._restated(self._state) if self._end is None else self._end

    def __iter__(self) -> Iterator[Event]:
        """Every event from the start: what the job is doing, each Delta, at last Usage or Ready. Raises AppError.

        When there is nothing new, what the job is doing is said again every HEARTBEAT.
        """
        with self._changed:
            self._followers += 1
        try:
            yield from self.watch()
        finally:
            with self._changed:
                self._followers -= 1
                self._left = time.monotonic()

    def watch(self) -> Iterator[Event]:
        """Like iterating, but does not count as a follower: for whoever records the answer."""
        position, seen = 0, None
        while True:
            with self._changed:
                state = self._state
                if position == len(self._log) and self._end is None and state is seen:
                    self._changed.wait(HEARTBEAT)
                state, end = self._state, self._end
                new = self._log[position:]
            position += len(new)
            if new:
                yield Delta("".join(delta.text for delta in new))
            elif end is None:
                yield self._restated(state)
            elif isinstance(end, AppError):
                raise end
            else:
                yield end
                return
            seen = state

    def result(self) -> Usage | Ready:
        """Waits for the end. Raises AppError."""
        for event in self:
            if isinstance(event, Usage | Ready):
                return event
        raise AssertionError("a job's events end with Usage or Ready")

    # -- for the runner ------------------------------------------------------------------------------------------

    def abandoned(self, after: float) -> bool:
        """Whether nobody has followed it for `after` seconds."""
        with self._changed:
            return self._followers == 0 and time.monotonic() - self._left > after

    def say(self, text: str) -> None:
        with self._changed:
            self._log.append(Delta(text))
            self._changed.notify_all()

    def now(self, state: Waiting | Loading | Working) -> None:
        with self._changed:
            if state != self._state:
                self._state, self._state_since = state, time.monotonic()
                self._changed.notify_all()

    def finish(self, end: Usage | Ready | AppError) -> None:
        """Ends the job, once; a second end is ignored."""
        with self._changed:
            if self._end is None:
                self._end = end
                self._changed.notify_all()

    def _restated(self, state: Waiting | Loading | Working) -> Event:
        seconds = time.monotonic() - self._state_since
        match state:
            case Loading(stage, since):
                return Loading(stage, since + seconds)
            case Working(since):
                return Working(since + seconds)
            case _:
                return state

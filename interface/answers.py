"""Answers belong to the server: started here, written to the store as they grow, and followed by any number of pages.

Joins the runner and the store. Knows no page: pages and the terminal call it alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from engines.base import ImagePart, Message, Usage
from engines.errors import AppError, Busy, HistoryUnavailable, StillAnswering
from engines.job import Delta, Job
from engines.runner import Runner
from interface.history import Status, Store, StoredMessage
from interface.messages import record

log = logging.getLogger(__name__)

SAVE_EVERY = 1.0
"""Seconds between writes of a growing answer: what a power cut may cost."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way: its job, the row it is written to, and whether its end has been written there."""

    job: Job
    row: int
    recorded: threading.Event = field(default_factory=threading.Event)


class Answers:
    """One answer at a time for each conversation. Safe from any thread."""

    def __init__(self, runner: Runner, store: Store) -> None:
        self.runner, self.store = runner, store
        self._growing: dict[str, Answer] = {}
        self._recorders: set[threading.Thread] = set()
        self._lock = threading.Lock()
        self.unsaved: HistoryUnavailable | None = None
        """Why the last write failed, or None while everything is being saved."""

    def of(self, conversation: str | None) -> Answer | None:
        """The answer that is growing in a conversation, if there is one."""
        with self._lock:
            return self._growing.get(conversation or "")

    def ask(self, conversation: str, text: str, images: Sequence[ImagePart] = ()) -> None:
        """Commits the question, then starts its answer; a full queue is written down as the answer's failure.

        Raises StillAnswering or HistoryUnavailable, and then nothing has changed. So do the next three.
        """
        with self._lock:
            self._refuse_second(conversation)
            self.store.add(conversation, "user", text, images=images)
            self._start(conversation)

    def again(self, conversation: str) -> None:
        """Another answer to the last question; the earlier one stays in the store."""
        with self._lock:
            self._refuse_second(conversation)
            path = self.store.path(conversation)
            if path and path[-1].role == "assistant":
                self.store.rewind(conversation, path[-1].id)
            if path:
                self._start(conversation)

    def rewrite(self, conversation: str, message: int, text: str, images: Sequence[ImagePart] = ()) -> None:
        """Puts another question in the place of one and answers that; the earlier branch stays in the store."""
        with self._lock:
            self._refuse_second(conversation)
            self.store.rewind(conversation, message)
            self.store.add(conversation, "user", text, images=images)
            self._start(conversation)

    def undo(self, conversation: str) -> StoredMessage | None:
        """Takes the last question, and what answered it, out of what is shown; returns the question."""
        with self._lock:
            self._refuse_second(conversation)
            for one in reversed(self.store.path(conversation)):
                if one.role == "user":
                    self.store.rewind(conversation, one.id)
                    return one
            return None

    def close(self, timeout: float = 5.0) -> None:
        """Waits until every answer has been written; the runner has been closed before."""
        with self._lock:
            recorders = list(self._recorders)
        for thread in recorders:
            thread.join(timeout)

    def _refuse_second(self, conversation: str) -> None:
        if conversation in self._growing:
            raise StillAnswering()

    def _start(self, conversation: str) -> None:
        held_with = self.store.conversation(conversation)
        assert held_with is not None  # noqa: S101  every caller has just written to it
        # An answer that failed before its first word says nothing to the model.
        messages = [one.message for one in self.store.path(conversation) if one.text or one.role == "user"]
        if held_with.system:
            messages.insert(0, Message.of("system", held_with.system))
        try:
            job = self.runner.submit(held_with.model, messages, held_with.settings, owner=conversation)
        except Busy as error:
            self.store.write(self.store.add(conversation, "assistant", "", "failed"), "", "failed", None, record(error))
            return
        answer = Answer(job, self.store.add(conversation, "assistant", "", "growing"))
        self._growing[conversation] = answer
        thread = threading.Thread(target=self._record, args=(conversation, answer), name="recorder", daemon=True)
        self._recorders.add(thread)
        thread.start()

    def _record(self, conversation: str, answer: Answer) -> None:
        """Follows one job to its end and writes it down."""
        text, saved, usage = "", time.monotonic(), None
        status: Status = "failed"
        error: AppError | None = None
        try:
            for event in answer.job.watch():
                if isinstance(event, Delta):
                    text += event.text
                    if time.monotonic() - saved > SAVE_EVERY:
                        self._write(answer.row, text, "growing")
                        saved = time.monotonic()
                elif isinstance(event, Usage):
                    usage, status = event, "stopped" if event.reason == "cancelled" else "complete"
        except AppError as failure:
            error = failure
        self._write(answer.row, text, status, usage, error)
        with self._lock:
            del self._growing[conversation]
            self._recorders.discard(threading.current_thread())
        answer.recorded.set()

    def _write(
        self, row: int, text: str, status: Status, usage: Usage | None = None, error: AppError | None = None
    ) -> None:
        try:
            self.store.write(row, text, status, usage, record(error) if error else None)
            self.unsaved = None
        except HistoryUnavailable as failure:
            log.warning("an answer could not be saved: %s", failure)
            self.unsaved = failure

"""Answers belong to the server: started here, written to the store as they grow, and followed by any number of pages.

Joins the runner and the store. Knows no page: pages and the terminal call it alike.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from engines.base import ImagePart, Message, Usage
from engines.errors import AppError, Busy, ConversationMoved, HistoryUnavailable, StillAnswering
from engines.job import Delta, Job
from engines.runner import Runner
from interface import branches
from interface.history import Conversation, HeldWith, Status, Store, StoredMessage
from interface.messages import record

log = logging.getLogger(__name__)

SAVE_EVERY = 0.25
"""Seconds between writes of a growing answer: on a busy machine, too, a power cut costs less than one of it."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer on its way: its job, the row it is written to, and whether its end has been written there.

    `before` is what the row said already, where an answer goes on.
    """

    job: Job
    row: int
    before: StoredMessage | None = None
    recorded: threading.Event = field(default_factory=threading.Event)


@dataclass(frozen=True, slots=True)
class Growing:
    """The answers on their way, of every owner: by owner and conversation, under one lock."""

    answers: dict[tuple[str, str], Answer] = field(default_factory=dict)
    recorders: set[threading.Thread] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self, timeout: float = 5.0) -> None:
        """Waits until every answer has been written; the runner has been closed before."""
        with self.lock:
            recorders = list(self.recorders)
        for thread in recorders:
            thread.join(timeout)


class Answers:
    """The answers of one store's owner, one at a time for each conversation. Safe from any thread."""

    def __init__(self, runner: Runner, store: Store, growing: Growing | None = None) -> None:
        self.runner, self.store = runner, store
        self._all = growing or Growing()
        self._lock = self._all.lock

    def of(self, conversation: str | None) -> Answer | None:
        """The answer that is growing in a conversation, if there is one."""
        with self._lock:
            return self._all.answers.get((self.store.owner, conversation or ""))

    def growing(self) -> frozenset[str]:
        """The conversations in which an answer is growing."""
        with self._lock:
            return frozenset(id for owner, id in self._all.answers if owner == self.store.owner)

    def path(self, conversation: str) -> list[StoredMessage]:
        """The conversation as the store has it, which first tries to save what it could not."""
        self.store.catch_up()
        return self.store.path(conversation)

    def mark(self, conversation: str) -> str:
        """What a page shows that shows all there is: to be handed back as `seen` with what the page asks for."""
        return mark_of(self.path(conversation))

    def ask(
        self,
        conversation: str,
        text: str,
        images: Sequence[ImagePart] = (),
        held_with: HeldWith | None = None,
        seen: str = "",
    ) -> None:
        """Commits the question, then starts its answer; a full queue is written down as the answer's failure.

        Raises StillAnswering, HistoryUnavailable, or ConversationMoved if there is more than what was `seen` by who
        asks ("": that is not known), and then nothing has changed. So do the others below. `held_with` is what the
        conversation is held with from now on.
        """
        with self._answering(conversation, held_with, seen):
            self.store.add(conversation, "user", text, images=images)

    def again(self, conversation: str, held_with: HeldWith | None = None, seen: str = "") -> None:
        """Another answer to the last question; the earlier one stays in the store."""
        with self._answering(conversation, held_with, seen):
            path = self.store.path(conversation)
            if not path:
                raise ConversationMoved()
            if path[-1].role == "assistant":
                self.store.rewind(conversation, path[-1].id)
            else:
                branches.end_at(self.store, conversation, path[-1].id)

    def resume(self, conversation: str, message: int, held_with: HeldWith | None = None, seen: str = "") -> None:
        """Goes on with the last answer, which was cut short, in the same row."""
        with self._lock:
            self._refuse(conversation, seen)
            with self.store.transaction():
                held = self._configured(conversation, held_with)
                path = self.store.path(conversation)
                if held is None or not path or path[-1].id != message or not was_cut(path[-1]):
                    raise ConversationMoved()
                self.store.write(message, path[-1].text, "growing")
            self._start(held, _prompt_of(path), message, path[-1])

    def rewrite(
        self,
        conversation: str,
        message: int,
        text: str,
        images: Sequence[ImagePart] = (),
        held_with: HeldWith | None = None,
        seen: str = "",
    ) -> None:
        """Puts another question in the place of one and answers that; the earlier branch stays in the store."""
        with self._answering(conversation, held_with, seen):
            if not any(one.id == message and one.role == "user" for one in self.store.path(conversation)):
                raise ConversationMoved()
            self.store.rewind(conversation, message)
            self.store.add(conversation, "user", text, images=images)

    def change(self, how: Callable[[Store, str, int], bool], conversation: str, message: int, seen: str = "") -> None:
        """Does to a message what one of interface.branches does: choose, delete or restore."""
        with self._lock:
            self._refuse(conversation, seen)
            if not how(self.store, conversation, message):
                raise ConversationMoved()

    def undo(self, conversation: str, seen: str = "") -> StoredMessage | None:
        """Takes the last question, and what answered it, out of what is shown; returns the question."""
        with self._lock:
            self._refuse(conversation, seen)
            for one in reversed(self.store.path(conversation)):
                if one.role == "user":
                    self.store.rewind(conversation, one.id)
                    return one
            return None

    def _refuse(self, conversation: str, seen: str) -> None:
        if (self.store.owner, conversation) in self._all.answers:
            raise StillAnswering()
        if seen and not _shows(seen, self.mark(conversation)):
            raise ConversationMoved()

    @contextmanager
    def _answering(self, conversation: str, held_with: HeldWith | None, seen: str) -> Iterator[None]:
        """Around what changes a conversation's end: commits it with a row for the answer, then starts that."""
        with self._lock:
            self._refuse(conversation, seen)
            with self.store.transaction():
                held = self._configured(conversation, held_with)
                yield
                if held is None:  # deleted from another page
                    raise ConversationMoved()
                messages = _prompt_of(self.store.path(conversation))
                row = self.store.add(conversation, "assistant", "", "growing")
            self._start(held, messages, row)

    def _configured(self, conversation: str, held_with: HeldWith | None) -> Conversation | None:
        if held_with is not None:
            self.store.configure(conversation, *held_with)
        return self.store.conversation(conversation)

    def _start(
        self, held: Conversation, messages: list[Message], row: int, before: StoredMessage | None = None
    ) -> None:
        system = [Message.of("system", held.system)] if held.system else []
        try:
            job = self.runner.submit(held.model, [*system, *messages], held.settings, owner=held.id)
        except Busy as error:
            self._keep(_answer_row(row, before.text if before else "", "failed", error=error))
            return
        answer = self._all.answers[self.store.owner, held.id] = Answer(job, row, before)
        thread = threading.Thread(target=self._record, args=(held.id, answer), name="recorder", daemon=True)
        self._all.recorders.add(thread)
        thread.start()

    def _record(self, conversation: str, answer: Answer) -> None:
        """Follows one job to its end and writes it down."""
        try:
            self._keep(self._watched(answer))
        finally:
            with self._lock:
                del self._all.answers[self.store.owner, conversation]
                self._all.recorders.discard(threading.current_thread())
            answer.recorded.set()

    def _watched(self, answer: Answer) -> StoredMessage:
        """The answer as it ended, whatever ended it."""
        text, saved = answer.before.text if answer.before else "", time.monotonic()
        try:
            for event in answer.job.watch():
                if isinstance(event, Delta):
                    text += event.text
                    # In memory only it would be as volatile as the job itself.
                    if time.monotonic() - saved > SAVE_EVERY and self.store.unsaved is None:
                        self._keep(_answer_row(answer.row, text, "growing"))
                        saved = time.monotonic()
                elif isinstance(event, Usage):
                    status: Status = "stopped" if event.reason == "cancelled" else "complete"
                    return _answer_row(answer.row, text, status, _in_all(answer.before, event))
            raise AssertionError("a job's events end with Usage")
        except AppError as error:
            return _answer_row(answer.row, text, "failed", error=error)
        except Exception:
            log.exception("an answer could not be followed")
            return _answer_row(answer.row, text, "failed", error=AppError(model=answer.job.model))

    def _keep(self, message: StoredMessage) -> None:
        try:
            self.store.write(message.id, message.text, message.status, message.usage, message.error)
        except HistoryUnavailable as failure:  # nothing that was asked for can be told: the page finds it, too
            log.error("an answer could not be written: %s", failure)


def _answer_row(
    row: int, text: str, status: Status, usage: Usage | None = None, error: AppError | None = None
) -> StoredMessage:
    return StoredMessage(row, "assistant", text, status, usage, record(error) if error else None)


def was_cut(one: StoredMessage) -> bool:
    """Whether an answer broke off, so that it can be gone on with."""
    length = one.usage is not None and one.usage.reason == "length"
    return one.role == "assistant" and bool(one.text) and (one.status in ("stopped", "failed") or length)


def mark_of(path: Sequence[StoredMessage]) -> str:
    """Tells one state of a conversation's shown messages from another; a growing answer is one state."""
    if not path:
        return "0"
    last = path[-1]
    grown = "" if last.status == "growing" else f"{last.status}:{len(last.text)}"
    return f"{len(path)}:{last.id}:{grown}"


def _shows(seen: str, now: str) -> bool:
    """Whether who saw `seen` saw what is there now; who saw an answer grow until just now did."""
    return seen == now or (seen.endswith(":") and now.startswith(seen))


def _prompt_of(path: Sequence[StoredMessage]) -> list[Message]:
    """What the model is told; an answer that failed before its first word says nothing to it."""
    return [one.message for one in path if one.text or one.role == "user"]


def _in_all(before: StoredMessage | None, usage: Usage) -> Usage:
    """What an answer took that was gone on with."""
    if before is None or before.usage is None or not usage.context:
        return usage
    first = before.usage
    return replace(
        usage,
        prompt_tokens=max(0, usage.prompt_tokens - first.new_tokens),
        new_tokens=first.new_tokens + usage.new_tokens,
        first_token_s=first.first_token_s,
        seconds=first.seconds + max(0.0, usage.seconds - usage.first_token_s),
    )

"""A conversation as a value, with all its branches: what an export holds, and what an import adds."""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import StringConstraints

from configs.schema import ModelKind
from engines.base import GenerationSettings, Usage
from interface.history import Store

Time = Annotated[float, Ge(0), Le(4102444800)]
"""Seconds since 1970, up to 2100: what any system can print as a date."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An image by the hash of its file."""

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]
    width: Annotated[int, Ge(1), Le(16383)]
    height: Annotated[int, Ge(1), Le(16383)]


@dataclass(frozen=True, slots=True)
class Problem:
    """What interface.messages.record made of an error."""

    code: str
    facts: dict[str, Any]
    incident: str | None = None
    """Its number in the log of the app that it happened in."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A message. `parent` is the place of the one before it among the transcript's messages, None for a first one."""

    parent: int | None
    role: Literal["user", "assistant"]
    text: str
    status: Literal["complete", "stopped", "failed"]
    created: Time
    usage: Usage | None = None
    error: Problem | None = None
    images: tuple[Picture, ...] = ()
    deleted: Time | None = None


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation. `head` is the place of the message that it is shown up to."""

    title: Annotated[str, StringConstraints(max_length=1000)]
    model: Annotated[str, StringConstraints(max_length=1000)]
    system: str
    settings: GenerationSettings
    created: Time
    updated: Time
    head: int | None
    messages: tuple[Entry, ...]
    kind: ModelKind | None = None
    pinned: bool = False

    @property
    def path(self) -> list[Entry]:
        """The messages that are shown, in order."""
        found: list[Entry] = []
        place = self.head
        while place is not None:
            if self.messages[place].deleted is None:
                found.append(self.messages[place])
            place = self.messages[place].parent
        return found[::-1]

    @property
    def pictures(self) -> list[Picture]:
        return [one for entry in self.messages for one in entry.images]


def ids(store: Store) -> list[str]:
    """Every conversation of the owner's that has not been deleted, in the order in which they were begun."""
    listed = "SELECT id FROM conversations WHERE owner = ? AND deleted IS NULL ORDER BY created, rowid"
    return [id for (id,) in store.all(listed, store.owner)]


def read(store: Store, conversation: str) -> Transcript | None:
    """A conversation as it is now; what is still growing counts as stopped there. None if there is no such one."""
    row = store.one(
        "SELECT title, model, system, settings, created, updated, head, kind, pinned FROM conversations"
        " WHERE id = ? AND owner = ? AND deleted IS NULL",
        conversation,
        store.owner,
    )
    if row is None:
        return None
    title, model, system, settings, created, updated, head, kind, pinned = row
    rows = store.all(
        "SELECT id, parent, role, text, status, created, usage, error, images, deleted FROM messages"
        " WHERE conversation = ? ORDER BY id",
        conversation,
    )
    place = {id: number for number, (id, *_) in enumerate(rows)}
    return Transcript(
        title, model, system, GenerationSettings(**json.loads(settings)), created, updated, place.get(head),
        tuple(_entry(row, place) for row in rows), kind, bool(pinned),
    )  # fmt: skip


def write(store: Store, transcript: Transcript) -> str:
    """Adds it as a conversation of the owner's; returns the new id. Part of the transaction that it is called in."""
    conversation, one = secrets.token_urlsafe(12), transcript
    settings = json.dumps(asdict(one.settings))
    rows: list[int] = []
    with store.transaction() as db:
        db.execute(
            "INSERT INTO conversations (id, owner, title, model, system, settings, created, updated, kind, pinned)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                conversation,
                store.owner,
                one.title,
                one.model,
                one.system,
                settings,
                one.created,
                one.updated,
                one.kind or "text",
                one.pinned,
            ),
        )
        for entry in one.messages:
            cursor = db.execute(
                "INSERT INTO messages (conversation, parent, role, text, status, usage, error, images, created,"
                " deleted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (conversation, None if entry.parent is None else rows[entry.parent], *_columns_of(entry)),
            )
            rows.append(int(cursor.lastrowid or 0))
        head = None if one.head is None else rows[one.head]
        db.execute("UPDATE conversations SET head = ? WHERE id = ?", (head, conversation))
    return conversation


def _entry(row: tuple[Any, ...], place: dict[int, int]) -> Entry:
    _, parent, role, text, status, created, usage, error, images, deleted = row
    return Entry(
        place.get(parent),
        role,
        text,
        "stopped" if status == "growing" else status,
        created,
        Usage(**json.loads(usage)) if usage else None,
        Problem(**json.loads(error)) if error else None,
        tuple(Picture(*one) for one in json.loads(images)),
        deleted,
    )


def _columns_of(entry: Entry) -> tuple[Any, ...]:
    usage, error = entry.usage, entry.error
    return (
        entry.role,
        entry.text,
        entry.status,
        json.dumps(asdict(usage)) if usage else None,
        json.dumps(_stored(error), ensure_ascii=False) if error else None,
        json.dumps([[one.sha256, one.width, one.height] for one in entry.images]),
        entry.created,
        entry.deleted,
    )


def _stored(error: Problem) -> dict[str, Any]:
    return {name: value for name, value in asdict(error).items() if value is not None}

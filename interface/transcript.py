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
            found.append(self.messages[place])
            place = self.messages[place].parent
        return found[::-1]

    @property
    def pictures(self) -> list[Picture]:
        return [one for entry in self.messages for one in entry.images]


def ids(store: Store) -> list[str]:
    """Every conversation that has not been deleted, in the order in which they were begun."""
    kept = "WHERE deleted IS NULL" if "deleted" in _columns(store) else ""
    return [id for (id,) in store.all(f"SELECT id FROM conversations {kept} ORDER BY created, rowid")]  # noqa: S608


def read(store: Store, conversation: str) -> Transcript | None:
    """A conversation as it is now; what is still growing counts as stopped there. None if there is no such one."""
    extra = [name for name in ("kind", "pinned") if name in _columns(store)]
    names = ", ".join(["title", "model", "system", "settings", "created", "updated", "head", *extra])
    row = store.one(f"SELECT {names} FROM conversations WHERE id = ?", conversation)  # noqa: S608
    if row is None:
        return None
    title, model, system, settings, created, updated, head, *more = row
    rows = store.all(
        "SELECT id, parent, role, text, status, created, usage, error, images FROM messages"
        " WHERE conversation = ? ORDER BY id",
        conversation,
    )
    place = {id: number for number, (id, *_) in enumerate(rows)}
    return Transcript(
        title, model, system, GenerationSettings(**json.loads(settings)), created, updated, place.get(head),
        tuple(_entry(row, place) for row in rows),
        **dict(zip(extra, more, strict=True)) | ({"pinned": bool(more[-1])} if "pinned" in extra else {}),
    )  # fmt: skip


def write(store: Store, transcript: Transcript) -> str:
    """Adds it as a conversation of its own; returns the new id. Part of the transaction that it is called in."""
    conversation, one = secrets.token_urlsafe(12), transcript
    columns = _columns(store)
    values: dict[str, Any] = {
        "id": conversation, "title": one.title, "model": one.model, "system": one.system,
        "settings": json.dumps(asdict(one.settings)), "created": one.created, "updated": one.updated,
        "kind": one.kind or "text", "pinned": int(one.pinned),
    }  # fmt: skip
    values = {name: value for name, value in values.items() if name in columns}
    rows: list[int] = []
    with store.transaction() as db:
        marks = ", ".join("?" for _ in values)
        db.execute(f"INSERT INTO conversations ({', '.join(values)}) VALUES ({marks})", [*values.values()])  # noqa: S608
        for entry in one.messages:
            cursor = db.execute(
                "INSERT INTO messages (conversation, parent, role, text, status, usage, error, images, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (conversation, None if entry.parent is None else rows[entry.parent], *_columns_of(entry)),
            )
            rows.append(int(cursor.lastrowid or 0))
        head = None if one.head is None else rows[one.head]
        db.execute("UPDATE conversations SET head = ? WHERE id = ?", (head, conversation))
    return conversation


def _entry(row: tuple[Any, ...], place: dict[int, int]) -> Entry:
    _, parent, role, text, status, created, usage, error, images = row
    return Entry(
        place.get(parent),
        role,
        text,
        "stopped" if status == "growing" else status,
        created,
        Usage(**json.loads(usage)) if usage else None,
        Problem(**json.loads(error)) if error else None,
        tuple(Picture(*one) for one in json.loads(images)),
    )


def _columns_of(entry: Entry) -> tuple[Any, ...]:
    usage, error = entry.usage, entry.error
    return (
        entry.role,
        entry.text,
        entry.status,
        json.dumps(asdict(usage)) if usage else None,
        json.dumps(asdict(error), ensure_ascii=False) if error else None,
        json.dumps([[one.sha256, one.width, one.height] for one in entry.images]),
        entry.created,
    )


def _columns(store: Store) -> set[str]:
    """Of the conversations' table."""
    return {name for _, name, *_ in store.all("PRAGMA table_info(conversations)")}

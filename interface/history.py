"""Conversations, kept in SQLite. The user's turn is committed before anything is generated for it.

Messages form a tree: editing or regenerating adds a sibling and moves the conversation's head, and nothing is lost.
Of an image only hash and size are in the file, so that the data folder can move; images stay when nothing names them
any more. Knows no engine and no page.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from engines.base import GenerationSettings, ImagePart, Message, Role, TextPart, Usage
from interface.store_file import Database, Migrations
from interface.uploads import image_path

Status = Literal["growing", "complete", "stopped", "failed"]
HeldWith = tuple[str, str, GenerationSettings]
"""What a conversation is held with: model, system prompt ("" for the model's own), settings."""

TITLE_LENGTH = 60


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A row of a conversation. `error` is what interface.messages.record made of it."""

    id: int
    role: Role
    text: str
    status: Status
    usage: Usage | None
    error: dict[str, Any] | None
    images: tuple[ImagePart, ...] = ()

    @property
    def message(self) -> Message:
        """Its images first: what is asked follows what it is asked about."""
        return Message(self.role, (*self.images, TextPart(self.text)))


@dataclass(frozen=True, slots=True)
class Conversation:
    """What a conversation was held with."""

    id: str
    title: str
    model: str
    system: str
    settings: GenerationSettings


def m001_initial(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE conversations (id TEXT PRIMARY KEY, title TEXT NOT NULL, model TEXT NOT NULL,"
        " system TEXT NOT NULL, settings TEXT NOT NULL, head INTEGER, created REAL NOT NULL, updated REAL NOT NULL)"
    )
    db.execute(
        "CREATE TABLE messages (id INTEGER PRIMARY KEY,"
        " conversation TEXT NOT NULL REFERENCES conversations(id) ON DELETE CASCADE,"
        " parent INTEGER REFERENCES messages(id), role TEXT NOT NULL, text TEXT NOT NULL, status TEXT NOT NULL,"
        " usage TEXT, error TEXT, created REAL NOT NULL)"
    )
    db.execute("CREATE INDEX messages_of ON messages(conversation)")


def m002_images(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE messages ADD COLUMN images TEXT NOT NULL DEFAULT '[]'")


def m004_presets(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE presets (kind TEXT NOT NULL, name TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL,"
        " PRIMARY KEY (kind, name)) WITHOUT ROWID"
    )


MIGRATIONS: Migrations = (m001_initial, m002_images, m004_presets)
"""Only ever appended to; `PRAGMA user_version` counts how many a file has had."""


class Store(Database):
    """Conversations in a file. Writes are small, and come a few times a second at most.

    `images` is the folder that interface.uploads keeps them in.
    Raises HistoryUnavailable(detail) when the file cannot be read; one that cannot be written is gone on without.
    """

    def __init__(self, path: Path, images: Path) -> None:
        super().__init__(path, MIGRATIONS)
        self.images = images

    def create(self, model: str, system: str, settings: GenerationSettings) -> str:
        """A new, empty conversation; its id cannot be guessed."""
        conversation, now = secrets.token_urlsafe(12), time.time()
        with self.transaction() as db:
            db.execute(
                "INSERT INTO conversations VALUES (?, '', ?, ?, ?, NULL, ?, ?)",
                (conversation, model, system, json.dumps(asdict(settings)), now, now),
            )
        return conversation

    def conversation(self, conversation: str) -> Conversation | None:
        row = self.one("SELECT id, title, model, system, settings FROM conversations WHERE id = ?", conversation)
        return Conversation(*row[:4], GenerationSettings(**json.loads(row[4]))) if row else None

    def configure(self, conversation: str, model: str, system: str, settings: GenerationSettings) -> None:
        """Keeps what the conversation is held with from now on."""
        with self.transaction() as db:
            db.execute(
                "UPDATE conversations SET model = ?, system = ?, settings = ? WHERE id = ?",
                (model, system, json.dumps(asdict(settings)), conversation),
            )

    def path(self, conversation: str) -> list[StoredMessage]:
        """The messages from the first to the head, in order."""
        rows = self.all(
            "WITH RECURSIVE path(id, parent, role, text, status, usage, error, images) AS ("
            " SELECT m.id, m.parent, m.role, m.text, m.status, m.usage, m.error, m.images"
            "  FROM messages m JOIN conversations c ON c.head = m.id WHERE c.id = ?"
            " UNION ALL SELECT m.id, m.parent, m.role, m.text, m.status, m.usage, m.error, m.images"
            "  FROM messages m JOIN path ON path.parent = m.id)"
            " SELECT id, role, text, status, usage, error, images FROM path",
            conversation,
        )
        return [self._stored(row) for row in reversed(rows)]

    def add(
        self, conversation: str, role: Role, text: str, status: Status = "complete", images: Sequence[ImagePart] = ()
    ) -> int:
        """Appends to the head, and becomes it. Committed when this returns."""
        now = time.time()
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO messages (conversation, parent, role, text, status, images, created)"
                " SELECT id, head, ?, ?, ?, ?, ? FROM conversations WHERE id = ?",
                (role, text, status, _json([[one.sha256, one.width, one.height] for one in images]), now, conversation),
            )
            db.execute(
                "UPDATE conversations SET head = ?, updated = ?, title = CASE title WHEN '' THEN ? ELSE title END"
                " WHERE id = ?",
                (cursor.lastrowid, now, " ".join(text.split())[:TITLE_LENGTH], conversation),
            )
        return int(cursor.lastrowid or 0)

    def write(
        self, message: int, text: str, status: Status, usage: Usage | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """Replaces what a message says: an answer as it grows, and how it ended."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET text = ?, status = ?, usage = ?, error = ? WHERE id = ?",
                (text, status, _json(asdict(usage) if usage else None), _json(error), message),
            )

    def rewind(self, conversation: str, message: int) -> None:
        """Moves the head to before `message`. What comes after is no longer shown, and still there."""
        with self.transaction() as db:
            db.execute(
                "UPDATE conversations SET head = (SELECT parent FROM messages WHERE id = ?) WHERE id = ?",
                (message, conversation),
            )

    def settle(self) -> int:
        """Closes the answers that an earlier process left growing. Returns how many there were."""
        with self.transaction() as db:
            return db.execute("UPDATE messages SET status = 'stopped' WHERE status = 'growing'").rowcount

    def _stored(self, row: tuple[Any, ...]) -> StoredMessage:
        id, role, text, status, usage, error, images = row
        return StoredMessage(
            id,
            role,
            text,
            status,
            Usage(**json.loads(usage)) if usage else None,
            json.loads(error) if error else None,
            tuple(ImagePart(sha256, image_path(self.images, sha256), *size) for sha256, *size in json.loads(images)),
        )


def _json(value: object) -> str | None:
    # A fact that JSON does not know must not cost the answer that it came with.
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)

"""Conversations, kept in SQLite. The user's turn is committed before anything is generated for it.

Messages form a tree: editing or regenerating adds a sibling and moves the conversation's head, and nothing is lost.
A conversation belongs to the login that began it; whoever works with conversations is given one login's Store.
Of an image only hash and size are in the file, so that the data folder can move; images go when
a deleted conversation was the last to name them (interface.index). Knows no engine and no page.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from configs.schema import ModelKind
from engines.base import GenerationSettings, ImagePart, Message, Role, TextPart, Usage
from engines.errors import NotSaved
from interface.store_file import Database, Migrations, Transaction
from interface.titles import tidied
from interface.uploads import image_path

Status = Literal["growing", "complete", "stopped", "failed"]
HeldWith = tuple[str, str, GenerationSettings]
"""What a conversation is held with: model, system prompt ("" for the model's own), settings."""


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


def m003_index(db: sqlite3.Connection) -> None:
    """For interface.index: which tab, pinned, deleted when; and a full-text index that triggers keep in step.

    Trigrams find Chinese as they find anything else. A growing answer is rewritten every second, and not indexed.
    """
    db.execute("ALTER TABLE conversations ADD COLUMN kind TEXT NOT NULL DEFAULT 'text'")
    db.execute("ALTER TABLE conversations ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0")
    db.execute("ALTER TABLE conversations ADD COLUMN deleted REAL")
    db.execute(
        "UPDATE conversations SET kind = 'vision' WHERE id IN (SELECT conversation FROM messages WHERE images <> '[]')"
    )
    db.execute("CREATE INDEX messages_by_parent ON messages(parent)")  # else each deleted message reads all others
    db.execute(
        "CREATE VIRTUAL TABLE message_index"
        " USING fts5(text, content = 'messages', content_rowid = 'id', tokenize = 'trigram')"
    )
    db.execute("INSERT INTO message_index(rowid, text) SELECT id, text FROM messages WHERE status <> 'growing'")
    add = "INSERT INTO message_index(rowid, text) VALUES (new.id, new.text)"
    drop = "INSERT INTO message_index(message_index, rowid, text) VALUES ('delete', old.id, old.text)"
    for name, event, row, change in (
        ("added", "AFTER INSERT", "new", add),
        ("dropped", "AFTER DELETE", "old", drop),
        ("changing", "BEFORE UPDATE OF text, status", "old", drop),
        ("changed", "AFTER UPDATE OF text, status", "new", add),
    ):
        db.execute(
            f"CREATE TRIGGER message_{name} {event} ON messages WHEN {row}.status <> 'growing' BEGIN {change}; END"
        )


def m004_presets(db: sqlite3.Connection) -> None:
    db.execute(
        "CREATE TABLE presets (kind TEXT NOT NULL, name TEXT NOT NULL, system TEXT NOT NULL, settings TEXT NOT NULL,"
        " PRIMARY KEY (kind, name)) WITHOUT ROWID"
    )


def m005_deleted(db: sqlite3.Connection) -> None:
    """For interface.branches: messages out of sight, since when."""
    db.execute("ALTER TABLE messages ADD COLUMN deleted REAL")


def m006_owners(db: sqlite3.Connection) -> None:
    """Whose conversations and presets these are. What was made without a login is nobody's: ""."""
    db.execute("ALTER TABLE conversations ADD COLUMN owner TEXT NOT NULL DEFAULT ''")
    db.execute("CREATE INDEX conversations_of ON conversations(owner)")
    db.execute("CREATE INDEX messages_with_images ON messages(images, conversation) WHERE images <> '[]'")
    db.execute("ALTER TABLE presets RENAME TO presets_before")
    db.execute(
        "CREATE TABLE presets (owner TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, system TEXT NOT NULL,"
        " settings TEXT NOT NULL, PRIMARY KEY (owner, kind, name)) WITHOUT ROWID"
    )
    db.execute("INSERT INTO presets SELECT '', kind, name, system, settings FROM presets_before")
    db.execute("DROP TABLE presets_before")


MIGRATIONS: Migrations = (m001_initial, m002_images, m003_index, m004_presets, m005_deleted, m006_owners)
"""Only ever appended to; `PRAGMA user_version` counts how many a file has had."""


class History(Database):
    """Everybody's conversations, in a file. `images` is the folder that interface.uploads keeps theirs in.

    Raises HistoryUnavailable(detail) when the file cannot be read; one that cannot be written is gone on without.
    """

    def __init__(self, path: Path, images: Path) -> None:
        super().__init__(path, MIGRATIONS)
        self.images = images

    def of(self, owner: str) -> Store:
        """One login's conversations; those that were made without a login for ""."""
        return Store(self, owner)

    def settle(self) -> int:
        """Closes the answers that an earlier process left growing. Returns how many there were."""
        with self.transaction() as db:
            return db.execute("UPDATE messages SET status = 'stopped' WHERE status = 'growing'").rowcount


class Store:
    """One owner's conversations: to every call, another's are as good as none.

    Each statement on `file`, here and wherever a Store is handed to, names `owner`. Writes are small, and come a few
    times a second at most. Raises what History raises.
    """

    def __init__(self, file: History, owner: str) -> None:
        self.file, self.owner, self.images = file, owner, file.images
        self.one, self.all, self.catch_up = file.one, file.all, file.catch_up

    def transaction(self) -> AbstractContextManager[Transaction]:
        """What is written within is committed as one, or not at all; one within another is part of that."""
        return self.file.transaction()

    @property
    def unsaved(self) -> NotSaved | None:
        """Why what is said now is in memory only."""
        return self.file.unsaved

    def create(self, model: str, system: str, settings: GenerationSettings, kind: ModelKind = "text") -> str:
        """A new, empty conversation of the tab for `kind`; its id cannot be guessed."""
        conversation, now = secrets.token_urlsafe(12), time.time()
        with self.transaction() as db:
            db.execute(
                "INSERT INTO conversations (id, owner, title, model, system, settings, created, updated, kind)"
                " VALUES (?, ?, '', ?, ?, ?, ?, ?, ?)",
                (conversation, self.owner, model, system, json.dumps(asdict(settings)), now, now, kind),
            )
        return conversation

    def conversation(self, conversation: str) -> Conversation | None:
        """None for one that was deleted, too; `path` has nothing of it."""
        row = self.one(
            "SELECT id, title, model, system, settings FROM conversations"
            " WHERE id = ? AND owner = ? AND deleted IS NULL",
            conversation,
            self.owner,
        )
        return Conversation(*row[:4], GenerationSettings(**json.loads(row[4]))) if row else None

    def configure(self, conversation: str, model: str, system: str, settings: GenerationSettings) -> None:
        """Keeps what the conversation is held with from now on."""
        with self.transaction() as db:
            db.execute(
                "UPDATE conversations SET model = ?, system = ?, settings = ? WHERE id = ? AND owner = ?",
                (model, system, json.dumps(asdict(settings)), conversation, self.owner),
            )

    def path(self, conversation: str) -> list[StoredMessage]:
        """The messages from the first to the head, in order, but for those that branches.py took out of sight."""
        rows = self.all(
            "WITH RECURSIVE path(id, parent, role, text, status, usage, error, images, deleted) AS ("
            " SELECT m.id, m.parent, m.role, m.text, m.status, m.usage, m.error, m.images, m.deleted"
            "  FROM messages m JOIN conversations c ON c.head = m.id"
            "  WHERE c.id = ? AND c.owner = ? AND c.deleted IS NULL"
            " UNION ALL SELECT m.id, m.parent, m.role, m.text, m.status, m.usage, m.error, m.images, m.deleted"
            "  FROM messages m JOIN path ON path.parent = m.id)"
            " SELECT id, role, text, status, usage, error, images FROM path WHERE deleted IS NULL",
            conversation,
            self.owner,
        )
        return [self._stored(row) for row in reversed(rows)]

    def add(
        self, conversation: str, role: Role, text: str, status: Status = "complete", images: Sequence[ImagePart] = ()
    ) -> int:
        """Appends to the head, and becomes it. Committed when this returns."""
        now, pictures = time.time(), _json([[one.sha256, one.width, one.height] for one in images])
        with self.transaction() as db:
            cursor = db.execute(
                "INSERT INTO messages (conversation, parent, role, text, status, images, created)"
                " SELECT id, head, ?, ?, ?, ?, ? FROM conversations WHERE id = ? AND owner = ?",
                (role, text, status, pictures, now, conversation, self.owner),
            )
            db.execute(
                "UPDATE conversations SET head = ?, updated = ?, title = CASE title WHEN '' THEN ? ELSE title END"
                " WHERE id = ? AND owner = ?",
                (cursor.lastrowid, now, tidied(text) if role == "user" else "", conversation, self.owner),
            )
        return int(cursor.lastrowid or 0)

    def write(
        self, message: int, text: str, status: Status, usage: Usage | None = None, error: dict[str, Any] | None = None
    ) -> None:
        """Replaces what a message says: an answer as it grows, and how it ended."""
        with self.transaction() as db:
            db.execute(
                "UPDATE messages SET text = ?, status = ?, usage = ?, error = ? WHERE id = ?"
                " AND conversation IN (SELECT id FROM conversations WHERE owner = ?)",
                (text, status, _json(asdict(usage) if usage else None), _json(error), message, self.owner),
            )

    def rewind(self, conversation: str, message: int) -> None:
        """Moves the head to before `message`. What comes after is no longer shown, and still there."""
        with self.transaction() as db:
            db.execute(
                "UPDATE conversations SET head = (SELECT parent FROM messages WHERE id = ?) WHERE id = ? AND owner = ?",
                (message, conversation, self.owner),
            )

    def has_image(self, sha256: str) -> bool:
        """Whether a message of the owner's names it; also one out of sight, until the conversation ends."""
        # By this index, or SQLite would go through all that the owner has said: 2 ms for 20,000 images instead of 50.
        found = self.one(
            "SELECT 1 FROM messages m INDEXED BY messages_with_images CROSS JOIN conversations c"
            " ON c.id = m.conversation WHERE m.images <> '[]' AND instr(m.images, ?) AND c.owner = ?",
            sha256,
            self.owner,
        )
        return found is not None

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

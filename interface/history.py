"""Conversations, kept in SQLite. The user's turn is committed before anything is generated for it.

Messages form a tree: editing or regenerating adds a sibling and moves the conversation's head, and nothing is lost.
Of an image only hash and size are in the file, so that the data folder can move; images stay when nothing names them
any more. Knows no engine and no page.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from engines.base import GenerationSettings, ImagePart, Message, Role, TextPart, Usage
from engines.errors import HistoryUnavailable
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


def m005_deleted(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE messages ADD COLUMN deleted REAL")
    db.execute("CREATE INDEX messages_below ON messages(parent)")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (m001_initial, m002_images, m005_deleted)
"""Only ever appended to; `PRAGMA user_version` counts how many a file has had."""


class Store:
    """One connection under one lock: writes are small and come a few times a second at most.

    `images` is the folder that interface.uploads keeps them in.
    Raises HistoryUnavailable(detail) when the file cannot be read or written; the caller says so and goes on.
    """

    def __init__(self, path: Path, images: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._images = images
        self._lock = threading.RLock()
        with _named_failure():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=FULL")
            self._db.execute("PRAGMA foreign_keys=ON")
            self._migrate()

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
        row = self._one("SELECT id, title, model, system, settings FROM conversations WHERE id = ?", conversation)
        return Conversation(*row[:4], GenerationSettings(**json.loads(row[4]))) if row else None

    def configure(self, conversation: str, model: str, system: str, settings: GenerationSettings) -> None:
        """Keeps what the conversation is held with from now on."""
        with self.transaction() as db:
            db.execute(
                "UPDATE conversations SET model = ?, system = ?, settings = ? WHERE id = ?",
                (model, system, json.dumps(asdict(settings)), conversation),
            )

    def path(self, conversation: str) -> list[StoredMessage]:
        """The messages from the first to the head, in order, but for those that branches.py took out of sight."""
        with self._lock, _named_failure():
            rows = self._db.execute(
                "WITH RECURSIVE path(id, parent, role, text, status, usage, error, images, deleted) AS ("
                " SELECT m.id, m.parent, m.role, m.text, m.status, m.usage, m.error, m.images, m.deleted"
                "  FROM messages m JOIN conversations c ON c.head = m.id WHERE c.id = ?"
                " UNION ALL SELECT m.id, m.parent, m.role, m.text, m.status, m.usage, m.error, m.images, m.deleted"
                "  FROM messages m JOIN path ON path.parent = m.id)"
                " SELECT id, role, text, status, usage, error, images FROM path WHERE deleted IS NULL",
                (conversation,),
            ).fetchall()
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

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """What is written within is committed as one, or not at all; one within another is part of that."""
        with self._lock, _named_failure():
            if self._db.in_transaction:
                yield self._db
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk has rolled back by itself
                    self._db.execute("ROLLBACK")
                raise

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def _migrate(self) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        for number, migration in enumerate(MIGRATIONS[version:], version + 1):
            with self.transaction() as db:
                migration(db)
                db.execute(f"PRAGMA user_version = {number}")

    def _stored(self, row: tuple[Any, ...]) -> StoredMessage:
        id, role, text, status, usage, error, images = row
        return StoredMessage(
            id,
            role,
            text,
            status,
            Usage(**json.loads(usage)) if usage else None,
            json.loads(error) if error else None,
            tuple(ImagePart(sha256, image_path(self._images, sha256), *size) for sha256, *size in json.loads(images)),
        )

    def rows(self, query: str, *values: object) -> list[Any]:
        with self._lock, _named_failure():
            return self._db.execute(query, values).fetchall()

    def _one(self, query: str, *values: object) -> Any:
        with self._lock, _named_failure():
            return self._db.execute(query, values).fetchone()


@contextmanager
def _named_failure() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise HistoryUnavailable(detail=str(error)) from error


def _json(value: object) -> str | None:
    # A fact that JSON does not know must not cost the answer that it came with.
    return None if value is None else json.dumps(value, ensure_ascii=False, default=str)

"""What conversations there are: listed by date, searched, renamed, pinned, and deleted with a way back.

Works on the store's file. Knows no engine and no page.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from configs.schema import ModelKind
from interface.history import History, Store
from interface.titles import LENGTH, tidied
from interface.uploads import image_path, thumbnail_path

log = logging.getLogger(__name__)

TRIGRAM = 3
"""Characters from which on the full-text index finds a word; shorter ones, as most Chinese words are, it reads for."""

BEFORE, AROUND = 24, 120
"""Characters of a found text that are shown: before what was looked for, and in all."""

_COLUMNS = "c.id, c.title, c.kind, c.updated, c.pinned"
_ALL = f"SELECT {_COLUMNS}, NULL FROM conversations c"  # noqa: S608  no value is written into a query
_LISTED = "c.owner = ? AND c.deleted IS NULL AND c.head IS NOT NULL"
_ORDER = "ORDER BY c.pinned DESC, c.updated DESC LIMIT ?"


@dataclass(frozen=True, slots=True)
class Entry:
    """A conversation in the list. Its title is "" while all it was asked is images; `found` is a message's text."""

    id: str
    title: str
    kind: ModelKind
    updated: float
    pinned: bool
    found: str | None = None


class Index:
    """The owner's conversations that have something to show. Every call raises HistoryUnavailable as the store does."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def recent(self, limit: int) -> list[Entry]:
        """Pinned ones first, then the latest."""
        return self._entries(f"{_ALL} WHERE {_LISTED} {_ORDER}", self._store.owner, limit)

    def search(self, query: str, limit: int) -> list[Entry]:
        """Those with every word of `query` in their title, or in one message; of whatever version of it."""
        words = words_of(query)
        if not words:
            return self.recent(limit)
        in_title = " AND ".join(["c.title LIKE ? ESCAPE '\\'"] * len(words))
        in_text, text_values = _text_condition(words)
        return self._entries(
            f"WITH hits(conversation, message) AS (SELECT m.conversation, max(m.id) FROM messages m"  # noqa: S608
            f" WHERE {in_text} AND m.deleted IS NULL GROUP BY m.conversation)"
            f" SELECT {_COLUMNS}, m.text FROM conversations c LEFT JOIN hits ON hits.conversation = c.id"
            f" LEFT JOIN messages m ON m.id = hits.message"
            f" WHERE {_LISTED} AND (hits.message IS NOT NULL OR {in_title}) {_ORDER}",
            *text_values, self._store.owner, *(_like(word) for word in words), limit,
        )  # fmt: skip

    def rename(self, conversation: str, title: str) -> None:
        """A title of one's own; nothing but spaces changes nothing."""
        title = tidied(title, 2 * LENGTH)
        if title:
            self._write("title = ?", conversation, title)

    def pin(self, conversation: str, pinned: bool) -> None:
        self._write("pinned = ?", conversation, pinned)

    def delete(self, conversation: str) -> None:
        """Out of the list, of search, and of its own address; it can be restored until the next `purge`."""
        self._write("deleted = ?", conversation, time.time())

    def restore(self, conversation: str) -> None:
        self._write("deleted = NULL", conversation)

    def lately_deleted(self, since: float) -> Entry | None:
        """The one that was deleted last, if that was after this time."""
        last = "WHERE c.owner = ? AND c.deleted > ? ORDER BY c.deleted DESC LIMIT 1"
        rows = self._entries(f"{_ALL} {last}", self._store.owner, since)
        return rows[0] if rows else None

    def _entries(self, query: str, *values: object) -> list[Entry]:
        rows = self._store.all(query, *values)
        return [
            Entry(id, title, kind, updated, bool(pinned), found) for id, title, kind, updated, pinned, found in rows
        ]

    def _write(self, change: str, conversation: str, *values: object) -> None:
        with self._store.transaction() as db:
            statement = f"UPDATE conversations SET {change} WHERE id = ? AND owner = ?"  # noqa: S608
            db.execute(statement, (*values, conversation, self._store.owner))


def purge(history: History) -> None:
    """Ends what was deleted, and the images that nothing else names, whosever they are.

    For the start, when no page is at work: an image that is being asked about is named only by its question.
    """
    with history.transaction() as db:
        deleted = "SELECT id FROM conversations WHERE deleted IS NOT NULL"
        gone = _images(db.execute(f"SELECT images FROM messages WHERE conversation IN ({deleted})"))  # noqa: S608
        db.execute("DELETE FROM conversations WHERE deleted IS NOT NULL")
        kept = _images(db.execute("SELECT images FROM messages WHERE images <> '[]'")) if gone else set()
    for sha256 in gone - kept:
        try:
            image_path(history.images, sha256).unlink(missing_ok=True)
            thumbnail_path(history.images, sha256).unlink(missing_ok=True)
        except OSError as error:
            log.warning("an image of a deleted conversation stays: %s", error)


def words_of(query: str) -> list[str]:
    """What a search looks for. Without what SQLite cannot take: NUL, and halves of characters."""
    return query.replace("\0", " ").encode("utf-8", "ignore").decode().split()


def excerpt(text: str, words: Sequence[str]) -> str:
    """The part of a text, on one line, where the first of the words is."""
    line = " ".join(text.split())
    first = next((found.start() for found in _hits(line, words)), 0)
    start = max(0, first - BEFORE)
    part = line[start : start + AROUND]
    return ("…" if start else "") + part + ("…" if start + AROUND < len(line) else "")


def marked(text: str, words: Sequence[str]) -> Iterator[tuple[bool, str]]:
    """The text in pieces, and of each whether it is one of the words."""
    done = 0
    for found in _hits(text, words):
        yield False, text[done : found.start()]
        yield True, found[0]
        done = found.end()
    yield False, text[done:]


def _hits(text: str, words: Sequence[str]) -> Iterable[re.Match[str]]:
    longest_first = sorted(words, key=len, reverse=True)
    return re.finditer("|".join(map(re.escape, longest_first)), text, re.IGNORECASE) if words else ()


def _text_condition(words: Sequence[str]) -> tuple[str, list[str]]:
    """What a message's text must fulfil: long words by the index, short ones by reading."""
    conditions, values = [], []
    long = [word for word in words if len(word) >= TRIGRAM]
    if long:
        conditions.append("m.id IN (SELECT rowid FROM message_index WHERE message_index MATCH ?)")
        # In double quotes nothing is syntax but the quote itself.
        values.append(" AND ".join('"' + word.replace('"', '""') + '"' for word in long))
    for word in words:
        if len(word) < TRIGRAM:
            conditions.append("m.text LIKE ? ESCAPE '\\'")
            values.append(_like(word))
    return " AND ".join(conditions), values


def _like(word: str) -> str:
    return "%" + re.sub(r"([\\%_])", r"\\\1", word) + "%"


def _images(rows: Iterable[tuple[str]]) -> set[str]:
    return {sha256 for (images,) in rows for sha256, *_ in json.loads(images)}

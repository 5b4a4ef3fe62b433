"""The file that conversations are in: opened, set aside if it is damaged, and done without while it cannot be written.

SQLite with a write-ahead log, synced at every commit. While the disk is full, or the file cannot be written for another
reason, the same statements are run on a copy in memory, and once more on the file as soon as that is possible: nobody
who asks or answers has to know. What the process then loses when it ends is what `unsaved` warns of.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from engines.errors import HistoryUnavailable, NotSaved, StoreDamaged, StoreTooNew

log = logging.getLogger(__name__)

Migrations = Sequence[Callable[[sqlite3.Connection], None]]
TABLES = {"conversations", "messages"}
BESIDE = ("-wal", "-shm", "-journal", "")
"""What SQLite calls its files, itself last: whoever is killed while they are moved finds a damaged one again."""

UNWRITABLE = {
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR: "io",
    sqlite3.SQLITE_READONLY: "readonly",
    sqlite3.SQLITE_PERM: "readonly",
    sqlite3.SQLITE_CANTOPEN: "readonly",
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
}
"""Failures that pass: why a file cannot be written, though nothing is wrong with what is in it."""


class Database:
    """One connection under one lock. Raises HistoryUnavailable(detail), and StoreTooNew when it is opened.

    `set_aside` says what became of a damaged file, `unsaved` why what is said now is in memory only.
    """

    def __init__(self, path: Path, migrations: Migrations) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self.set_aside: StoreDamaged | None = None
        self.unsaved: NotSaved | None = None
        self._statements: list[tuple[str, Sequence[Any]]] | None = None
        self._backlog: list[tuple[str, Sequence[Any]]] = []
        self._seen = 0
        with named_failure():
            if is_damaged(path, len(migrations)):
                self.set_aside = _moved_aside(path)
            self._db = self._file = _connected(path)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._migrate(migrations)
            except BaseException:
                self._db.close()
                raise

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """What is written within is committed as one, or not at all; one within another is part of that."""
        with self._lock, named_failure():
            if self._statements is not None:
                yield Transaction(self)
                return
            self.catch_up()
            self._statements = []
            try:
                try:
                    self._db.execute("BEGIN IMMEDIATE")
                except sqlite3.Error as error:
                    self._leave_file(error)
                yield Transaction(self)
                self._attempt("COMMIT")
                if self._db is not self._file:
                    self._backlog += self._statements
            except BaseException:
                _roll_back(self._db)
                raise
            finally:
                self._statements = None

    def catch_up(self) -> None:
        """Brings to the file what was kept in memory, if it can be written again; if not, `unsaved` says why."""
        with self._lock:
            if self._db is self._file or self._statements is not None:
                return
            try:
                self._file.execute("BEGIN IMMEDIATE")
                if _data_version(self._file) != self._seen:
                    # The rows that these statements name may be others by now.
                    raise sqlite3.IntegrityError("changed by another program")
                for statement, values in self._backlog:
                    self._file.execute(statement, values)
                self._file.execute("COMMIT")
            except sqlite3.Error as error:
                _roll_back(self._file)
                self.unsaved = NotSaved(kind=UNWRITABLE.get(_primary(error), "changed"))
                return
            self._db.close()
            self._db, self._backlog, self.unsaved = self._file, [], None
            log.info("conversations are being saved again")

    def close(self) -> None:
        with self._lock:
            self.catch_up()
            self._db.close()
            self._file.close()

    def one(self, query: str, *values: object) -> Any:
        """The first row, or None."""
        with self._lock, named_failure():
            return self._db.execute(query, values).fetchone()

    def all(self, query: str, *values: object) -> list[Any]:
        with self._lock, named_failure():
            return self._db.execute(query, values).fetchall()

    # -- within -----------------------------------------------------------------------------------------------------

    def _attempt(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        try:
            return self._db.execute(statement, values)
        except sqlite3.Error as error:
            self._leave_file(error)
            return self._db.execute(statement, values)

    def _leave_file(self, error: sqlite3.Error) -> None:
        """Goes on in memory: from what was committed last, and what this transaction has done since.

        Raises `error` where that would not help.
        """
        if self._db is not self._file or _primary(error) not in UNWRITABLE:
            raise error
        log.warning("conversations are kept in memory only: %s", error)
        _roll_back(self._file)
        memory = _connected(":memory:")
        self._file.backup(memory)
        memory.execute("BEGIN")
        for statement, values in self._statements or ():
            memory.execute(statement, values)
        self._db, self._seen = memory, _data_version(self._file)
        self.unsaved = NotSaved(kind=UNWRITABLE[_primary(error)])

    def _migrate(self, migrations: Migrations) -> None:
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        for number, migration in enumerate(migrations[version:], version + 1):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                migration(self._db)
                self._db.execute(f"PRAGMA user_version = {number}")
                self._db.execute("COMMIT")
            except BaseException:
                _roll_back(self._db)
                raise


class Transaction:
    """What writes go through: they are remembered until the commit, in case it has to happen in memory."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        cursor = self._database._attempt(statement, values)
        assert self._database._statements is not None  # noqa: S101  it lives as long as this does
        self._database._statements.append((statement, values))
        return cursor


@contextmanager
def named_failure() -> Iterator[None]:
    """SQLite's errors as HistoryUnavailable(detail)."""
    try:
        yield
    except sqlite3.Error as error:
        raise HistoryUnavailable(detail=str(error)) from error


def _connected(path: Path | str) -> sqlite3.Connection:
    db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5)
    db.execute("PRAGMA foreign_keys=ON")
    return db


def is_damaged(path: Path, known: int, immutable: bool = False) -> bool:
    """Whether the file is none of ours, or broken. Raises StoreTooNew(file, version, known) for one that is only new.

    It is looked at without writing to it; what keeps it from being read now is found when it is opened. SQLite makes
    its log and index beside it, unless the file is said to be `immutable`: then nobody may write it meanwhile.
    """
    if not path.exists():
        return False
    if path.stat().st_size == 0:  # SQLite would throw away the log of such a file
        wal = path.with_name(f"{path.name}-wal")
        return wal.exists() and wal.stat().st_size > 0
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' * immutable}", uri=True)
        ) as db:
            if db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
                return True
            (version,) = db.execute("PRAGMA user_version").fetchone()
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error as error:
        return _primary(error) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
    if version > known:
        raise StoreTooNew(file=str(path), version=version, known=known)
    return not (tables >= TABLES if version else not tables)


def _moved_aside(path: Path) -> StoreDamaged:
    stamp = f"{datetime.now():%Y-%m-%d-%H%M%S}"
    aside, number = path.with_name(f"{path.stem}.damaged-{stamp}{path.suffix}"), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}.damaged-{stamp}-{number}{path.suffix}")
    for end in BESIDE:
        part = path.with_name(path.name + end)
        if part.exists():
            part.rename(aside.with_name(aside.name + end))
    log.warning("%s is damaged and was set aside as %s", path, aside.name)
    return StoreDamaged(file=aside.name, folder=str(path.parent))


def _roll_back(db: sqlite3.Connection) -> None:
    if db.in_transaction:  # a full disk has rolled back by itself
        db.execute("ROLLBACK")


def _data_version(db: sqlite3.Connection) -> int:
    """A number that changes when another connection has written to the file."""
    return int(db.execute("PRAGMA data_version").fetchone()[0])


def _primary(error: sqlite3.Error) -> int:
    """SQLite's result code, without what it adds to say more; 0 for errors that are not SQLite's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF

"""The conversations' file when something is wrong with it: nothing is overwritten, and what is said goes on."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from engines.base import GenerationSettings
from engines.errors import DataInUse, HistoryUnavailable, StoreTooNew
from interface.data_lock import DataLock
from interface.history import MIGRATIONS, History, Store

SETTINGS = GenerationSettings()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a conversation of 200 messages in it, closed in order."""
    store = History(tmp_path / "c.sqlite3", tmp_path / "images").of("")
    id = store.create("m", "", SETTINGS)
    for n in range(200):
        store.add(id, "user", f"{n} " + "text " * 100)
    store.file.close()
    return tmp_path / "c.sqlite3"


def rewritten(path: Path, change: Callable[[bytearray], bytes]) -> bytes:
    data = change(bytearray(path.read_bytes()))
    path.write_bytes(data)
    return data


def garbage_header(data: bytearray) -> bytes:
    data[:100] = b"\xa5" * 100
    return bytes(data)


def torn_pages(data: bytearray) -> bytes:
    for page in range(8, 12):
        data[page * 4096 : page * 4096 + 2048] = b"\xff" * 2048
    return bytes(data)


@pytest.mark.parametrize(
    "change",
    [garbage_header, torn_pages, lambda data: bytes(data[: len(data) // 2]), lambda data: b"not a database\n" * 300],
    ids=["header", "pages", "truncated", "another file"],
)
def test_a_damaged_file_is_set_aside_as_it_is(path: Path, change: Callable[[bytearray], bytes]) -> None:
    damaged = rewritten(path, change)
    store = History(path, path.parent / "images").of("")
    notice = store.file.set_aside
    assert notice is not None and notice.facts["folder"] == str(path.parent)
    assert (path.parent / notice.facts["file"]).read_bytes() == damaged
    id = store.create("m", "", SETTINGS)
    store.add(id, "user", "a new beginning")
    store.file.close()
    again = History(path, path.parent / "images").of("")
    assert again.file.set_aside is None and [one.text for one in again.path(id)] == ["a new beginning"]
    again.file.close()


def test_two_damaged_files_of_one_second_are_both_kept(path: Path) -> None:
    for _ in range(2):
        path.write_bytes(b"nothing")
        History(path, path.parent).close()
    assert len(list(path.parent.glob("c.damaged-*.sqlite3"))) == 2


def test_its_log_is_set_aside_with_it(path: Path) -> None:
    store = History(path, path.parent).of("")
    store.create("m", "", SETTINGS)
    for end in ("", "-wal", "-shm"):
        shutil.copy(f"{path}{end}", path.with_name(f"d.sqlite3{end}"))
    store.file.close()
    killed = path.with_name("d.sqlite3")
    rewritten(killed, garbage_header)
    wal = killed.with_name("d.sqlite3-wal").read_bytes()
    store = History(killed, path.parent).of("")
    assert store.file.set_aside is not None and wal
    assert killed.with_name(store.file.set_aside.facts["file"] + "-wal").read_bytes() == wal
    store.file.close()


def test_a_database_of_something_else_is_set_aside(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "c.sqlite3")) as db:
        db.execute("CREATE TABLE bookmarks (x)")
    store = History(tmp_path / "c.sqlite3", tmp_path).of("")
    assert store.file.set_aside is not None and store.all("SELECT * FROM conversations") == []
    store.file.close()


def test_a_file_of_a_newer_version_is_left_as_it_is(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    before = path.read_bytes()
    with pytest.raises(StoreTooNew) as refused:
        History(path, path.parent).of("")
    assert refused.value.facts["version"] == refused.value.facts["known"] + 1
    assert path.read_bytes() == before and not list(path.parent.glob("c.damaged*"))


def test_a_file_that_a_killed_app_left_is_not_damaged(path: Path) -> None:
    code = f"""
import os, pathlib
from interface.history import GenerationSettings, History
store = History(pathlib.Path({str(path)!r}), pathlib.Path({str(path.parent)!r})).of("")
store.add(store.create("m", "", GenerationSettings()), "user", "the last words")
os._exit(9)"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert path.with_name(path.name + "-wal").stat().st_size > 0
    store = History(path, path.parent).of("")
    assert store.file.set_aside is None
    assert store.one("SELECT count(*) FROM messages WHERE text = 'the last words'") == (1,)
    store.file.close()


# -- a file that cannot be written --------------------------------------------------------------------------------


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = History(path, path.parent).of("")
    yield store
    store.file.close()


def full(store: Store, pages: int = 0) -> None:
    """The disk has room for what is there, or for so many pages."""
    (now,) = store.file._file.execute("PRAGMA page_count").fetchone()
    store.file._file.execute(f"PRAGMA max_page_count = {pages or now}")


def test_a_full_disk_is_gone_on_without(store: Store, path: Path) -> None:
    id = store.create("m", "", SETTINGS)
    row = store.add(id, "user", "kept")
    full(store)
    store.write(row, "x" * 100_000, "complete")
    assert store.unsaved is not None and store.unsaved.facts == {"kind": "full"}
    answer = store.add(id, "assistant", "y" * 100_000)
    assert [len(one.text) for one in store.path(id)] == [100_000, 100_000]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT text FROM messages WHERE id >= ?", (row,)).fetchall() == [("kept",)]
    full(store, 100_000)
    store.catch_up()
    assert store.unsaved is None
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT id, length(text) FROM messages WHERE id >= ?", (row,)).fetchall() == [
            (row, 100_000), (answer, 100_000),
        ]  # fmt: skip
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_disk_that_fills_in_the_middle_of_a_transaction_costs_none_of_it(store: Store) -> None:
    with store.transaction():
        id = store.create("m", "", SETTINGS)
        store.add(id, "user", "before")
        full(store)
        rows = [store.add(id, "user", "x" * 50_000) for _ in range(3)]
    assert store.unsaved is not None and len(store.path(id)) == 4
    full(store, 100_000)
    store.catch_up()
    assert store.unsaved is None and [one.id for one in store.path(id)][1:] == rows


def test_what_is_given_up_in_memory_is_not_written_later(store: Store) -> None:
    full(store)
    id = store.create("m", "", SETTINGS)
    with pytest.raises(ZeroDivisionError), store.transaction():
        store.add(id, "user", "x" * 50_000)
        raise ZeroDivisionError
    assert store.path(id) == []
    store.add(id, "user", "y" * 50_000)
    full(store, 100_000)
    store.catch_up()
    assert [one.text[0] for one in store.path(id)] == ["y"] and store.unsaved is None


def test_a_file_that_another_program_changed_meanwhile_is_not_written_over(store: Store, path: Path) -> None:
    id = store.create("m", "", SETTINGS)
    full(store)
    store.add(id, "user", "x" * 50_000)
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "INSERT INTO messages (conversation, role, text, status, created) VALUES (?, 'user', '', '', 0)", [id]
        )
        db.commit()
    full(store, 100_000)
    store.catch_up()
    assert store.unsaved is not None and store.unsaved.facts == {"kind": "changed"} and len(store.path(id)) == 1


def test_a_mistake_of_ours_is_no_full_disk(store: Store) -> None:
    with pytest.raises(HistoryUnavailable), store.transaction() as db:
        db.execute("INSERT INTO nowhere VALUES (1)")
    assert store.unsaved is None and store.create("m", "", SETTINGS)


def test_a_limit_of_the_system_on_a_files_size(path: Path) -> None:
    """The real thing: writes that the system itself refuses, and then no longer."""
    pytest.importorskip("resource")
    code = f"""
import pathlib, resource
from interface.history import GenerationSettings, History
path = pathlib.Path({str(path)!r})
store = History(path, path.parent).of("")
id = store.create("m", "", GenerationSettings())
store.add(id, "user", "saved")
resource.setrlimit(resource.RLIMIT_FSIZE, (path.with_name(path.name + "-wal").stat().st_size, resource.RLIM_INFINITY))
for n in range(20):
    store.add(id, "user", f"{{n}}" * 5000)
assert store.unsaved and len(store.path(id)) == 21, store.unsaved
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
store.add(id, "user", "there is room")
assert store.unsaved is None and len(store.path(id)) == 22
store.file.close()
store = History(path, path.parent).of("")
assert [len(one.text) for one in store.path(id)] == [5] + [5000] * 10 + [10000] * 10 + [13]
assert store.one("PRAGMA integrity_check") == ("ok",)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# -- two apps on one folder ---------------------------------------------------------------------------------------


def test_a_second_app_is_told_where_the_first_is(tmp_path: Path) -> None:
    first = DataLock(tmp_path)
    first.serving("http://127.0.0.1:7860/")
    with pytest.raises(DataInUse) as refused:
        DataLock(tmp_path)
    assert refused.value.facts == {"folder": str(tmp_path), "address": "http://127.0.0.1:7860/"}
    first.release()
    DataLock(tmp_path).release()


def test_a_killed_app_holds_nothing(tmp_path: Path) -> None:
    code = f"""
import os, pathlib
from interface.data_lock import DataLock
DataLock(pathlib.Path({str(tmp_path)!r})).serving("http://nowhere/")
os._exit(9)"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False)
    assert "nowhere" in (tmp_path / "running.lock").read_text()
    lock = DataLock(tmp_path)
    assert (tmp_path / "running.lock").read_text() == ""
    lock.release()

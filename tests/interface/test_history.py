"""Conversations on disk: what is committed stays, and nothing that was said is ever overwritten."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from engines.base import GenerationSettings, ImagePart, TextPart, Usage
from interface.history import MIGRATIONS, History, Store, m001_initial

SETTINGS = GenerationSettings(temperature=0.3, seed=7)
USAGE = Usage(10, 4, 20, 0.5, 2.0, "stop", 8192, 1)


def said(store: Store, conversation: str) -> list[tuple[str, str]]:
    return [(one.role, one.text) for one in store.path(conversation)]


def test_a_conversation_and_what_it_is_held_with(store: Store, tmp_path: Path) -> None:
    id = store.create("model", "Be brief.", SETTINGS)
    store.add(id, "user", "  你好,\n world  ")
    row = store.add(id, "assistant", "", "growing")
    store.write(row, "hello", "complete", USAGE)
    again = History(tmp_path / "c.sqlite3", tmp_path / "images").of("")
    assert said(again, id) == [("user", "  你好,\n world  "), ("assistant", "hello")]
    assert again.path(id)[1].usage == USAGE
    found = again.conversation(id)
    assert found and (found.title, found.model, found.system, found.settings) == (
        "你好, world", "model", "Be brief.", SETTINGS,
    )  # fmt: skip
    again.file.close()


def test_ids_cannot_be_guessed_and_unknown_ones_are_nobodys(store: Store) -> None:
    ids = {store.create("m", "", SETTINGS) for _ in range(50)}
    assert len(ids) == 50 and all(len(id) >= 16 for id in ids)
    assert store.conversation("nothing") is None and store.path("nothing") == []


def test_an_edit_starts_a_branch_and_keeps_the_oldone(store: Store, tmp_path: Path) -> None:
    id = store.create("m", "", SETTINGS)
    for n in range(4):
        store.add(id, "assistant" if n % 2 else "user", f"{n}")
    question = store.path(id)[2]
    store.rewind(id, question.id)
    store.add(id, "user", "2 again")
    assert [text for _, text in said(store, id)] == ["0", "1", "2 again"]
    with sqlite3.connect(tmp_path / "c.sqlite3") as db:
        assert db.execute("SELECT count(*) FROM messages").fetchone() == (5,)


def test_rewinding_to_the_first_message_empties_what_is_shown(store: Store) -> None:
    id = store.create("m", "", SETTINGS)
    store.rewind(id, store.add(id, "user", "x"))
    assert store.path(id) == []
    store.add(id, "user", "y")
    assert said(store, id) == [("user", "y")]


def test_answers_that_a_killed_app_left_growing_are_closed_as_stopped(store: Store, tmp_path: Path) -> None:
    id = store.create("m", "", SETTINGS)
    store.add(id, "user", "x")
    store.write(store.add(id, "assistant", "", "growing"), "half an ans", "growing")
    again = History(tmp_path / "c.sqlite3", tmp_path / "images").of("")
    assert again.file.settle() == 1 and again.file.settle() == 0
    assert again.path(id)[-1].status == "stopped" and again.path(id)[-1].text == "half an ans"
    again.file.close()


def test_an_error_is_kept_with_its_answer(store: Store) -> None:
    id = store.create("m", "", SETTINGS)
    row = store.add(id, "assistant", "", "growing")
    store.write(row, "part", "failed", None, {"code": "engine_died", "facts": {"model": "模型"}})
    assert store.path(id)[0].error == {"code": "engine_died", "facts": {"model": "模型"}}


def test_a_long_first_message_makes_a_short_title(store: Store) -> None:
    id = store.create("m", "", SETTINGS)
    store.add(id, "user", "word " * 100)
    found = store.conversation(id)
    assert found and len(found.title) <= 60


def test_it_is_written_through_to_the_disk(store: Store, tmp_path: Path) -> None:
    assert store.one("PRAGMA journal_mode") == ("wal",) and store.one("PRAGMA synchronous") == (2,)
    assert store.one("PRAGMA user_version") == (len(MIGRATIONS),)


def test_images_stay_with_their_question_and_move_with_the_folder(store: Store, tmp_path: Path) -> None:
    images = tuple(ImagePart(f"{n:064x}", tmp_path / "images" / f"{n:064x}.webp", 40 + n, 30) for n in range(2))
    id = store.create("m", "", SETTINGS)
    store.add(id, "user", "what is this?", images=images)
    store.add(id, "assistant", "a cat")
    question, answer = store.path(id)
    assert question.images == images and answer.images == ()
    assert question.message.parts == (*images, TextPart("what is this?"))
    moved = History(tmp_path / "c.sqlite3", tmp_path / "elsewhere").of("")
    assert [one.path.parent for one in moved.path(id)[0].images] == [tmp_path / "elsewhere"] * 2
    moved.file.close()


def test_conversations_from_before_there_were_images_are_read(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.sqlite3") as db:
        m001_initial(db)
        db.execute("PRAGMA user_version = 1")
        db.execute("INSERT INTO conversations VALUES ('id', 't', 'm', '', '{\"temperature\": 0.3}', 1, 0, 0)")
        db.execute("INSERT INTO messages VALUES (1, 'id', NULL, 'user', 'hello', 'complete', NULL, NULL, 0)")
    db.close()
    store = History(tmp_path / "old.sqlite3", tmp_path / "images").of("")
    assert said(store, "id") == [("user", "hello")] and store.path("id")[0].images == ()
    found = store.conversation("id")
    assert found and found.settings.detail == "auto"
    store.file.close()

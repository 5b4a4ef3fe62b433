"""The list of conversations: order, search in both languages, titles, pins, and deletion with a way back."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest

from engines.base import GenerationSettings, ImagePart
from interface.history import MIGRATIONS, History, Store, m001_initial, m002_images
from interface.index import Index, excerpt, marked, purge, words_of
from interface.uploads import image_path, thumbnail_path

SETTINGS = GenerationSettings()


@pytest.fixture
def index(store: Store) -> Index:
    return Index(store)


def held(store: Store, *said: str) -> str:
    """A conversation in which this was said by turns."""
    id = store.create("m", "", SETTINGS)
    for number, text in enumerate(said):
        store.add(id, "assistant" if number % 2 else "user", text)
    return id


def found(index: Index, query: str) -> list[str]:
    return [one.id for one in index.search(query, 50)]


def test_the_latest_come_first_and_pinned_ones_before_them(store: Store, index: Index) -> None:
    a, b, c = (held(store, text) for text in "abc")
    held(store)
    assert [one.id for one in index.recent(50)] == [c, b, a]
    store.add(a, "user", "again")
    index.pin(b, True)
    assert [(one.id, one.pinned) for one in index.recent(50)] == [(b, True), (a, False), (c, False)]
    index.pin(b, False)
    assert [one.id for one in index.recent(2)] == [a, c]


def test_what_was_undone_to_nothing_is_not_listed(store: Store, index: Index) -> None:
    id = held(store, "gone")
    store.rewind(id, store.path(id)[0].id)
    assert index.recent(50) == [] and found(index, "gone") == []


@pytest.mark.parametrize(
    "query", ["递", "递归", "是递归", "什么是递归", "归 函数", "Recur", "RECURSION", "ec", "100%_\\"]
)
def test_search_finds_any_part_of_a_text(store: Store, index: Index, query: str) -> None:
    id = held(store, "请讲", "什么是递归？函数 recursion 调用自己，100%_\\ sure。")
    held(store, "别的", "nothing of the sort")
    (one,) = index.search(query, 50)
    assert one.id == id and one.found and "递归" in one.found


def test_search_wants_every_word_in_one_message_or_in_the_title(store: Store, index: Index) -> None:
    a = held(store, "apples and pears", "红色 的 plums")
    assert found(index, "pears apples") == [a] and found(index, "红色 plums") == [a]
    assert found(index, "apples plums") == [] and found(index, "pears 红") == []
    index.rename(a, "水果 fruit")
    assert found(index, "水 fruit") == [a] and index.search("水", 9)[0].found is None
    assert found(index, "  ") == [a]


@pytest.mark.parametrize(
    "query",
    ['"', "'", '"" OR 1', "a AND b", "NEAR(a b)", "text:abc", "abc*", "(abc", "^abc", "-abc", "%", "_", "\\", "a\0b",
     "\ud800abc", "x" * 5000, ";--", "%%%%", "___", "\0"],
)  # fmt: skip
def test_a_query_is_never_syntax(store: Store, index: Index, query: str) -> None:
    id = held(store, "abc or b and c")
    assert found(index, query) in ([], [id])
    if query in ("%", "_", "\\", "%%%%", "___", "abc*", "a AND b", '"" OR 1'):
        assert found(index, query) == ([id] if query == "a AND b" else [])


def test_a_growing_answer_is_found_once_it_has_ended(store: Store, index: Index) -> None:
    id = held(store, "q")
    row = store.add(id, "assistant", "", "growing")
    store.write(row, "the unfinished answer", "growing")
    assert found(index, "unfinished") == []
    store.write(row, "the finished answer", "complete")
    assert found(index, "finished answer") == [id] and found(index, "unfinished") == []
    store.write(row, "another text", "complete")
    assert found(index, "finished") == [] and found(index, "another") == [id]
    store.add(id, "user", "x")
    store.write(store.add(id, "assistant", "", "growing"), "half of it", "growing")
    store.file.settle()
    assert found(index, "half of") == [id]
    with store.transaction() as db:
        db.execute("INSERT INTO message_index(message_index) VALUES ('integrity-check')")


def test_a_title_of_ones_own_stays(store: Store, index: Index) -> None:
    id = held(store, "# The *first* question")
    assert index.recent(9)[0].title == "The first question"
    index.rename(id, "  我的\n标题 ")
    store.add(id, "user", "another")
    index.rename(id, "   ")
    assert index.recent(9)[0].title == "我的 标题"


def test_images_alone_make_no_title_until_something_is_said(store: Store, index: Index, tmp_path: Path) -> None:
    id = store.create("m", "", SETTINGS, "vision")
    store.add(id, "user", "", images=[image(tmp_path, "a")])
    store.add(id, "assistant", "It is a cat.")
    (one,) = index.recent(9)
    assert (one.title, one.kind) == ("", "vision")
    store.add(id, "user", "what colour?")
    assert index.recent(9)[0].title == "what colour?"


def test_what_is_deleted_is_nowhere_until_it_is_restored(store: Store, index: Index) -> None:
    id = held(store, "keep me")
    index.delete(id)
    assert index.recent(9) == [] and found(index, "keep") == []
    assert store.conversation(id) is None and store.path(id) == []
    index.restore(id)
    assert found(index, "keep") == [id] and len(store.path(id)) == 1
    index.delete(id)
    purge(store.file)
    index.restore(id)
    assert index.recent(9) == []
    assert store.one("SELECT count(*) FROM messages") == (0,)
    assert store.one("SELECT count(*) FROM message_index WHERE message_index MATCH 'keep'") == (0,)


def test_what_was_deleted_last_is_told_to_its_owner_for_a_while(store: Store, index: Index) -> None:
    began, (first, second) = time.time() - 1, (held(store, name) for name in ("first", "second"))
    assert index.lately_deleted(began) is None
    for id in (first, second):
        index.delete(id)
    told = index.lately_deleted(began)
    assert told is not None and (told.id, told.title) == (second, "second")
    assert index.lately_deleted(time.time() + 1) is None
    assert Index(store.file.of("somebody else")).lately_deleted(began) is None
    index.restore(second)
    told = index.lately_deleted(began)
    assert told is not None and told.id == first
    index.restore(first)
    assert index.lately_deleted(began) is None


def image(folder: Path, name: str) -> ImagePart:
    """A stored image: only its files' names matter here."""
    sha256 = name * 64
    (folder / "images").mkdir(exist_ok=True)
    for path in (image_path(folder / "images", sha256), thumbnail_path(folder / "images", sha256)):
        path.write_bytes(b"x")
    return ImagePart(sha256, image_path(folder / "images", sha256), 8, 8)


def test_images_go_with_the_last_conversation_that_names_them(store: Store, index: Index, tmp_path: Path) -> None:
    one, both, other = (image(tmp_path, name) for name in "abc")
    gone, kept = (store.create("m", "", SETTINGS, "vision") for _ in range(2))
    store.add(gone, "user", "x", images=[one, both])
    store.add(kept, "user", "y", images=[both])
    index.delete(gone)
    purge(store.file)
    assert {path.name[0] for path in (tmp_path / "images").iterdir()} == {"b", "c"}
    assert not one.path.exists() and both.path.exists() and other.path.exists()
    assert [entry.id for entry in index.recent(9)] == [kept]


def test_a_file_of_an_earlier_version_is_indexed(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "old.sqlite3") as db:
        m001_initial(db)
        m002_images(db)
        db.execute("PRAGMA user_version = 2")
        for id, images in (("a", "[]"), ("b", '[["f00", 1, 1]]')):
            db.execute("INSERT INTO conversations VALUES (?, 'old', 'm', '', '{}', NULL, 1, 1)", (id,))
            db.execute(
                "INSERT INTO messages (conversation, role, text, status, created, images)"
                " VALUES (?, 'user', '从前的对话', 'complete', 1, ?)", (id, images),
            )  # fmt: skip
        db.execute(
            "UPDATE conversations SET head = (SELECT m.id FROM messages m WHERE m.conversation = conversations.id)"
        )
    db.close()
    store = History(tmp_path / "old.sqlite3", tmp_path / "images").of("")
    assert store.one("PRAGMA user_version") == (len(MIGRATIONS),)
    assert {(one.id, one.kind) for one in Index(store).search("从前的", 9)} == {("a", "text"), ("b", "vision")}
    store.file.close()


def test_five_thousand_messages_are_searched_in_no_time(store: Store, index: Index) -> None:
    ids = [store.create("m", "", SETTINGS) for _ in range(1000)]
    with store.transaction():
        for number, id in enumerate(ids):
            for turn in range(5):
                store.add(id, "user", f"第{number}个问题，" + "天地玄黄宇宙洪荒" * 50 + f" word{number} turn{turn}")
    for query in ("玄", "玄黄", "玄黄宇", "第999个", "word1", "turn", "无此"):
        start = time.perf_counter()
        hits = index.search(query, 60)
        print(f"{query}: {len(hits)} in {1000 * (time.perf_counter() - start):.1f} ms")
        assert bool(hits) == (query != "无此")


def test_excerpts_show_what_was_looked_for() -> None:
    text = "前" * 200 + "\n找到 Here 了" + "后" * 200
    part = excerpt(text, words_of("here 找到"))
    assert part.startswith("…") and part.endswith("…") and len(part) <= 122
    assert [piece for is_hit, piece in marked(part, words_of("here 找到")) if is_hit] == ["找到", "Here"]
    assert excerpt("short", []) == "short" and list(marked("a", [])) == [(False, "a")]

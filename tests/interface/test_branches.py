"""Versions are walked, messages go out of sight and come back, and no row is ever lost."""

from __future__ import annotations

import pytest

from engines.base import GenerationSettings
from interface.branches import Versions, choose, delete, restore, versions
from interface.history import Store


@pytest.fixture
def id(store: Store) -> str:
    """q1 a1 q2 a2"""
    id = store.create("m", "", GenerationSettings())
    for text in ("q1", "a1", "q2", "a2"):
        store.add(id, "user" if text.startswith("q") else "assistant", text)
    return id


def said(store: Store, id: str) -> list[str]:
    return [one.text for one in store.path(id)]


def row(store: Store, id: str, text: str) -> int:
    return next(one.id for one in store.path(id) if one.text == text)


def again(store: Store, id: str, old: str, *texts: str) -> None:
    """Another version of a shown message, and what is said after it."""
    store.rewind(id, row(store, id, old))
    for text in texts:
        store.add(id, "user" if text.startswith("q") else "assistant", text)


def numbers(store: Store, id: str) -> dict[str, tuple[int, int]]:
    found = versions(store, id)
    return {one.text: (found[one.id].number, found[one.id].count) for one in store.path(id) if one.id in found}


def test_versions_are_counted_and_walked(store: Store, id: str) -> None:
    assert versions(store, id) == {}
    again(store, id, "a2", "a2b")
    again(store, id, "a2b", "a2c")
    assert numbers(store, id) == {"a2c": (3, 3)}
    third = versions(store, id)[row(store, id, "a2c")]
    assert third.after is None and choose(store, id, third.before or 0)
    assert said(store, id) == ["q1", "a1", "q2", "a2b"] and numbers(store, id) == {"a2b": (2, 3)}
    again(store, id, "q1", "q1b", "a1b")
    assert said(store, id) == ["q1b", "a1b"] and numbers(store, id) == {"q1b": (2, 2)}
    before = versions(store, id)[row(store, id, "q1b")].before
    assert before is not None and choose(store, id, before)
    assert said(store, id) == ["q1", "a1", "q2", "a2c"], "the newest below it"
    assert numbers(store, id) == {"q1": (1, 2), "a2c": (3, 3)}
    assert versions(store, id)[before] == Versions(1, 2, None, row(store, id, "q1") + 6)


def test_only_a_message_of_the_conversation_can_be_chosen(store: Store, id: str) -> None:
    other = store.create("m", "", GenerationSettings())
    stranger = store.add(other, "user", "x")
    assert not choose(store, id, stranger) and not choose(store, id, 999) and not delete(store, id, stranger)
    assert said(store, id) == ["q1", "a1", "q2", "a2"]


def test_a_deleted_question_takes_its_answer_and_leaves_what_came_after(store: Store, id: str) -> None:
    question = row(store, id, "q1")
    assert delete(store, id, question) and said(store, id) == ["q2", "a2"]
    assert not delete(store, id, question), "it is not shown any more"
    assert restore(store, id, question) and said(store, id) == ["q1", "a1", "q2", "a2"]
    assert not restore(store, id, question)


def test_a_deleted_answer_leaves_its_question(store: Store, id: str) -> None:
    answer = row(store, id, "a2")
    assert delete(store, id, answer) and said(store, id) == ["q1", "a1", "q2"]
    store.add(id, "assistant", "a2b")
    assert said(store, id) == ["q1", "a1", "q2", "a2b"] and versions(store, id) == {}
    assert restore(store, id, answer) and "a2" in said(store, id)


def test_a_deleted_version_shows_the_one_beside_it(store: Store, id: str) -> None:
    again(store, id, "a2", "a2b")
    newest = row(store, id, "a2b")
    assert delete(store, id, newest) and said(store, id)[-1] == "a2" and numbers(store, id) == {}
    assert restore(store, id, newest) and said(store, id)[-1] == "a2b" and numbers(store, id) == {"a2b": (2, 2)}
    again(store, id, "q2", "q2b", "a3")
    assert delete(store, id, row(store, id, "q2b")) and said(store, id) == ["q1", "a1", "q2", "a2b"]


def test_what_was_deleted_together_comes_back_together_and_nothing_else(store: Store, id: str) -> None:
    first, second = row(store, id, "q1"), row(store, id, "q2")
    assert delete(store, id, first) and delete(store, id, second) and said(store, id) == []
    assert restore(store, id, first) and said(store, id) == ["q1", "a1"]
    assert restore(store, id, second) and said(store, id) == ["q1", "a1", "q2", "a2"]
    assert store.all("SELECT count(*) FROM messages") == [(4,)]

"""Versions of a message, and messages taken out of sight. Nothing here removes a row: all of it can be undone.

A regenerated answer or an edited question is a sibling of the one before: same parent, same role. Which is shown is
decided by the conversation's head alone. A deleted message stays a link of the chain, so that what came after it stays.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from engines.base import Role
from interface.history import Store


@dataclass(frozen=True, slots=True)
class Versions:
    """Of a shown message: it is the `number`th of `count`; the ids of the ones before and after it, if there are."""

    number: int
    count: int
    before: int | None
    after: int | None


def versions(store: Store, conversation: str) -> dict[int, Versions]:
    """Of every shown message that has more than one."""
    families: dict[tuple[int | None, Role], list[int]] = {}
    parents: dict[int, int | None] = {}
    of: dict[int, list[int]] = {}
    rows = store.all(
        "SELECT m.id, parent, role, m.deleted IS NOT NULL, head FROM messages m"
        " JOIN conversations c ON c.id = conversation WHERE c.id = ? AND c.owner = ? ORDER BY m.id",
        conversation,
        store.owner,
    )
    head: int | None = rows[-1][-1] if rows else None
    for id, parent, role, deleted, _ in rows:
        parents[id] = parent
        if not deleted:
            of[id] = families.setdefault((parent, role), [])
            of[id].append(id)
    found: dict[int, Versions] = {}
    while head is not None:
        family = of.get(head, [])
        if len(family) > 1:
            place = family.index(head)
            before, after = (family[place - 1] if place else None), (family[place + 1 :] or [None])[0]
            found[head] = Versions(place + 1, len(family), before, after)
        head = parents[head]
    return found


def choose(store: Store, conversation: str, message: int | None) -> bool:
    """Shows a version, and below it what was said there last. False if the conversation has no such message."""
    with store.transaction() as db:
        (leaf,) = db.execute(
            "WITH RECURSIVE below(id) AS ("
            " SELECT m.id FROM messages m JOIN conversations c ON c.id = m.conversation"
            "  WHERE m.id = ? AND c.id = ? AND c.owner = ? AND m.deleted IS NULL"
            " UNION ALL SELECT m.id FROM messages m JOIN below ON m.parent = below.id)"
            " SELECT max(id) FROM below JOIN messages USING (id) WHERE deleted IS NULL",
            (message, conversation, store.owner),
        ).fetchone()
        if leaf is not None:
            end_at(store, conversation, leaf)
    return leaf is not None


def end_at(store: Store, conversation: str, message: int) -> None:
    """What is added next follows this message, and not one behind it that is out of sight."""
    with store.transaction() as db:
        db.execute("UPDATE conversations SET head = ? WHERE id = ? AND owner = ?", (message, conversation, store.owner))


def delete(store: Store, conversation: str, message: int) -> bool:
    """Takes a shown message out of sight, and with a question its answer; what came after stays.

    If nothing came after and there is another version, that is shown. False if the message is not shown.
    """
    with store.transaction() as db:
        path = store.path(conversation)
        place = next((n for n, one in enumerate(path) if one.id == message), None)
        if place is None:
            return False
        gone = [message]
        if path[place].role == "user" and path[place + 1 :] and path[place + 1].role == "assistant":
            gone.append(path[place + 1].id)
        beside = versions(store, conversation).get(message)
        now = time.time()
        for id in gone:
            db.execute("UPDATE messages SET deleted = ? WHERE id = ?", (now, id))
        if beside is not None and place + len(gone) == len(path):
            choose(store, conversation, beside.before or beside.after)
    return True


def restore(store: Store, conversation: str, message: int) -> bool:
    """Undoes `delete`, and shows the message again. False if it is not deleted."""
    with store.transaction() as db:
        found = db.execute(
            "SELECT m.deleted FROM messages m JOIN conversations c ON c.id = m.conversation"
            " WHERE m.id = ? AND c.id = ? AND c.owner = ? AND m.deleted IS NOT NULL",
            (message, conversation, store.owner),
        ).fetchone()
        if found is None:
            return False
        db.execute("UPDATE messages SET deleted = NULL WHERE conversation = ? AND deleted = ?", (conversation, *found))
        if all(one.id != message for one in store.path(conversation)):
            choose(store, conversation, message)
    return True

"""Presets: a system prompt and settings under a name, for each kind of tab. Kept in the store; knows no page."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from configs.schema import ModelKind
from engines.base import GenerationSettings
from interface.history import Store

NAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Preset:
    """What is saved under a name."""

    name: str
    system: str
    settings: GenerationSettings


class Presets:
    """The store's owner's, of one kind of tab. Raises HistoryUnavailable like the store."""

    def __init__(self, store: Store, kind: ModelKind) -> None:
        self._store, self._kind = store, kind

    @property
    def names(self) -> list[str]:
        """In the order in which a person would look for them."""
        rows = self._store.all("SELECT name FROM presets WHERE owner = ? AND kind = ?", self._store.owner, self._kind)
        return sorted((name for (name,) in rows), key=str.casefold)

    def get(self, name: str) -> Preset | None:
        row = self._store.one(
            "SELECT name, system, settings FROM presets WHERE owner = ? AND kind = ? AND name = ?", *self._key(name)
        )
        return Preset(row[0], row[1], GenerationSettings(**json.loads(row[2]))) if row else None

    def save(self, name: str, system: str, settings: GenerationSettings) -> Preset:
        """Keeps them under the name, in the place of what it stood for before. The name is not empty."""
        preset = Preset(tidied(name), system, settings)
        with self._store.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO presets (owner, kind, name, system, settings) VALUES (?, ?, ?, ?, ?)",
                (*self._key(name), system, json.dumps(asdict(settings))),
            )
        return preset

    def delete(self, name: str) -> bool:
        """Whether there was such a preset."""
        with self._store.transaction() as db:
            cursor = db.execute("DELETE FROM presets WHERE owner = ? AND kind = ? AND name = ?", self._key(name))
            return cursor.rowcount > 0

    def _key(self, name: str) -> tuple[str, str, str]:
        return self._store.owner, self._kind, tidied(name)


def tidied(name: str) -> str:
    """A name as it is kept: one line, not too long."""
    return " ".join(name.split())[:NAME_LENGTH].strip()

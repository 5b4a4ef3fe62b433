"""A store in a folder of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from interface.history import History, Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = History(tmp_path / "c.sqlite3", tmp_path / "images").of("")
    yield store
    store.file.close()

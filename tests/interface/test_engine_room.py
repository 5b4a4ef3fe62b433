"""The first model is got ready without a page."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.load import load_catalogue, load_config
from engines.library import Library
from interface.engine_room import EngineRoom
from tests.interface.test_answers import until


@pytest.mark.parametrize("is_here", [True, False])
def test_the_first_model_is_loaded_if_it_is_here_and_fetched_otherwise(tmp_path: Path, is_here: bool) -> None:
    config = load_config({"data": tmp_path, "offline": True}, {})
    room = EngineRoom.open(Library(config, load_catalogue(), fake=is_here))
    try:
        room.get_ready()
        asked_of = room.loads if is_here else room.downloads
        until(lambda: asked_of.of(config.models.model) is not None)
        loaded = room.loads.of(config.models.model)
        if loaded is not None:
            loaded.result()
        assert [one.model for one in room.runner.status().here] == ([config.models.model] if is_here else [])
    finally:
        room.close()
        room.close()  # as a start that fails half-way leaves it to both

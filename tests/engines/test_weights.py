"""The threads that read a model's weights: their failures are the load's, and they end with it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.checkpoints import load_model
from engines.checkpoints.weights import COPIERS, Weights
from engines.errors import ModelCorrupt
from tests.checkpoints import make_internlm2

BROKEN = "model.layers.1.attention.wqkv.weight"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_internlm2(tmp_path / "model", shards=2)


def test_what_stops_a_reader_is_the_loads_own_failure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, before = Weights._one, threading.active_count()

    def full(self: Weights, tensors: Any, stored: str) -> torch.Tensor:
        if stored == BROKEN:
            raise MemoryError("no room")
        return one(self, tensors, stored)

    monkeypatch.setattr(Weights, "_one", full)
    with pytest.raises(MemoryError, match="no room"):
        load_model(folder, dtype="float32")
    assert threading.active_count() == before


def test_what_fails_meanwhile_ends_the_readers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    go, begun, before = threading.Event(), threading.Semaphore(0), threading.active_count()
    asked: list[str] = []

    def wait(self: Weights, tensors: Any, stored: str) -> None:
        asked.append(stored)
        begun.release()
        go.wait(30)

    monkeypatch.setattr(Weights, "_one", wait)
    later = threading.Timer(0.1, go.set)
    with pytest.raises(OSError, match="another"), Weights(folder, torch.float32, torch.device("cpu")):
        for _ in range(COPIERS):
            begun.acquire(timeout=30)
        later.start()  # those that have begun are waited for
        raise OSError("another")
    later.join()
    assert len(asked) == COPIERS and threading.active_count() == before


def test_the_shard_of_a_tensor_that_does_not_fit_is_named(folder: Path) -> None:
    shards = sorted(folder.glob("*.safetensors"))
    file = next(shard for shard in shards if BROKEN in load_file(shard))
    save_file(load_file(file) | {BROKEN: torch.zeros(3)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelCorrupt) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts == {"file": file.name, "problem": "tensor_shape", "tensor": BROKEN}

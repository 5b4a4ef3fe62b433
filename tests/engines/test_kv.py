"""The cache in fixed buffers computes what transformers' own growing one does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import DynamicCache

from engines.checkpoints import load_model
from engines.kv import KVCache
from tests.checkpoints import make_internlm2

IDS = torch.arange(3, 43)[None]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_model(make_internlm2(tmp_path_factory.mktemp("m")), dtype="float32", attention="eager")


def logits(model: Any, cache: Any, *cuts: int) -> Any:
    """Of the whole text, sent in pieces that end at `cuts`."""
    ends = [*cuts, IDS.shape[1]]
    starts = [0, *cuts]
    with torch.inference_mode():
        return torch.cat(
            [model(IDS[:, a:b], past_key_values=cache).logits for a, b in zip(starts, ends, strict=True)], 1
        )


@pytest.mark.parametrize("cuts", [(), (39,), (7, 8, 30)])
def test_it_is_transformers_own_in_pieces_or_whole(model: Any, cuts: tuple[int, ...]) -> None:
    kv = KVCache(capacity=64)
    ours, theirs = logits(model, kv.cache, *cuts), logits(model, DynamicCache(config=model.config), *cuts)
    assert torch.equal(ours, theirs) and kv.length == 40


def test_what_was_cut_off_leaves_no_trace(model: Any) -> None:
    kv = KVCache(capacity=64)
    with torch.inference_mode():
        model(torch.full((1, 60), 5), past_key_values=kv.cache)
    kv.cut(0)
    assert kv.length == 0
    assert torch.equal(logits(model, kv.cache), logits(model, DynamicCache(config=model.config)))
    kv.cut(20)
    with torch.inference_mode():
        again = model(IDS[:, 20:], past_key_values=kv.cache).logits
    assert torch.allclose(again, logits(model, KVCache(64).cache)[:, 20:], atol=1e-5)


def test_it_holds_its_capacity_and_no_more(model: Any) -> None:
    kv = KVCache(capacity=40)
    logits(model, kv.cache)
    (layer, *_) = kv.cache.layers
    assert layer._keys.shape[2] == 40 and layer.keys.data_ptr() == layer._keys.data_ptr()
    with pytest.raises(RuntimeError), torch.inference_mode():
        model(IDS[:, :1], past_key_values=kv.cache)


def test_generate_takes_it_and_leaves_it_usable(model: Any) -> None:
    kv = KVCache(capacity=64)
    wanted = model.generate(IDS, do_sample=False, max_new_tokens=12)
    got = model.generate(IDS, do_sample=False, max_new_tokens=12, past_key_values=kv.cache)
    assert torch.equal(got, wanted) and kv.length == got.shape[1] - 1

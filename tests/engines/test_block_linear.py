"""Text models whose weights lie in integers: the layers, the decoding by steps, and the engine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

from engines import block_linear, text
from engines.base import GenerationSettings
from engines.block_linear import BlockLinear, arranged, quantize
from engines.checkpoints import load_model
from engines.checkpoints.blocks import OUTER_BITS, integers, whole
from engines.kv import KVCache
from engines.memory import LoadSettings
from engines.step import Step
from engines.text import TextEngine
from tests.asking import answers, ask
from tests.checkpoints import make_internlm2, make_llama

pytestmark = pytest.mark.usefixtures("one_core")
answer = answers(GenerationSettings(max_new_tokens=40, temperature=0.0))


def rounded(weight: Any, bits: int) -> Any:
    """A weight as its integers have it."""
    packed, scales, zeros = integers(weight.detach(), bits)
    return whole(packed, scales.half().float(), zeros, bits)


# -- a layer ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at_once", [2**24, 3 * 96, 1])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_product_is_that_of_the_rounded_weight(
    monkeypatch: pytest.MonkeyPatch, bits: int, bias: bool, at_once: int
) -> None:
    monkeypatch.setattr(block_linear, "WHOLE_AT_ONCE", at_once)
    layer, x = nn.Linear(96, 10, bias=bias), torch.randn(2, 5, 96)
    got = BlockLinear.of(layer, bits, "cpu")(x)
    assert torch.allclose(got, linear(x, rounded(layer.weight, bits), layer.bias), atol=1e-5)
    assert not torch.allclose(got, layer(x), atol=1e-5)


def test_neighbours_lie_at_one_place_of_words_that_are_neighbours() -> None:
    """A word of 32 bits has 8 integers of 4 bits or 4 of 8; a kernel on a card relies on which."""
    columns = torch.arange(64.0)
    assert arranged(columns, 4)[:8].tolist() == [0, 4, 8, 12, 16, 20, 24, 28]
    assert arranged(columns, 8)[:4].tolist() == [0, 8, 16, 24]
    assert arranged(columns, 4)[32:40].tolist() == [32, 36, 40, 44, 48, 52, 56, 60]


def test_what_makes_no_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="40"):
        BlockLinear.of(nn.Linear(40, 4), 4, "cpu")


# -- a model ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("variant", [{}, {"bias": True}, {"tied": True}, None], ids=["plain", "bias", "tied", "llama"])
def test_a_model_computes_with_rounded_weights(tmp_path: Path, variant: dict[str, Any] | None, bits: int) -> None:
    folder = make_llama(tmp_path) if variant is None else make_internlm2(tmp_path, **variant)
    model, wanted = load_model(folder, dtype="float32"), load_model(folder, dtype="float32")
    table = wanted.get_input_embeddings().weight.clone()
    wanted.lm_head.weight = nn.Parameter(wanted.lm_head.weight.detach().clone())  # which may be the embedding's
    for name, layer in wanted.named_modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = rounded(layer.weight, OUTER_BITS if name == "lm_head" else bits)
    quantize(model, bits, "cpu")
    assert torch.equal(model.get_input_embeddings().weight, table)
    assert not [one for one in model.modules() if isinstance(one, nn.Linear)]
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        assert torch.allclose(model(ids).logits, wanted(ids).logits, atol=1e-4)


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("bias", [True, False])
def test_a_step_computes_what_the_model_does(tmp_path: Path, bits: int, bias: bool) -> None:
    model, kv = load_model(make_internlm2(tmp_path, bias=bias), dtype="float32"), KVCache(64)
    quantize(model, bits, "cpu")
    ids = torch.arange(3, 43)[None]
    with torch.inference_mode():
        wanted = model(ids).logits[0]
        model(ids, past_key_values=kv.cache)
        step = Step(model, kv, 64)
        for at in (20, 30, 39):
            logits = step(ids[0, at : at + 1], torch.tensor([at]), 64)
            assert torch.allclose(logits, wanted[at], atol=1e-4, rtol=1e-4)
        assert torch.allclose(model(ids).logits[0], wanted, atol=1e-5), "its own modules are as they were"
    layer = model.model.layers[0]
    parts = [getattr(layer.self_attn, f"{one}_proj") for one in "qkvo"] + [*layer.mlp.children()][:3]
    for name in ("integers", "scales", "zeros"):
        assert len({getattr(part, name).untyped_storage().data_ptr() for part in parts}) == 1


# -- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
def test_an_engine_answers_alike_with_steps_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bits: int, graphs: bool
) -> None:
    folder = make_internlm2(tmp_path)
    settings = LoadSettings("transformers", "cpu", "float32", 512, 32, weight_bits=bits, graphs=graphs)
    ours = TextEngine(folder, settings)
    monkeypatch.setattr(text, "best_decoder", lambda *args: None)
    theirs = TextEngine(folder, settings)
    assert ours.decoded_by == "Step, no graphs" and theirs.decoded_by == "generate"
    turns: list[str] = []
    for question in ("What is the capital of France?", "再说一遍"):
        turns.append(question)
        got, wanted = answer(ours, ask(*turns)), answer(theirs, ask(*turns))
        assert got[0] == wanted[0] and got[1].cached_tokens == wanted[1].cached_tokens
        turns.append(got[0])
    assert got[1].cached_tokens > 0

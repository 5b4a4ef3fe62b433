"""The quantized engine on tiny random checkpoints: the graph computes what the model computes, with its own weights."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from engines.base import GenerationSettings
from engines.checkpoints import load_model
from engines.checkpoints.blocks import BLOCK, integers, whole
from engines.checkpoints.onnx_graph import GRAPH, write_graph
from engines.errors import Cancelled, ModelCorrupt, ModelUnsupported
from engines.memory import LoadSettings
from engines.quantize import quantized
from engines.text_onnx import Decoder, OnnxTextEngine
from tests.asking import answers, ask
from tests.checkpoints import make_internlm2, make_llama

CONTEXT = 512
TWICE = {"type": "linear", "factor": 2.0}
GREEDY = GenerationSettings(max_new_tokens=24, temperature=0.0)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=11)
answer = answers(GREEDY)


def load(folder: Path, home: Path, bits: int = 8, **more: Any) -> OnnxTextEngine:
    settings = LoadSettings("onnxruntime", "cpu", "float32", CONTEXT, 32, weight_bits=bits)
    return OnnxTextEngine(folder, settings, home, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internlm2(tmp_path_factory.mktemp("internlm2"), shards=2)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantized")


@pytest.fixture(scope="module")
def engine(folder: Path, home: Path) -> OnnxTextEngine:
    return load(folder, home)


def rounded(weight: Any, bits: int) -> Any:
    """A weight as its integers have it."""
    return whole(*integers(weight, bits), bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_a_weight_is_at_most_half_a_step_off(bits: int) -> None:
    import torch

    weight = torch.randn(6, 3 * BLOCK)
    weight[0, :BLOCK], weight[1, :BLOCK], weight[2, :BLOCK] = 0, 5, -5
    off = (rounded(weight, bits) - weight).abs().unflatten(1, (-1, BLOCK))
    blocks = weight.unflatten(1, (-1, BLOCK))
    step = (blocks.amax(-1).clamp(min=0) - blocks.amin(-1).clamp(max=0)) / (2**bits - 1)
    # The zero point is rounded, too, so that the ends of a block may be cut by as much again.
    assert (off <= 1.001 * step[..., None] + 1e-6).all() and (rounded(weight, bits)[0, :BLOCK] == 0).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(
    "make",
    [
        lambda folder: make_internlm2(folder, heads=4, kv_heads=1, shards=2),
        lambda folder: make_internlm2(folder, heads=2, kv_heads=2, tied=True, rope_scaling=TWICE),
        make_llama,
    ],
    ids=["internlm2", "tied", "llama"],
)  # fmt: skip
def test_its_logits_are_those_of_the_model_with_these_weights(tmp_path: Path, make: Any, bits: int) -> None:
    """In float32 arithmetic; a prompt in pieces and then token for token."""
    import torch

    source, target = make(tmp_path / "model"), tmp_path / "made"
    target.mkdir()
    write_graph(source, target, bits, accuracy=0)
    model = load_model(source, dtype="float32")
    for name, parameter in list(model.named_parameters()):
        if parameter.ndim == 2:
            outer = "embed_tokens" in name or "lm_head" in name
            parameter.data = rounded(parameter.data, 8 if outer else bits)
    ids = numpy.random.default_rng(0).integers(10, 400, 48).tolist()
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    decoder = Decoder(target / GRAPH, 64, 1)
    for start, stop in ((0, 17), (17, 40), *((n, n + 1) for n in range(40, 48))):
        assert abs(decoder.run(ids[start:stop]) - expected[stop - 1]).max() < 1e-4
    decoder.cut(20)
    assert abs(decoder.run(ids[20:33]) - expected[32]).max() < 1e-4, "after a cut"


def test_in_integers_it_is_near(folder: Path, tmp_path: Path) -> None:
    ids = list(range(20, 60))
    rows = []
    for accuracy in (0, 4):
        (target := tmp_path / str(accuracy)).mkdir()
        write_graph(folder, target, 8, accuracy)
        decoder = Decoder(target / GRAPH, 64, 1)
        rows.append(decoder.run(ids).copy())
    assert 0 < abs(rows[0] - rows[1]).max() < 0.05 * abs(rows[0]).max()


def test_it_stops_where_the_model_does(engine: OnnxTextEngine, folder: Path) -> None:
    assert engine._stop_ids == load_model(folder, dtype="float32").generation_config.eos_token_id


def test_the_end_of_a_turn_ends_the_answer(engine: OnnxTextEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    end = engine._tokenizer.convert_tokens_to_ids("<|im_end|>")
    forced = iter([engine._tokenizer.encode("Hi", add_special_tokens=False)[0], end])
    run = engine._network.run

    def chosen(ids: list[int]) -> Any:
        logits = run(ids)
        if len(ids) == 1 and (token := next(forced, None)) is not None:
            logits[token] = 1e4
        return logits

    monkeypatch.setattr(engine._network, "run", chosen)
    text, usage = answer(engine, ask("x"))
    assert usage.reason == "stop" and usage.new_tokens == 2 and "im_end" not in text and text


def test_the_seed_decides(engine: OnnxTextEngine) -> None:
    first, again = (answer(engine, ask("tell"), SAMPLED)[0] for _ in range(2))
    assert first == again != answer(engine, ask("tell"), replace(SAMPLED, seed=12))[0]


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_kept_cache_changes_no_token(folder: Path, home: Path, settings: GenerationSettings) -> None:
    kept, recomputed = load(folder, home), load(folder, home, reuse_prefix=False)
    turns: list[str] = []
    for question in ("What is the capital of France?", "再说一遍", "def f(): return 1", "and then?"):
        turns.append(question)
        with_cache, usage = answer(kept, ask(*turns), settings)
        without, plain = answer(recomputed, ask(*turns), settings)
        assert with_cache == without and plain.cached_tokens == 0
        turns.append(with_cache)
    assert usage.cached_tokens > usage.prompt_tokens * 0.5


def test_a_cancel_ends_it_within_a_token_and_harms_nothing(engine: OnnxTextEngine) -> None:
    whole, _ = answer(engine, ask("count"))
    pieces: list[str] = []

    def emit(text: str) -> None:
        pieces.append(text)
        if len([piece for piece in pieces if piece]) == 3:
            raise Cancelled

    usage = engine.generate(ask("count"), GREEDY, emit)
    assert usage.reason == "cancelled" and usage.new_tokens < 24 and whole.startswith("".join(pieces))
    assert answer(engine, ask("count"))[0] == whole


def test_it_stops_where_the_context_ends(engine: OnnxTextEngine) -> None:
    text, usage = answer(engine, ask("word " * 110), replace(GREEDY, max_new_tokens=2000))
    assert usage.reason in ("length", "stop") and usage.prompt_tokens + usage.new_tokens <= CONTEXT and text


def test_what_is_made_is_made_once_and_anew_for_other_weights(
    engine: OnnxTextEngine, folder: Path, home: Path, tmp_path: Path
) -> None:
    own, stages = Path(shutil.copytree(home, tmp_path / "home")), []
    load(folder, own, stage=stages.append)
    (made,) = own.iterdir()
    assert "quantizing" not in stages
    load(folder, own, 4, stage=stages.append)
    (other,) = own.iterdir()
    assert stages.count("quantizing") == 1 and other != made, "and the first is deleted"
    os.utime(folder / "model-00001-of-00002.safetensors", (1, 1))
    with pytest.raises(ZeroDivisionError):
        quantized(folder, own, 4, lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    assert quantized(folder, own, 4, tick=lambda: None) != other and len(list(own.iterdir())) == 1


def test_making_can_be_given_up(folder: Path, tmp_path: Path) -> None:
    def tick() -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        quantized(folder, tmp_path / "home", 8, tick=tick)
    assert list((tmp_path / "home").iterdir()) == []


def test_a_broken_checkpoint_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(ModelCorrupt) as caught:
        load(folder, tmp_path / "home")
    assert caught.value.facts["problem"] == "truncated" and list((tmp_path / "home").iterdir()) == []


def test_what_the_graph_cannot_express_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnsupported):
        write_graph(make_internlm2(tmp_path, bias=True), tmp_path, 8)

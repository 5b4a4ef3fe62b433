"""Decoding by steps of fixed shapes, as CUDA graphs hold it. Here the same functions are called without a card."""

from __future__ import annotations

import logging
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from engines import graphs
from engines import step as steps
from engines.base import GenerationSettings
from engines.checkpoints import load_model
from engines.chooser import Chooser
from engines.errors import Cancelled
from engines.graphs import Decoder, WrongResult, best_decoder
from engines.kv import KVCache
from engines.memory import LoadSettings
from engines.step import NotLlama, Step, doubling
from engines.text import TextEngine
from tests.asking import an_error_in_the_middle_drops_the_cache, answers, ask
from tests.checkpoints import make_internlm2, make_llama

pytestmark = pytest.mark.usefixtures("one_core")
GREEDY = GenerationSettings(max_new_tokens=24, temperature=0.0)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=11)
answer = answers(GREEDY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internlm2(tmp_path_factory.mktemp("internlm2"))


@pytest.fixture(autouse=True)
def short_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Borders that a short answer crosses."""
    monkeypatch.setattr(steps, "SHORTEST", 32)


def load(folder: Path, graphs: bool = True, context: int = 512, **more: Any) -> TextEngine:
    engine = TextEngine(folder, LoadSettings("transformers", "cpu", "float32", context, 32, graphs=graphs), **more)
    assert (engine._decoder is not None) == graphs
    return engine


@pytest.fixture(scope="module")
def plain(folder: Path) -> TextEngine:
    return load(folder, graphs=False)


# -- the step --------------------------------------------------------------------------------------------------------


VARIANTS = pytest.mark.parametrize(
    "variant",
    [{}, {"bias": True}, {"tied": True}, {"kv_heads": 4}, {"rope_scaling": {"type": "dynamic", "factor": 2.0}}, None],
    ids=["plain", "bias", "tied", "no groups", "dynamic", "llama"],
)


@VARIANTS
def test_logits_are_the_models_on_both_sides_of_every_border(tmp_path: Path, variant: dict[str, Any] | None) -> None:
    folder = make_llama(tmp_path) if variant is None else make_internlm2(tmp_path, **variant)
    model, kv = load_model(folder, dtype="float32"), KVCache(128)
    ids = torch.randint(3, 500, (1, 128), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        wanted = model(ids).logits[0]
        model(ids, past_key_values=kv.cache)
        step = Step(model, kv, 128)
        for at in (*range(20, 40), *range(60, 68), 100, 126, 127):
            bucket = next(size for size in doubling(128) if size > at)
            logits = step(ids[0, at : at + 1], torch.tensor([at]), bucket)
            assert torch.allclose(logits, wanted[at], atol=1e-4, rtol=1e-4), at


@VARIANTS
@pytest.mark.parametrize("pieces", [[100], [1, 99], [37, 1, 62]], ids=str)
def test_a_prompt_that_is_read_in_pieces_leaves_what_the_model_does(
    tmp_path: Path, variant: dict[str, Any] | None, pieces: list[int]
) -> None:
    folder = make_llama(tmp_path) if variant is None else make_internlm2(tmp_path, **variant)
    model, kv = load_model(folder, dtype="float32"), KVCache(128)
    ids = torch.randint(3, 500, (100,), generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        model(ids[None], past_key_values=kv.cache)
        step = Step(model, kv, 128)
        assert step.reads
        wanted = [(keys.clone(), values.clone()) for keys, values in kv.buffers]
        for keys, values in kv.buffers:
            keys.fill_(9), values.fill_(9)
        start = 0
        for piece in ids.split(pieces):
            step.read(piece, start)
            start += len(piece)
    for got, whole in zip(kv.buffers, wanted, strict=True):
        for one, other in zip(got, whole, strict=True):
            assert torch.allclose(one[:, :100], other[:, :100], atol=1e-5, rtol=1e-4) and bool(
                (one[:, 100:] == 9).all()
            )


def test_what_is_left_in_the_buffers_beyond_the_position_is_not_seen(folder: Path) -> None:
    model, kv = load_model(folder, dtype="float32"), KVCache(64)
    with torch.inference_mode():
        model(torch.arange(3, 23)[None], past_key_values=kv.cache)
        step = Step(model, kv, 64)
        at = torch.tensor([20])
        clean = step(torch.tensor([7]), at, 64)
        for keys, values in kv.buffers:
            keys[:, 21:], values[:, 21:] = 1e4, -1e4
        assert torch.equal(step(torch.tensor([7]), at, 64), clean)


def test_joined_weights_are_the_models_own_and_lie_in_memory_once(folder: Path) -> None:
    model, kv = load_model(folder, dtype="float32"), KVCache(8)
    ids = torch.arange(3, 9)[None]
    with torch.inference_mode():
        wanted = model(ids, past_key_values=kv.cache).logits
        Step(model, kv, 8)
        assert torch.equal(model(ids).logits, wanted)
    layer = model.model.layers[0]
    for parts in ([getattr(layer.self_attn, f"{one}_proj") for one in "qkv"], [layer.mlp.gate_proj, layer.mlp.up_proj]):
        assert len({part.weight.untyped_storage().data_ptr() for part in parts}) == 1


@pytest.mark.parametrize(("context", "wanted"), [(20, [20]), (32, [32]), (33, [32, 33]), (128, [32, 64, 128])])
def test_lengths_double_up_to_the_context(context: int, wanted: list[int]) -> None:
    assert doubling(context) == wanted


# -- the chooser -----------------------------------------------------------------------------------------------------

CHAIN = [
    GenerationSettings(temperature=t, top_p=p, top_k=k, repetition_penalty=r)
    for t in (0.3, 1.0, 1.7) for p in (0.05, 0.8, 1.0) for k in (0, 1, 7, 1000) for r in (0.6, 1.0, 1.3)
]  # fmt: skip


@pytest.mark.parametrize(
    "settings", CHAIN, ids=lambda one: f"{one.temperature}-{one.top_p}-{one.top_k}-{one.repetition_penalty}"
)
def test_candidates_are_what_transformers_chain_leaves(plain: TextEngine, settings: GenerationSettings) -> None:
    logits = torch.randn(200, generator=torch.Generator().manual_seed(3)) * 3
    logits[50:60] = logits[40]  # some are alike
    prompt = [3, 5, 5, 40, 77]
    chooser = Chooser(200, "cpu")
    chooser.prepare(prompt, settings)
    scores, tokens = chooser.candidates(logits)
    got = torch.empty(200).scatter_(0, tokens, scores)
    assert torch.equal(got, transformers_scores(plain._model, prompt, logits, settings))


def transformers_scores(model: Any, prompt: list[int], logits: Any, settings: GenerationSettings) -> Any:
    config = GenerationConfig(
        do_sample=True, temperature=settings.temperature, top_p=settings.top_p, top_k=settings.top_k,
        repetition_penalty=settings.repetition_penalty,
    )  # fmt: skip
    chain = model._get_logits_processor(generation_config=config, input_ids_seq_length=len(prompt), device="cpu")
    return chain(torch.tensor([prompt]), logits[None].clone())[0]


def test_draws_come_as_often_as_they_are_likely() -> None:
    torch.manual_seed(5)
    settings = GenerationSettings(temperature=0.9, top_p=0.9, top_k=6, repetition_penalty=1.2)
    logits = torch.tensor([2.0, 1.5, 1.0, 0.5, 0.0, -0.5, -1.0, -3.0])
    chooser, counts = Chooser(8, "cpu"), torch.zeros(8)
    chooser.prepare([0], settings)
    scores, tokens = chooser.candidates(logits)
    wanted = torch.zeros(8).scatter_(0, tokens, scores.softmax(0))
    for _ in range(3000):
        chooser.prepare([0], settings)
        counts[chooser.drawn(logits)] += 1
    expected = wanted * 3000
    assert bool((counts[expected == 0] == 0).all())
    squares = ((counts - expected) ** 2 / expected)[expected > 0].sum()
    assert squares < 25, "chi squared of at most five degrees of freedom: by chance once in 7,000"


def test_what_was_chosen_is_penalized_the_next_time() -> None:
    chooser = Chooser(4, "cpu")
    chooser.prepare([3], GenerationSettings(temperature=0.0, repetition_penalty=2.0))
    logits = torch.tensor([1.0, 0.9, 0.7, 1.1])
    assert [int(chooser.greedy(logits)) for _ in range(3)] == [0, 1, 2]
    chooser.prepare([2], GenerationSettings(temperature=0.0, repetition_penalty=2.0))
    assert int(chooser.greedy(logits)) == 3, "an answer before this one is forgotten"


# -- the engine ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.0, 1.2])
@pytest.mark.parametrize("make", [make_internlm2, make_llama])
def test_greedy_answers_are_what_generate_says(tmp_path: Path, make: Any, penalty: float) -> None:
    folder = make(tmp_path)
    ours, theirs = load(folder), load(folder, graphs=False)
    settings = replace(GREEDY, max_new_tokens=90, repetition_penalty=penalty)
    turns: list[str] = []
    for question in ("What is the capital of France?", "再说一遍", "and then? " * 9):
        turns.append(question)
        got, wanted = answer(ours, ask(*turns), settings), answer(theirs, ask(*turns), settings)
        assert got[0] == wanted[0] and got[1].new_tokens == wanted[1].new_tokens
        assert got[1].cached_tokens == wanted[1].cached_tokens and ours._cached == theirs._cached
        turns.append(got[0])


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_kept_cache_changes_no_token(folder: Path, settings: GenerationSettings) -> None:
    kept, recomputed = load(folder), load(folder, reuse_prefix=False)
    turns: list[str] = []
    for question in ("What is the capital of France?", "def f(): return 1", "😀", "and then?"):
        turns.append(question)
        with_cache, usage = answer(kept, ask(*turns), settings)
        without, _ = answer(recomputed, ask(*turns), settings)
        assert with_cache == without
        turns.append(with_cache)
    assert usage.cached_tokens > usage.prompt_tokens * 0.5


def test_the_seed_decides(folder: Path) -> None:
    engine = load(folder)
    first, again = answer(engine, ask("tell"), SAMPLED)[0], answer(engine, ask("tell"), SAMPLED)[0]
    assert first == again != answer(engine, ask("tell"), replace(SAMPLED, seed=12))[0]
    free = GenerationSettings(24, 1.5, 1.0)
    assert len({answer(engine, ask("tell"), free)[0] for _ in range(4)}) > 1


@pytest.mark.parametrize("heard", [1, 5, 30])
def test_cancel_ends_it_within_one_token_and_leaves_the_cache_sound(
    folder: Path, plain: TextEngine, heard: int
) -> None:
    engine, calls = load(folder), 0

    def emit(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls > 2 + heard:  # the first two calls are the prefill's
            raise Cancelled

    usage = engine.generate(ask("go on"), replace(GREEDY, max_new_tokens=200), emit)
    assert usage.reason == "cancelled" and usage.new_tokens == heard + 1
    assert engine._kv.length == len(engine._cached) == usage.prompt_tokens + heard
    for more in (ask("go on"), ask("go on", "so", "and on")):
        assert answer(engine, more)[0] == answer(plain, more)[0]


def test_it_stops_at_the_end_of_a_turn(folder: Path, plain: TextEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load(folder)
    end = engine._tokenizer.convert_tokens_to_ids("<|im_end|>")
    chosen = iter([7, end, 9, 9])
    monkeypatch.setattr(engine._decoder._chooser, "greedy", lambda logits: torch.tensor([next(chosen)]))
    usage = answer(engine, ask("x"))[1]
    assert usage.reason == "stop" and usage.new_tokens == 2 and engine._cached[-1] == 7
    monkeypatch.undo()
    assert answer(engine, ask("x", "so", "y"))[0] == answer(plain, ask("x", "so", "y"))[0]


def test_the_whole_context_can_be_filled(folder: Path) -> None:
    engine, theirs = load(folder, context=70), load(folder, graphs=False, context=70)
    long = replace(GREEDY, max_new_tokens=1000)
    text, usage = answer(engine, ask("hi"), long)
    assert usage.prompt_tokens + usage.new_tokens == 70 and text == answer(theirs, ask("hi"), long)[0]


def test_an_error_in_the_middle_drops_the_cache(folder: Path, plain: TextEngine) -> None:
    engine = load(folder)
    an_error_in_the_middle_drops_the_cache(engine, plain, GREEDY)


# -- where it does not work ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [RuntimeError("capture failed"), NotLlama("Other"), torch.OutOfMemoryError("full")])
def test_what_cannot_be_captured_is_decoded_by_generate(
    folder: Path, plain: TextEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def fails(self: Decoder, *args: Any) -> None:
        raise error

    monkeypatch.setattr(Decoder, "__init__", fails)
    refused(folder, plain, caplog, str(error))


def test_a_step_that_computes_something_else_is_not_used(
    folder: Path, plain: TextEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, *args: honest(self, *args).roll(1))
    refused(folder, plain, caplog, WrongResult.__name__)


def test_logits_that_are_no_numbers_are_not_used(
    folder: Path, plain: TextEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    honest = Step.__call__
    monkeypatch.setattr(Step, "__call__", lambda self, *args: honest(self, *args) * float("nan"))
    refused(folder, plain, caplog, WrongResult.__name__)


def shifted(self: Step, *args: Any) -> None:
    honest_read(self, *args)
    self._layers[0][3].mul_(-1)


def nothing(self: Step, *args: Any) -> None:
    pass


def broken(self: Step, *args: Any) -> None:
    raise RuntimeError("no kernel")


honest_read = Step.read


@pytest.mark.parametrize("wrong", [shifted, nothing, broken])
def test_prompts_that_would_be_read_otherwise_go_through_the_model(
    folder: Path, plain: TextEngine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, wrong: Any
) -> None:
    monkeypatch.setattr(Step, "read", wrong)
    engine = load(folder)
    assert engine._decoder is not None and not engine._decoder.reads
    assert "Not reading prompts by steps" in caplog.text
    assert answer(engine, ask("hi"))[0] == answer(plain, ask("hi"))[0]
    monkeypatch.undo()
    assert load(folder)._decoder.reads, "as it is otherwise"


def refused(folder: Path, plain: TextEngine, caplog: pytest.LogCaptureFixture, cause: str) -> None:
    engine = TextEngine(folder, LoadSettings("transformers", "cpu", "float32", 512, 32, graphs=True))
    assert engine._decoder is None
    (record,) = (one for one in caplog.records if one.levelno == logging.WARNING)
    assert cause in record.getMessage() and "\n" not in record.getMessage()
    assert answer(engine, ask("hi"))[0] == answer(plain, ask("hi"))[0]


def test_rotations_that_would_change_within_the_context_are_left_to_generate(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path, window=64, rope_scaling={"type": "dynamic", "factor": 2.0})
    model, kv = load_model(folder, dtype="float32"), KVCache(128)
    with torch.inference_mode():
        model(torch.arange(3, 9)[None], past_key_values=kv.cache)
        with pytest.raises(NotLlama):
            Step(model, kv, 128)


def test_a_decoder_that_does_not_do_leaves_no_memory_behind(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the weights where it had put them; the engine's process looks for no garbage of the load's later."""
    made = []

    class Watched(Decoder):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(weakref.ref(self))

        def check(self, ids: Any) -> Any:
            raise WrongResult

    monkeypatch.setattr(graphs, "Decoder", Watched)
    model, kv = load_model(folder, dtype="float32"), KVCache(64)
    with torch.inference_mode():
        model(torch.arange(3, 9)[None], past_key_values=kv.cache)
    assert best_decoder(model, kv, 64, False, [3, 4, 5], lambda forward: None) is None
    assert len(made) == 1 and made[0]() is None

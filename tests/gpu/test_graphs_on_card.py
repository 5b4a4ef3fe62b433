"""Decoding by captured CUDA graphs on a real card, in Triton's kernels and in torch's own. Run with: -m gpu -s

The tiny checkpoints in float32 must answer as `generate` does, token for token; the full-size one in bfloat16 must have
its logits but for rounding, and hold what was planned. SHUSHENG_TEST_MODELS names a folder that keeps the checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines import graphs
from engines.base import GenerationSettings, Message, Usage
from engines.checkpoints import load_model
from engines.errors import Cancelled
from engines.memory import MIB, LoadSettings
from engines.step import FusedStep, Step
from engines.text import TextEngine
from tests.asking import answers, ask
from tests.checkpoints import make_internlm2, make_llama
from tests.gpu.card import card_with, row, running
from tests.gpu.checkpoint import make

pytestmark = pytest.mark.gpu
MODEL = "internlm2-chat-1_8b"
GREEDY = GenerationSettings(max_new_tokens=90, temperature=0.0)
SAMPLED = GenerationSettings(max_new_tokens=60, temperature=1.0, top_p=0.9, repetition_penalty=1.1, seed=11)
answer = answers(GREEDY)
BORDER = 1024


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("SHUSHENG_TEST_MODELS")
    root = Path(kept) if kept else tmp_path_factory.mktemp("models")
    if not (root / MODEL / "config.json").exists():
        make(root / MODEL)
    return root


@pytest.fixture(params=[FusedStep, Step])
def step(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Step]:
    """The way that engines decode in this test: it is tried twice, and nothing else is."""
    monkeypatch.setattr(graphs, "FusedStep", request.param)
    monkeypatch.setattr(graphs, "Step", request.param)
    return request.param


def load(folder: Path, graphs: bool = True, dtype: Any = "float32", context: int = 512, **more: Any) -> TextEngine:
    engine = TextEngine(folder, LoadSettings("transformers", "cuda", dtype, context, 512, graphs=graphs), **more)
    assert (engine._decoder is not None) == graphs, "see the warning above"
    return engine


@pytest.mark.parametrize("tiny", [make_internlm2, make_llama])
def test_greedy_answers_are_what_generate_says(tmp_path: Path, step: type[Step], tiny: Any) -> None:
    folder = tiny(tmp_path)
    ours, theirs = load(folder), load(folder, graphs=False)
    assert type(ours._decoder._step) is step
    turns: list[str] = []
    for question in ("What is the capital of France?", "再说一遍", "and then? " * 9):
        turns.append(question)
        got, wanted = answer(ours, ask(*turns)), answer(theirs, ask(*turns))
        assert got[0] == wanted[0] and got[1].cached_tokens == wanted[1].cached_tokens
        turns.append(got[0])


def test_the_seed_decides(tmp_path: Path, step: type[Step]) -> None:
    engine = load(make_internlm2(tmp_path))
    first, again = answer(engine, ask("tell"), SAMPLED)[0], answer(engine, ask("tell"), SAMPLED)[0]
    assert first == again != answer(engine, ask("tell"), replace(SAMPLED, seed=12))[0]
    assert len({answer(engine, ask("tell"), replace(SAMPLED, seed=None))[0] for _ in range(4)}) > 1


def test_draws_are_what_the_settings_leave(tmp_path: Path, step: type[Step]) -> None:
    """Settings change between replays of one graph: with one candidate left, sampled answers are greedy ones."""
    engine = load(make_internlm2(tmp_path))
    for penalty in (1.0, 1.3):
        greedy = answer(engine, ask("tell"), replace(GREEDY, repetition_penalty=penalty))[0]
        for one in ({"top_k": 1, "top_p": 1.0}, {"top_k": 0, "top_p": 0.01}):
            some = GenerationSettings(max_new_tokens=90, temperature=0.5, repetition_penalty=penalty, seed=3, **one)
            assert answer(engine, ask("tell"), some)[0] == greedy


@pytest.mark.parametrize("heard", [1, 40])
def test_cancel_ends_it_within_one_token_and_leaves_the_cache_sound(
    tmp_path: Path, step: type[Step], heard: int
) -> None:
    folder = make_internlm2(tmp_path)
    engine, theirs, calls = load(folder), load(folder, graphs=False), 0

    def emit(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls > 2 + heard:  # the first two calls are the prefill's
            raise Cancelled

    usage = engine.generate(ask("go on"), replace(GREEDY, max_new_tokens=200), emit)
    assert usage.reason == "cancelled" and usage.new_tokens == heard + 1
    for more in (ask("go on"), ask("go on", "so", "and on")):
        assert answer(engine, more)[0] == answer(theirs, more)[0]


def test_the_whole_context_can_be_filled(tmp_path: Path, step: type[Step]) -> None:
    folder = make_internlm2(tmp_path, window=4096)
    ours, theirs = load(folder, context=BORDER + 70), load(folder, graphs=False, context=BORDER + 70)
    some = ask("word " * 265)
    got, wanted = (
        answer(ours, some, replace(GREEDY, max_new_tokens=1000)),
        answer(theirs, some, replace(GREEDY, max_new_tokens=1000)),
    )
    assert got[0] == wanted[0] and got[1].prompt_tokens + got[1].new_tokens == BORDER + 70


def test_logits_of_the_full_size_are_as_near_to_the_truth_as_the_models(models: Path, step: type[Step]) -> None:
    """Both round to bfloat16 on the way; what they would be without that, float32 says."""
    import torch

    engine = load(models / MODEL, dtype="bfloat16", context=2048)
    model, kv, decoder = engine._model, engine._kv, engine._decoder
    assert decoder is not None and decoder.reads, "see the warning above"
    ids = torch.randint(300, 90000, (1, BORDER + 8), generator=torch.Generator().manual_seed(1)).cuda()
    places = [begin + n for begin in (0, 200, BORDER - 8) for n in range(16)]
    truth = load_model(models / MODEL, dtype="float32", device="cuda")
    with torch.inference_mode():
        exact = truth(ids).logits[0, places]
        del truth
        kv.cut(0)
        plain = torch.cat([
            model(ids[:, n : n + 1], past_key_values=kv.cache).logits[0].float() for n in range(BORDER + 8)
        ])[places]  # fmt: skip
        ours = []
        for at in places:
            decoder._start(int(ids[0, at]), at)
            next(run for size, run in reversed(decoder._buckets.items()) if size > at)()
            ours.append(decoder._logits.float().clone())
    apart = [float(((one - exact).norm(dim=-1) / exact.norm(dim=-1)).max()) for one in (torch.stack(ours), plain)]
    row(step.__name__, "distance of logits from float32's, of their size", f"{apart[0]:.4f}",
        "the model's own forward's", f"{apart[1]:.4f}")  # fmt: skip
    assert apart[0] < 1.1 * apart[1]
    engine.close()
    del engine, model, kv, decoder
    torch.cuda.empty_cache()


@pytest.fixture
def room() -> Iterator[None]:
    with card_with(8.0):
        yield


def test_what_is_held_is_what_was_planned(models: Path, tmp_path: Path, room: None) -> None:
    with running(models, tmp_path) as (library, runner):
        plan = library.plan(MODEL)
        assert plan.settings.graphs
        runner.load(MODEL).result()
        messages = [Message.of("system", "."), Message.of("user", "a" * (plan.settings.context - 700))]
        rates = []
        for number in range(3):
            job = runner.submit(MODEL, messages, GenerationSettings(500, seed=number))
            usage = job.result()
            assert isinstance(usage, Usage)
            rates.append(usage.tokens_per_second)
            messages[1] = Message.of("user", "b" * 200)
        held, need = runner.status().engaged[0].memory, plan.need.total
        row("planned, held (MiB)", need // MIB, held // MIB, f"{held / need:.3f}", "tokens/s after a full prompt, 200",
            *(f"{one:.0f}" for one in rates))  # fmt: skip
        assert 0.9 * need <= held <= need

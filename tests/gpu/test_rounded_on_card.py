"""InternLM2-Chat-1.8B with 4-bit weights on a real card, alone and beside InternVL2-2B-AWQ. Run with: -m gpu -s

SHUSHENG_TEST_MODELS names a folder that keeps the checkpoints between runs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import text
from engines.base import GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.memory import MIB, LoadSettings
from engines.runner import Runner
from engines.step import FusedStep
from engines.text import TextEngine
from tests.asking import answers, ask
from tests.checkpoints import make_internlm2, make_llama
from tests.gpu import checkpoint, vision_checkpoint
from tests.gpu.card import card_with, row, running

pytestmark = pytest.mark.gpu
TEXT, IMAGES = "internlm2-chat-1_8b", "internvl2-2b-awq"
answer = answers(GenerationSettings(max_new_tokens=90, temperature=0.0))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("SHUSHENG_TEST_MODELS")
    root = Path(kept) if kept else tmp_path_factory.mktemp("models")
    if not (root / TEXT / "config.json").exists():
        checkpoint.make(root / TEXT)
    if not (root / IMAGES / "config.json").exists():
        vision_checkpoint.make_awq(vision_checkpoint.make(root / "internvl2-2b"), root / IMAGES)
    return root


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("make", [make_internlm2, make_llama])
def test_tokens_are_those_of_generate_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], Path], bits: int, graphs: bool
) -> None:
    folder = make(tmp_path)
    settings = LoadSettings("transformers", "cuda", "float32", 512, 512, weight_bits=bits, graphs=graphs)
    ours = TextEngine(folder, settings)
    monkeypatch.setattr(text, "best_decoder", lambda *args: None)
    theirs = TextEngine(folder, settings)
    assert ours._decoder is not None and type(ours._decoder._step) is FusedStep, "see the warning above"
    for turns in (["What is the capital of France?"], ["and then? " * 9]):
        assert answer(ours, ask(*turns))[0] == answer(theirs, ask(*turns))[0]


@pytest.mark.parametrize("free", [24.0, 4.5, 4.0, 3.5, 3.0, 2.8])
def test_what_is_held_is_what_was_planned(models: Path, tmp_path: Path, free: float) -> None:
    with card_with(free), running(models, tmp_path, weights="quantized") as (library, runner):
        plan = library.plan(TEXT)
        assert plan.settings.weight_bits == 4
        runner.load(TEXT).result()
        long = Message.of("user", "a" * (plan.settings.context - 700))
        rates = [spoken(runner, long, seed).tokens_per_second for seed in range(2)]
        held, need = runner.status().engaged[0].memory, plan.need.total
        row(f"{free} GiB", plan.settings.context, plan.settings.graphs, need // MIB, held // MIB,
            f"{held / need:.3f}", *(f"{one:.0f} tokens/s" for one in rates))  # fmt: skip
        assert 0.9 * need <= held <= need


@pytest.mark.parametrize("first", [TEXT, IMAGES])
def test_both_models_stay_on_a_card_of_8_gib(models: Path, tmp_path: Path, first: str) -> None:
    """Loaded whole, the text model goes once for the other; from then on both answer in turn, and both stay."""
    with card_with(7.8), running(models, tmp_path) as (_, runner):
        runner.load(first).result()
        for _ in range(2):
            seen(runner, tmp_path)
            spoken(runner, Message.of("user", "hello"), 0)
        engaged = {one.model: one.memory for one in runner.status().engaged}
        assert engaged.keys() == {TEXT, IMAGES}
        before = [one.pid for one in runner.status().engaged]
        rates = []
        for seed in range(5):
            rates.append((seen(runner, tmp_path).tokens_per_second, spoken(runner, Message.of("user", "hi"), seed)))
        assert [one.pid for one in runner.status().engaged] == before, "nothing was loaded anew"
        row(f"{first} first", *(f"{model}: {held // MIB} MiB" for model, held in engaged.items()),
            f"{rates[-1][1].tokens_per_second:.0f} and {rates[-1][0]:.0f} tokens/s")  # fmt: skip


def spoken(runner: Runner, message: Message, seed: int) -> Usage:
    usage = runner.submit(TEXT, [message], GenerationSettings(200, seed=seed)).result()
    assert isinstance(usage, Usage)
    return usage


def seen(runner: Runner, folder: Path) -> Usage:
    from PIL import Image

    path = folder / "one.jpg"
    Image.radial_gradient("L").resize((1792, 1344)).convert("RGB").save(path)
    question = Message("user", (ImagePart("one.jpg", path, 1792, 1344), TextPart("What is this?")))
    usage = runner.submit(IMAGES, [question], GenerationSettings(100)).result()
    assert isinstance(usage, Usage)
    return usage

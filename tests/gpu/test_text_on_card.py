"""InternLM2-Chat-1.8B at its full size on a real card whose free memory is that of a small one. Run with: -m gpu -s

Plan, load, fill the planned context, and compare what was planned with what was held. The table it prints last goes
into docs/gpu-verification.md.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.base import GenerationSettings, Message, Usage
from engines.errors import EngineDied
from engines.job import Delta, Job
from engines.memory import GIB, MIB
from engines.probe import device_memory
from engines.runner import Runner
from tests.gpu.card import card_with, freed, row, running
from tests.gpu.checkpoint import make

pytestmark = pytest.mark.gpu
MODEL = "internlm2-chat-1_8b"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("models")
    make(root / MODEL)
    yield root


def ask(runner: Runner, tokens: int, new: int = 64, turns: list[str] | None = None) -> Job:
    """Asks with a prompt of about `tokens` tokens: a letter is one."""
    texts = [*(turns or []), "a" * tokens]
    messages = [Message.of("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)]
    # In this tokenizer the model's own system prompt has a token for each byte.
    messages.insert(0, Message.of("system", "."))
    return runner.submit(MODEL, messages, GenerationSettings(max_new_tokens=new, temperature=0.8, top_p=0.8, seed=1))


def usage_of(job: Job) -> Usage:
    usage = job.result()
    assert isinstance(usage, Usage)
    return usage


@pytest.mark.parametrize("free", [24.0, 5.0, 8.0, 6.0, 4.7])
def test_what_is_planned_fits_and_is_what_is_held(models: Path, tmp_path: Path, free: float) -> None:
    with card_with(free), running(models, tmp_path) as (library, runner):
        device = device_memory()
        plan = library.plan(MODEL)
        assert plan.verdict == "load" and plan.settings.device == "cuda"
        context = plan.settings.context
        began = time.monotonic()
        runner.load(MODEL).result()
        loaded = time.monotonic() - began
        at_load = runner.status().engaged[0].memory
        full = usage_of(ask(runner, context - 120, new=80))
        short = usage_of(ask(runner, 200, new=100))
        held, need = runner.status().engaged[0].memory, plan.need.total
        row(
            free, f"{device.free / GIB:.2f}", plan.verdict, context, need // MIB, at_load // MIB, held // MIB,
            f"{held / need:.3f}", f"{loaded:.1f}", f"{full.prompt_tokens} in {full.first_token_s:.2f} s",
            f"{short.tokens_per_second:.0f}",
        )  # fmt: skip
        assert full.prompt_tokens + full.new_tokens >= context - 40
        assert 0.9 * need <= held <= need, "planned and held differ by more than a tenth, or the plan was too small"


@pytest.mark.parametrize("free", [4.2, 3.0])
def test_what_does_not_fit_is_refused(models: Path, tmp_path: Path, free: float) -> None:
    with card_with(free), running(models, tmp_path) as (library, _):
        plan = library.plan(MODEL)
        row(free, f"{device_memory().free / GIB:.2f}", plan.verdict, "-", plan.need.total // MIB)
        assert plan.verdict == "refuse"


def test_memory_comes_back_after_a_kill_and_after_an_unload(models: Path, tmp_path: Path) -> None:
    start = device_memory().free
    with running(models, tmp_path) as (_, runner):
        job = ask(runner, 500, new=4000)
        next(event for event in job if isinstance(event, Delta))
        os.kill(runner.status().engaged[0].pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            job.result()
        assert freed(start), "after a kill"
        usage_of(ask(runner, 100))
        runner.unload(MODEL).result()
        assert freed(start), "after an unload"


def test_stop_at_random_moments(models: Path, tmp_path: Path) -> None:
    dice = random.Random(5)
    with running(models, tmp_path) as (_, runner):
        normal = usage_of(ask(runner, 300)).first_token_s
        later: list[float] = []
        for _ in range(20):
            job = ask(runner, 6000, new=2000)
            time.sleep(dice.uniform(0.0, 1.5))
            stopped = time.monotonic()
            job.cancel()
            assert usage_of(job).reason == "cancelled"
            usage_of(ask(runner, 300, new=1))
            later.append(time.monotonic() - stopped)
        row("first token normally", f"{normal:.3f} s", "from Stop to the next question's, 20 times: median",
            f"{sorted(later)[10]:.3f} s", "worst", f"{max(later):.3f} s")  # fmt: skip
        assert max(later) < normal + 0.5


def test_the_first_token_does_not_wait_for_the_history(models: Path, tmp_path: Path) -> None:
    with running(models, tmp_path) as (_, runner):
        turns: list[str] = []
        times: list[float] = []
        for _ in range(12):
            job = ask(runner, 300, new=20, turns=turns)
            usage = usage_of(job)
            times.append(usage.first_token_s)
            turns += ["a" * 300, job.text]
        row("first token at turns 2, 6, 12", *(f"{times[n]:.3f} s" for n in (1, 5, 11)),
            f"{usage.cached_tokens} of {usage.prompt_tokens} prompt tokens from the KV cache")  # fmt: skip
        assert usage.cached_tokens > 0.4 * usage.prompt_tokens

"""InternVL2-2B at its full size on a real card whose free memory is that of a small one. Run with: -m gpu -s

What the guard accepts must run, with the peak that was planned; what it refuses is forced once. Rows go into
docs/gpu-verification.md. SHUSHENG_TEST_MODELS names a folder that keeps the checkpoints between runs.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engines.base import GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.errors import AppError, EngineDied
from engines.job import Delta, Job
from engines.library import Library
from engines.memory import MIB, MemoryPlan
from engines.probe import free_memory
from engines.runner import Runner
from engines.worker import Worker
from tests.gpu.card import Ballast, freed, row, running
from tests.gpu.vision_checkpoint import make, make_awq

pytestmark = pytest.mark.gpu
BF16, AWQ = "internvl2-2b", "internvl2-2b-awq"
FREE = (8.0, 6.0, 5.0, 4.0, 7.0, 24.0, 7.5, 12.0)
SIZES = ((448, 448), (1792, 1344), (4000, 3000))
PRELOAD = """import os
os.environ["PYTHONPATH"] = {path!r}  # what the worker starts itself is not to import all this, too
import torch, torchvision, {module}
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    kept = os.environ.get("SHUSHENG_TEST_MODELS")
    root = Path(kept) if kept else tmp_path_factory.mktemp("models")
    if not (root / AWQ / "config.json").exists():
        make_awq(make(root / BF16), root / AWQ)
    return root


@pytest.fixture(scope="module")
def ballast() -> Iterator[Ballast]:
    one = Ballast()
    yield one
    one.close()


class Starter:
    """Makes workers whose libraries are being imported while the one before is at work: it saves a card's time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ready: dict[str, Worker] = {}

    def prepare(self, backend: str) -> None:
        site = self._folder / backend
        site.mkdir(exist_ok=True)
        # Not lmdeploy.pytorch: when it is imported it reads what engines.vision has yet to say.
        module = "lmdeploy.turbomind" if backend == "turbomind" else "transformers"
        path = os.environ.get("PYTHONPATH", "")
        (site / "sitecustomize.py").write_text(PRELOAD.format(module=module, path=path))
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{site}:{path}")
            if backend == "turbomind":
                patch.setenv("PYTORCH_NO_CUDA_MEMORY_CACHING", "1")
            self._ready[backend] = Worker(self._folder / "engine.log")

    def __call__(self, backend: str) -> Worker:
        if backend not in self._ready:
            self.prepare(backend)
        worker = self._ready.pop(backend)
        self.prepare(backend)
        return worker

    def close(self) -> None:
        for worker in self._ready.values():
            worker.kill()
        lines = (self._folder / "engine.log").read_text(errors="replace").replace("\r", "\n").splitlines()
        print("\n".join(line for line in lines if line.strip() and "Loading" not in line)[-6000:])


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    one = Starter(tmp_path_factory.mktemp("started"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gallery")


def picture(gallery: Path, width: int, height: int) -> ImagePart:
    from PIL import Image

    path = gallery / f"{width}x{height}.jpg"
    if not path.exists():
        Image.radial_gradient("L").resize((width, height)).convert("RGB").save(path)
    return ImagePart(path.name, path, width, height)


def ask(runner: Runner, model: str, *parts: ImagePart | str, new: int = 24, before: tuple[Message, ...] = ()) -> Job:
    message = Message("user", tuple(TextPart(one) if isinstance(one, str) else one for one in parts))
    return runner.submit(model, [*before, message], GenerationSettings(max_new_tokens=new, temperature=0))


def usage_of(job: Job) -> Usage:
    usage = job.result()
    assert isinstance(usage, Usage)
    return usage


def held(runner: Runner) -> int:
    return runner.status().engaged[0].memory


@pytest.mark.parametrize("free", FREE)
@pytest.mark.parametrize("model", [BF16, AWQ])
@pytest.mark.parametrize("backend", ["turbomind", "pytorch"])
def test_matrix(
    models: Path, gallery: Path, tmp_path: Path, ballast: Ballast, starter: Starter,
    backend: str, model: str, free: float,
) -> None:  # fmt: skip
    """One cell: plan, load, three images and a follow-up; a refused one is forced once."""
    ballast.leave(free)
    deadline = 120 if free == FREE[0] else 45  # the PyTorch engine compiles its kernels in its first load
    with running(models, tmp_path, lambda log: starter(backend), deadline, backend=backend) as (library, runner):
        plan = library.plan(model)
        config = library.config
        auto = Library(replace(config, memory=replace(config.memory, backend="auto")), library.catalogue).plan(model)
        cell = [free, model, backend, plan.verdict, f"auto: {auto.verdict} {auto.settings.backend}"]
        if plan.verdict == "refuse":
            plan = library.plan(model, force=True)
            cell[3] = "refuse, forced"
        cell += [f"{plan.settings.context}/{plan.settings.max_tiles}/{plan.settings.kv_bits}", plan.need.total // MIB]
        try:
            outcome = carried_out(runner, gallery, model, plan)
        except AppError as error:
            row(*cell, "-", "-", f"{type(error).__name__} {error.facts.get('signal', '')}")
            assert cell[3] == "refuse, forced", f"the guard accepted what then failed: {error}"
            return
        row(*cell, *outcome)
        if cell[3] == "load":
            assert 0.9 * plan.need.total <= held(runner) <= 1.02 * plan.need.total


def carried_out(runner: Runner, gallery: Path, model: str, plan: MemoryPlan) -> list[object]:
    began = time.monotonic()
    runner.load(model, force=plan.forced or plan.verdict == "refuse").result()
    seconds = time.monotonic() - began
    usages = [usage_of(ask(runner, model, picture(gallery, *size), "describe")) for size in SIZES]
    before = (Message("user", (picture(gallery, *SIZES[1]), TextPart("describe"))), Message.of("assistant", "a ring"))
    usages.append(usage_of(ask(runner, model, "and its colour?", before=before)))
    assert all(one.reason in ("stop", "length") for one in usages)
    share = held(runner) / plan.need.total
    prompts = "/".join(str(one.prompt_tokens) for one in usages)
    speed = statistics.median(one.tokens_per_second for one in usages)
    return [held(runner) // MIB, f"{share:.3f}", f"ok, {seconds:.0f} s, prompts {prompts}, {speed:.0f} tok/s"]


def test_two_hundred_images(models: Path, gallery: Path, tmp_path: Path, ballast: Ballast, starter: Starter) -> None:
    """In one load: every answer arrives, memory is flat, and no other process is touched."""
    dice = random.Random(1)
    ballast.leave(8.0)
    sizes = [(dice.randrange(60, 3000), dice.randrange(60, 3000)) for _ in range(40)]
    with running(models, tmp_path, lambda log: starter("turbomind"), backend="turbomind") as (_, runner):
        runner.load(BF16).result()
        pid, firsts, free = runner.status().engaged[0].pid, [], []
        for number in range(200):
            usage = usage_of(ask(runner, BF16, picture(gallery, *sizes[number % 40]), f"question {number}", new=8))
            assert usage.new_tokens > 0 and usage.reason in ("stop", "length")
            firsts.append(usage.first_token_s)
            free.append(free_memory())
        for number in range(20):
            turns: tuple[Message, ...] = ()
            for turn in range(3):
                shown = (picture(gallery, *sizes[number]),) if turn == 0 else ()
                usage = usage_of(ask(runner, BF16, *shown, f"turn {turn}", new=8, before=turns))
                asked = Message("user", (*shown, TextPart(f"turn {turn}")))
                turns = (*turns, asked, Message.of("assistant", "yes"))
                assert usage.new_tokens > 0
            free.append(free_memory())
        row("200 images, 20 conversations", f"free after image 20 {free[20] // MIB}, after all {free[-1] // MIB} MiB",
            f"first token median {statistics.median(firsts):.3f} s, worst {max(firsts):.3f} s")  # fmt: skip
        assert runner.status().engaged[0].pid == pid
        assert abs(free[-1] - free[20]) <= 16 * MIB


def test_stop_at_random_moments(
    models: Path, gallery: Path, tmp_path: Path, ballast: Ballast, starter: Starter
) -> None:
    dice = random.Random(3)
    ballast.leave(8.0)
    image = picture(gallery, 1792, 1344)
    with running(models, tmp_path, lambda log: starter("turbomind"), backend="turbomind") as (_, runner):
        normal = statistics.median(usage_of(ask(runner, BF16, image, "why", new=1)).first_token_s for _ in range(5))
        later: list[float] = []
        for number in range(20):
            job = ask(runner, BF16, image, f"why {number}", new=4000)
            time.sleep(dice.choice([0.0, 0.01, 0.03, 0.06, dice.uniform(0.1, 1.0)]))
            stopped = time.monotonic()
            job.cancel()
            assert usage_of(job).reason == "cancelled"
            usage_of(ask(runner, BF16, image, "why", new=1))
            later.append(time.monotonic() - stopped)
        row("first token normally", f"{normal:.3f} s", "from Stop to the next question's, 20 times: median",
            f"{statistics.median(later):.3f} s", "worst", f"{max(later):.3f} s")  # fmt: skip
        assert max(later) < normal + 0.5


@pytest.mark.parametrize(("model", "backend"), [(BF16, "turbomind"), (AWQ, "turbomind"), (AWQ, "pytorch")])
def test_four_at_once(
    models: Path, gallery: Path, tmp_path: Path, ballast: Ballast, starter: Starter, model: str, backend: str
) -> None:
    """Each ends as it does alone, and together they hold what was planned; a stop ends its own alone."""
    ballast.leave(24.0)
    shown = [picture(gallery, *size) for size in (*SIZES, (900, 2000))]
    with running(models, tmp_path, lambda log: starter(backend), backend=backend) as (library, runner):
        plan, free = library.plan(model), free_memory()
        assert plan.settings.max_batch == len(shown)
        runner.load(model).result()

        def asked(image: ImagePart, system: str) -> Job:
            return ask(runner, model, image, "describe", new=300, before=(Message.of("system", system),))

        # Behind another system prompt nothing is in the KV cache yet: both rounds look at every image.
        began = time.monotonic()
        alone = [usage_of(asked(image, "one by one")) for image in shown]
        between, most = time.monotonic(), 0
        jobs = [asked(image, "together") for image in shown]
        while not all(job.ended for job in jobs):
            most = max(most, runner.status().running)
            time.sleep(0.002)
        together, ended = [usage_of(job) for job in jobs], time.monotonic()
        same = [usage_of(job) for job in [asked(image, "one by one") for image in shown]]
        stopped, *others = [asked(image, "with a stop") for image in shown]
        next(event for event in stopped if isinstance(event, Delta))
        stopped.cancel()
        rest = [usage_of(job) for job in others]
        took = max(held(runner), free - free_memory())
        speeds = (sum(one.new_tokens for one in alone) / (between - began),
                  sum(one.new_tokens for one in together) / (ended - between))  # fmt: skip
        row(24.0, model, backend, f"{len(shown)} at once", plan.need.total // MIB, took // MIB,
            f"{took / plan.need.total:.3f}", f"tokens/s one by one {speeds[0]:.0f}, together {speeds[1]:.0f}",
            f"last first token alone {max(one.first_token_s for one in alone):.2f} s, "
            f"together {max(one.first_token_s for one in together):.2f} s")  # fmt: skip
        assert most == len(shown)
        assert [(one.new_tokens, one.reason) for one in same] == [(one.new_tokens, one.reason) for one in alone]
        assert usage_of(stopped).reason == "cancelled"
        assert all(one.reason in ("stop", "length") for one in (*together, *rest))
        assert 0.9 * plan.need.total <= took <= 1.02 * plan.need.total


def test_memory_comes_back(models: Path, gallery: Path, tmp_path: Path, ballast: Ballast, starter: Starter) -> None:
    ballast.leave(8.0)
    image = picture(gallery, 448, 448)
    with running(models, tmp_path, lambda log: starter("turbomind"), backend="turbomind") as (_, runner):
        start = free_memory()
        job = ask(runner, AWQ, image, "tell", new=4000)
        next(event for event in job if isinstance(event, Delta))
        os.kill(runner.status().engaged[0].pid, signal.SIGKILL)
        with pytest.raises(EngineDied):
            job.result()
        assert freed(start), "after a kill"
        usage_of(ask(runner, AWQ, image, "again"))
        runner.unload(AWQ).result()
        assert freed(start), "after an unload"
        row("kill, reload, unload", f"free before {start // MIB}, after {free_memory() // MIB} MiB")


def test_beside_the_bare_pipeline(models: Path, gallery: Path, tmp_path: Path, ballast: Ballast) -> None:
    """Our engine and pipeline.stream_infer on the same pipeline, by turns; in this process, last of all."""
    from PIL import Image

    from engines.vision import LMDeployEngine

    ballast.leave(24.0)
    with running(models, tmp_path, backend="turbomind") as (library, _):
        plan = library.plan(BF16)
    engine = LMDeployEngine(models / BF16, plan.settings)
    pipe, config = engine._pipe, engine._lmdeploy.GenerationConfig(max_new_tokens=400, ignore_eos=True)
    ours: list[tuple[float, float]] = []
    bare: list[tuple[float, float]] = []

    def ask_ours(image: ImagePart) -> None:
        usage = engine.generate(
            [Message("user", (image, TextPart("tell me")))],
            GenerationSettings(max_new_tokens=400, temperature=0),
            lambda text: None,
        )
        ours.append((usage.tokens_per_second, usage.first_token_s))

    def ask_bare(image: ImagePart) -> None:
        first, count, began = 0.0, 0, time.monotonic()
        for piece in pipe.stream_infer((Image.open(image.path), "tell me"), gen_config=config):
            first = first or time.monotonic() - began
            count = max(count, piece.generate_token_len)
        bare.append(((count - 1) / (time.monotonic() - began - first), first))

    for number in range(10):
        # No image twice: the cache has room for one conversation, and would keep now the one's, now the other's.
        asked = [ask_ours, ask_bare] if number % 2 else [ask_bare, ask_ours]
        for turn, asking in enumerate(asked):
            asking(picture(gallery, 1792, 1320 + 2 * number + turn))
    speed, wait = (statistics.median(one[n] for one in ours[1:]) for n in (0, 1))
    their_speed, their_wait = (statistics.median(one[n] for one in bare[1:]) for n in (0, 1))
    row("tokens/s ours : bare", f"{speed:.0f} : {their_speed:.0f} = {speed / their_speed:.3f}",
        "first token ours : bare", f"{wait:.3f} : {their_wait:.3f} s = {wait / their_wait:.3f}")  # fmt: skip
    engine.close()
    assert speed >= 0.97 * their_speed

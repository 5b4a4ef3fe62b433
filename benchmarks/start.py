"""From `python launch.py` to the page, and to the first token of the embedded model, beside an empty Gradio page.

The page answers when a request for it gets a 200. The question is asked over HTTP at that moment. Each start has a data
folder of its own with the model in it; files that Python compiles are there already, as from a second start on.
Usage: python -m benchmarks.start [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

import psutil

from benchmarks.embedded import machine, median
from configs.load import load_config
from tools.served import ROOT, free_port

EMPTY = """
import sys
import gradio
with gradio.Blocks() as page:
    pass
page.launch(server_port=int(sys.argv[1]), quiet=True)
"""
QUESTION = "What is a lighthouse?"
TOKENS = 32
PATIENCE = 120.0
MIB = 2**20
Measured = dict[str, float]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    model = load_config({}, {}).models.model
    subprocess.run([sys.executable, "launch.py", "models", "get", model], cwd=ROOT, check=True, stdout=sys.stderr)
    with tempfile.TemporaryDirectory() as compiled:
        environ = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environ |= {"PYTHONPYCACHEPREFIX": compiled, "GRADIO_ANALYTICS_ENABLED": "False", "LANG": "C.UTF-8"}
        app(model, environ), empty(environ)
        ours: list[Measured] = []
        peer: list[Measured] = []
        for number in range(given.rounds):
            print(f"round {number + 1} of {given.rounds} …", file=sys.stderr)
            ours.append(app(model, environ))
            peer.append(empty(environ))
    print(report(median(ours), median(peer), given.rounds))


def report(ours: Measured, peer: Measured, rounds: int) -> str:
    rows = [
        f"| {title} | {ours[name] / peer[name]:.2f} | {form.format(ours[name])} | {form.format(peer[name])} |"
        for name, title, form in (
            ("page", "start to page", "{:.2f} s"),
            ("cpu", "CPU of its own process until then", "{:.2f} s"),
            ("memory", "memory of its own process then", "{:.0f} MiB"),
        )
    ]
    return "\n".join(
        [
            f"{machine()} · medians of {rounds} interleaved rounds",
            "",
            "| | ours : empty | ours | an empty Gradio page |",
            "|---|---|---|---|",
            *rows,
            f"| start to the first token of the embedded model | | {ours['token']:.2f} s | |",
            f"| memory of its own process after that answer | | {ours['after']:.0f} MiB | |",
        ]
    )


def app(model: str, environ: dict[str, str]) -> Measured:
    """The app in a fresh data folder, asked one question as soon as its page is there."""
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        shutil.copytree(ROOT / "data" / "models" / model, data / "models" / model, copy_function=linked)
        port = free_port()
        command = ["launch.py", "--port", str(port), "--no-browser", "--data", folder]
        with started(command, environ) as (process, began):
            measured = page(process, port, began)
            measured["token"] = first_token(port, model, began)
            measured["after"] = process.memory_info().rss / MIB
    return measured


def empty(environ: dict[str, str]) -> Measured:
    port = free_port()
    with started(["-c", EMPTY, str(port)], environ) as (process, began):
        return page(process, port, began)


@contextlib.contextmanager
def started(command: list[str], environ: dict[str, str]) -> Iterator[tuple[psutil.Process, float]]:
    """A program of this Python, and when it was started; it is ended at the end."""
    began = time.monotonic()
    process = psutil.Popen(
        [sys.executable, *command], cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield process, began
    finally:
        process.terminate()
        process.wait(PATIENCE)


def page(process: psutil.Process, port: int, began: float) -> Measured:
    while True:
        with contextlib.suppress(OSError):
            if answered(port, "GET", "/").status == 200:
                break
        assert process.is_running() and time.monotonic() - began < PATIENCE, "it did not start"
        time.sleep(0.01)
    seconds, times = time.monotonic() - began, process.cpu_times()
    return {"page": seconds, "cpu": times.user + times.system, "memory": process.memory_info().rss / MIB}


def first_token(port: int, model: str, began: float) -> float:
    """Seconds from the start to the first word of an answer, which is read to its end."""
    asked = {"model": model, "stream": True, "max_tokens": TOKENS, "messages": [{"role": "user", "content": QUESTION}]}
    first = 0.0
    for line in answered(port, "POST", "/v1/chat/completions", json.dumps(asked)):
        if line.startswith(b"data: {"):
            choices = json.loads(line.removeprefix(b"data: "))["choices"]
            if not first and choices and choices[0]["delta"].get("content"):
                first = time.monotonic() - began
    assert first, "it did not answer"
    return first


def answered(port: int, method: str, path: str, body: str | None = None) -> HTTPResponse:
    connection = HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, body, {"Content-Type": "application/json"} if body else {})
    return connection.getresponse()


def linked(source: str, target: str) -> None:
    """The same file under another name, or a copy of it where that cannot be; either is as old as it was."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


if __name__ == "__main__":
    main()

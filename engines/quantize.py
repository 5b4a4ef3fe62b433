"""A checkpoint's quantized weights for a CPU: made once, in a process of their own, and kept beside the models."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from engines import child
from engines.checkpoints.onnx_graph import write_graph
from engines.checkpoints.safe import CONFIG, weight_files
from engines.errors import DiskFull, DownloadFailed, EngineFailed

FORMAT = 1
"""Counts the ways in which write_graph has written: what an older one left is made anew."""


def quantized(
    folder: Path,
    home: Path,
    bits: int,
    making: Callable[[], None] = lambda: None,
    tick: Callable[[], None] = lambda: None,
) -> Path:
    """The folder in `home` with a checkpoint's graph and weights, made now if it is not there: all of it or nothing.

    `making` is called when that begins, and `tick` ten times a second, whose exception ends it. What was made of other
    files is deleted. Raises what write_graph does, DiskFull, or EngineFailed(kind, stage).
    """
    target = home / _fingerprint(folder, bits)
    if target.exists():
        return target
    making()
    home.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if not target.exists():
            _make(folder, target, bits, tick)
    return target


def _fingerprint(folder: Path, bits: int) -> str:
    parts = [f"{FORMAT} {bits}", (folder / CONFIG).read_text(encoding="utf-8")]
    for file in weight_files(folder):
        stat = file.stat()
        parts.append(f"{file.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _make(folder: Path, target: Path, bits: int, tick: Callable[[], None]) -> None:
    home = target.parent
    for older in home.iterdir():
        shutil.rmtree(older, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=".making-") as scratch:
        made = Path(scratch) / target.name
        made.mkdir()
        try:
            child.run("local", Path(scratch), tick, write_graph, folder, made, bits)
        except DownloadFailed as failure:  # what child.py calls any failure without a name of ours
            raise EngineFailed(kind=str(failure.facts["detail"]), stage="quantizing") from None
        except DiskFull:
            needed = sum(file.stat().st_size for file in weight_files(folder)) * bits // 8
            raise DiskFull(needed=needed, free=shutil.disk_usage(home).free, folder=str(home)) from None
        made.replace(target)

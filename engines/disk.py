"""What models take of the disk: whole ones, and what has come of those that were paused; and giving it back.

Knows where acquire.py keeps things; fetches and checks nothing.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from configs.schema import AppConfig, ModelSpec, SourceKind

HUB_KINDS: tuple[SourceKind, ...] = ("modelscope", "huggingface")
TOTAL = "total"
"""Beside a transfer's files: the bytes of all that it is to bring."""


@dataclass(frozen=True, slots=True)
class Partial:
    """What has come of a model. Bytes; goes on from there."""

    source: SourceKind
    done: int
    total: int


def home(config: AppConfig) -> Path:
    return config.data / "models"


def staging(config: AppConfig, model: str, kind: SourceKind) -> Path:
    """Where a source's files are fetched to, kept from one try to the next."""
    return home(config) / ".partial" / f"{model}-{kind}"


def quantized(config: AppConfig, model: str) -> Path:
    """Where what is made of a model's weights for a CPU is kept."""
    return home(config) / ".quantized" / model


def lock(config: AppConfig, model: str) -> FileLock:
    """Held by whoever changes a model's files, in any process."""
    return FileLock(home(config) / f".{model}.lock")


def partial(spec: ModelSpec, config: AppConfig) -> Partial | None:
    """The most that any hub's transfer has brought so far; None if there is nothing. PyPI's begins anew each time."""
    found = []
    for kind in HUB_KINDS:
        place = staging(config, spec.id, kind)
        if done := bytes_in(place / "files"):
            total = _total(place) or spec.download
            found.append(Partial(kind, min(done, total), total))
    return max(found, key=lambda one: one.done, default=None)


def keep_total(place: Path, total: int) -> None:
    (place / TOTAL).write_text(str(total), encoding="ascii")


def discard_partial(spec: ModelSpec, config: AppConfig) -> None:
    """Removes what has come of a model. Waits for whoever is at work on it."""
    home(config).mkdir(parents=True, exist_ok=True)
    with lock(config, spec.id):
        for kind in ("pypi", "local", *HUB_KINDS):
            shutil.rmtree(staging(config, spec.id, kind), ignore_errors=True)


def delete(spec: ModelSpec, config: AppConfig) -> None:
    """Removes a model that the app has fetched, and what has come of it; never a folder of the person's own."""
    discard_partial(spec, config)
    with lock(config, spec.id):
        shutil.rmtree(home(config) / spec.id, ignore_errors=True)
        shutil.rmtree(quantized(config, spec.id), ignore_errors=True)


def held(spec: ModelSpec, config: AppConfig) -> int:
    """Bytes of the data folder's disk that a model takes, whole or in parts."""
    parts = sum(bytes_in(staging(config, spec.id, kind)) for kind in ("pypi", "local", *HUB_KINDS))
    return bytes_in(home(config) / spec.id) + bytes_in(quantized(config, spec.id)) + parts


def free(config: AppConfig) -> int:
    """Bytes free on the data folder's disk; 0 if that cannot be known."""
    try:
        return shutil.disk_usage(config.data).free
    except OSError:
        return 0


def bytes_in(path: Path) -> int:
    """The size of a file or of everything in a folder, in bytes; what is just being moved counts as gone."""
    total = 0
    with contextlib.suppress(OSError):
        total = path.stat().st_size if path.is_file() else 0
    # Not rglob, which raises for a folder that goes away while it is being read.
    for folder, _, names in os.walk(path):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


def _total(place: Path) -> int:
    try:
        return int((place / TOTAL).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0

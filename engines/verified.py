"""What makes a model folder verified: its files' hashes, the marker that remembers them, or a person's own word.

Reads and hashes files; fetches nothing and repairs nothing. acquire.py decides what follows.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from configs.schema import AppConfig, ModelSpec, SourceKind
from engines.checkpoints.safe import CONFIG, check_folder, read_json
from engines.errors import ModelCorrupt

MARKER = ".verified"
BLOCK = 2**23  # bytes hashed between two looks at whether anybody still wants it


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a hub lists it. `size` in bytes; a hash is "" where the hub names none."""

    path: str
    size: int
    sha256: str = ""
    git: str = ""
    """SHA-1 of the file as a git blob, for files that are not in LFS."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified file, as it was when its hash was right."""

    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True, slots=True)
class Marker:
    """What `.verified` holds. `revision` is the catalogue's, `commit` what the hub made of it."""

    source: SourceKind
    name: str
    revision: str | None
    commit: str
    files: dict[str, Entry]

    @classmethod
    def read(cls, folder: Path, spec: ModelSpec) -> Marker | None:
        """The folder's marker, if it has one and the catalogue still asks for what it stands for."""
        try:
            data = json.loads((folder / MARKER).read_text(encoding="utf-8"))
            files = {path: Entry(**entry) for path, entry in data.pop("files").items()}
            marker = cls(**data, files=files)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None
        source = spec.source(marker.source)
        if source is None or (source.name, source.revision) != (marker.name, marker.revision):
            return None
        known = {path: sha256 for path, sha256 in source.files.items() if path in files}
        return marker if all(files[path].sha256 == sha256 for path, sha256 in known.items()) else None

    def write(self, folder: Path) -> None:
        fresh = folder / (MARKER + ".new")
        with fresh.open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(folder / MARKER)

    def holds(self, folder: Path) -> bool:
        """Whether every file is as it was, by size and time of change."""
        return bool(self.files) and all(_unchanged(folder / path, entry) for path, entry in self.files.items())


def _unchanged(path: Path, entry: Entry) -> bool:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime_ns)
    return False


# -- hashes --------------------------------------------------------------------------------------------------------

_digests: dict[tuple[object, ...], str] = {}  # by file and time of change: `locate` runs at every page load


def digest(
    path: Path, algorithm: Literal["sha256", "git"] = "sha256", tick: Callable[[int], None] | None = None
) -> str:
    """A file's SHA-256, or its SHA-1 as a git blob. `tick` is told the bytes hashed so far. Raises OSError."""
    stat = path.stat()
    key = (path, algorithm, stat.st_ino, stat.st_size, stat.st_mtime_ns)
    if key not in _digests:
        state = hashlib.sha256() if algorithm == "sha256" else hashlib.sha1(b"blob %d\0" % stat.st_size)  # noqa: S324
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                state.update(block)
                if tick:
                    tick(file.tell())
        _digests[key] = state.hexdigest()
    return _digests[key]


def verify(path: Path, file: RemoteFile, tick: Callable[[int], None]) -> Entry:
    """The marker's entry for a file that is what was listed. Raises ModelCorrupt(file, problem="size"|"hash")."""
    stat = path.stat()
    if stat.st_size != file.size:
        raise ModelCorrupt(file=file.path, problem="size")
    sha256 = digest(path, tick=tick)
    wrong = sha256 != file.sha256 if file.sha256 else file.git and digest(path, "git", tick) != file.git
    if wrong:
        raise ModelCorrupt(file=file.path, problem="hash")
    return Entry(stat.st_size, sha256, stat.st_mtime_ns)


# -- a person's own folders ----------------------------------------------------------------------------------------


def own_folders(spec: ModelSpec, config: AppConfig) -> Iterator[Path]:
    """The folders that may hold this model: its own; of the configured ones by name, geometry, or one level down."""
    yield from (Path(source.name) for source in spec.sources if source.kind == "local")
    if "local" not in config.models.sources:
        return
    names = sorted({spec.id} | {source.name.rpartition("/")[2] for source in spec.sources})
    # os.path, whose answers raise nothing: a folder may be out of reach.
    for root in (Path(os.path.expanduser(folder)) for folder in config.models.folders):
        if os.path.isdir(root) and (root.name in names or _fits(root, spec)):
            yield root
        yield from (root / name for name in names if os.path.isdir(root / name))


def _fits(folder: Path, spec: ModelSpec) -> bool:
    """Whether a folder of any name holds a model of this geometry."""
    try:
        config = read_json(folder / CONFIG)
    except (ModelCorrupt, OSError):
        return False
    config = config.get("llm_config") or config.get("text_config") or config
    shape = spec.shape
    wanted = {"hidden_size": shape.hidden, "num_hidden_layers": shape.layers, "vocab_size": shape.vocab}
    return isinstance(config, dict) and all(config.get(key) == value for key, value in wanted.items())


def sound(folder: Path, spec: ModelSpec) -> Path:
    """The folder, if its structure and the hashes that the catalogue knows are right; it is never changed.

    Raises UnsafeModel(file), or ModelCorrupt(file, problem) with check_folder's problems, "hash" or "unreadable".
    """
    try:
        check_folder(folder)
        for path, sha256 in (known for source in spec.sources for known in source.files.items()):
            if (folder / path).is_file() and digest(folder / path) != sha256:
                raise ModelCorrupt(file=path, problem="hash")
    except OSError as error:
        raise ModelCorrupt(file=Path(error.filename or folder).name, problem="unreadable") from None
    return folder

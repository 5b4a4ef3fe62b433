"""Models that a person adds to the catalogue: judged by their config.json, kept in a file of the data folder.

A repository's few describing files are fetched and read before anything else of it. A folder stays where it is; a GGUF
file is converted into the data folder; a server elsewhere is asked what it has.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

from pydantic import TypeAdapter

from configs.load import catalogue_of
from configs.schema import AppConfig, Catalogue, ModelKind, ModelSpec, Remote, Source, SourceKind
from engines import child, disk, fetch
from engines.acquire import HUBS, select
from engines.checkpoints.layout import DESCRIBING, Layout, examine
from engines.checkpoints.safe import CONFIG, check_folder, weight_files
from engines.errors import AppError, DiskFull, DownloadFailed, ModelKnown, ModelMissing, ModelRefused, NameInvalid
from engines.preferences import Preferences
from engines.remote import chosen
from engines.servers import listed

REPOSITORY = re.compile(
    r"(?:https?://[\w.-]+(?::\d+)?/(?:models/)?)?([\w.-]+/[\w.-]+?)/?(?:/summary|/tree/\w+)?", re.ASCII
)
SERVER = re.compile(r"(https?://[^\s/#?@]+(?:/[\w./-]*?)?/v1|https?://[^\s/#?@]+)/?(?:#(\S+))?", re.ASCII)
"""An OpenAI-compatible server's address, and after # the model's name there."""
SEES = re.compile(r"vl|vision|llava|omni", re.IGNORECASE)
"""In the name of a model that takes images: a server does not say more of it than its name."""
REVISIONS: dict[SourceKind, str] = {"modelscope": "master", "huggingface": "main"}
LARGE = 10**9
"""Parameters from which on a model bears 4-bit weights well."""
UNPACKED = 9
"""A GGUF's weights in float32 take up to so many times its bytes."""

T = TypeVar("T")
_FILE = TypeAdapter(Catalogue)


class Additions:
    """The added models, as kept in `path`. Raises ConfigError for a file that is not one, as the catalogue's would."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.models: tuple[ModelSpec, ...] = catalogue_of(path).models if path.exists() else ()

    def keep(self, models: tuple[ModelSpec, ...]) -> None:
        """These are the added ones from now on. Raises OSError where they cannot be kept."""
        new = self._path.with_suffix(".new")
        new.write_bytes(_FILE.dump_json(Catalogue(models), indent=1, exclude_defaults=True))
        os.replace(new, self._path)
        self.models = models


def describe(text: str, config: AppConfig, preferences: Preferences, known: Sequence[ModelSpec]) -> ModelSpec:
    """The entry for what a person named: a repository's id or address, a folder, or a server. Blocks for seconds.

    Raises NameInvalid(name), ModelKnown(model), ModelRefused(name, cause, facts), ModelMissing(model, tried), DiskFull,
    ServerError.
    """
    name = text.strip().strip("\"'")
    if server := SERVER.fullmatch(name):
        return _of_server(server[1], server[2] or "", name, known)
    path = Path(os.path.expanduser(name))
    found = None if path.is_absolute() else REPOSITORY.fullmatch(name)
    if not path.is_absolute() and (found is None or set(found[1]) <= {".", "/"}):
        raise NameInvalid(name=name)
    try:
        if found is None:
            return _of_folder(path.resolve(), config, known)
        return _of_hub(found[1], config, preferences, known)
    except (DownloadFailed, DiskFull, ModelKnown, ModelMissing):
        raise
    except AppError as error:
        raise ModelRefused(name=name, cause=error.code, facts=error.facts) from None


# -- by server -----------------------------------------------------------------------------------------------------


def _of_server(url: str, wanted: str, name: str, known: Sequence[ModelSpec]) -> ModelSpec:
    """The entry of a model that a server lists: the wanted one, or the first."""
    try:
        remote = Remote(url, model=wanted)
    except ValueError:
        raise NameInvalid(name=name) from None
    (address,) = remote.addresses
    model = chosen(asyncio.run(listed(address, remote)), wanted, address)["id"]
    for spec in known:
        if spec.remote is not None and spec.remote.model == model and address in spec.remote.addresses:
            raise ModelKnown(model=spec.title)
    last = model.rstrip("/").rpartition("/")[2]
    like = next((one for one in known if one.remote is None and one.id == last.lower()), None)
    kind: ModelKind = like.kind if like is not None else "vision" if SEES.search(last) else "text"
    title = f"{last} @ {remote.servers}"
    spec = ModelSpec(
        _free_id(f"{last}-{remote.servers}", known), title, kind, remote=replace(remote, model=model), added=True
    )
    return spec if like is None else replace(spec, defaults=like.defaults)


# -- by folder -----------------------------------------------------------------------------------------------------


def _of_folder(path: Path, config: AppConfig, known: Sequence[ModelSpec]) -> ModelSpec:
    for spec in known:
        if any(source.kind == "local" and Path(source.name) == path for source in spec.sources):
            raise ModelKnown(model=spec.title)
    packed = _packed(path)
    if packed is not None:
        return _converted(packed, config, known)
    check_folder(path)
    return _spec(path.name, path, Source("local", str(path)), _examined(path, config), config, known)


def _packed(path: Path) -> Path | None:
    """The GGUF file that is named, or the only one in a folder that holds no other layout."""
    if path.suffix.lower() == ".gguf":
        return path
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not (path / CONFIG).exists() else []
    return files[0] if len(files) == 1 else None


def _converted(packed: Path, config: AppConfig, known: Sequence[ModelSpec]) -> ModelSpec:
    """A GGUF's entry, after it was converted into the data folder."""
    id = _free_id(packed.stem, known)
    place, folder = disk.staging(config, id, "local"), disk.home(config) / id
    needed = UNPACKED * packed.stat().st_size
    if (free := disk.free(config)) < needed:
        raise DiskFull(needed=needed, free=free, folder=str(disk.home(config)))
    shutil.rmtree(place, ignore_errors=True)
    (place / "files").mkdir(parents=True)
    try:
        _in_child("local", config, fetch.convert, packed, place / "files")
        check_folder(place / "files")
        layout = _examined(place / "files", config)
        shutil.rmtree(folder, ignore_errors=True)
        (place / "files").replace(folder)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return _spec(id, folder, Source("local", str(folder)), layout, config, known)


def _examined(folder: Path, config: AppConfig) -> Layout:
    weights = sum(file.stat().st_size for file in weight_files(folder))
    names = frozenset(file.name for file in folder.iterdir())
    return _in_child("local", config, examine, folder, weights, names)


# -- by id ---------------------------------------------------------------------------------------------------------


def _of_hub(name: str, config: AppConfig, preferences: Preferences, known: Sequence[ModelSpec]) -> ModelSpec:
    for spec in known:
        if any(source.kind in disk.HUB_KINDS and source.name.lower() == name.lower() for source in spec.sources):
            raise ModelKnown(model=spec.title)
    tried: list[tuple[SourceKind, str, dict[str, object]]] = []
    for kind in () if config.models.offline else preferences.hubs(config.models.sources):
        try:
            return _at(kind, name, config, preferences, known)
        except DownloadFailed as error:
            tried.append((kind, error.code, error.facts))
    raise ModelMissing(model=name, tried=tuple(tried))


def _at(
    kind: SourceKind, name: str, config: AppConfig, preferences: Preferences, known: Sequence[ModelSpec]
) -> ModelSpec:
    listing, download = HUBS[kind]
    source = Source(kind, name, REVISIONS[kind])
    commit, listed = _in_child(kind, config, listing, name, source.revision, environ=preferences.environ)
    files = select(listed, source)
    with tempfile.TemporaryDirectory() as folder:
        few = tuple(file for file in files if file.path in DESCRIBING)
        _in_child(kind, config, download, name, commit, Path(folder), few, environ=preferences.environ)
        weights = sum(file.size for file in files if file.path.endswith(".safetensors"))
        names = frozenset(file.path for file in files)
        layout = _in_child("local", config, examine, Path(folder), weights, names)
    spec = _spec(name.rpartition("/")[2], None, source, layout, config, known)
    size = sum(file.size for file in files)
    return replace(spec, download=size, disk=size)


def _in_child(
    kind: SourceKind, config: AppConfig, job: Callable[..., T], *args: object, environ: dict[str, str] | None = None
) -> T:
    """What the job returns. Raises what it raised, or DownloadFailed("stalled") for one that takes too long."""
    end = time.monotonic() + config.models.stall_after

    def tick() -> None:
        if kind != "local" and time.monotonic() > end:
            raise DownloadFailed(source=kind, kind="stalled", detail="")

    with tempfile.TemporaryDirectory() as scratch:
        return child.run(kind, Path(scratch), tick, job, *args, environ=environ or {})


# -- the entry -----------------------------------------------------------------------------------------------------


def _spec(
    name: str, folder: Path | None, source: Source, layout: Layout, config: AppConfig, known: Sequence[ModelSpec]
) -> ModelSpec:
    """The catalogue's entry. A model of the same geometry as one that we know is asked in the same way."""
    like = next((one for one in known if _alike(one, layout)), None)
    size = disk.bytes_in(folder) if folder is not None else 1
    spec = ModelSpec(
        id=_free_id(name, known),
        title=name,
        kind=layout.kind,
        architecture=layout.architecture,
        window=layout.window,
        dtype=layout.dtype,
        cpu_dtype=layout.dtype,
        integer_bits=_integer_bits(layout),
        download=max(size, 1),
        disk=max(size, 1),
        licence=layout.licence or "?",
        sources=(source,),
        vision=layout.vision,
        quantization=layout.quantization,
        added=True,
    )
    return spec if like is None else replace(spec, defaults=like.defaults, system_prompt=like.system_prompt)


def _integer_bits(layout: Layout) -> Literal[0, 4, 8]:
    """A small model is fast enough with 8 bits, and loses less."""
    if not layout.quantizable:
        return 0
    return 4 if layout.architecture.parameters > LARGE else 8


def _alike(spec: ModelSpec, layout: Layout) -> bool:
    return spec.kind == layout.kind and spec.architecture == layout.architecture and spec.vision == layout.vision


def _free_id(name: str, known: Sequence[ModelSpec]) -> str:
    """A model's id after its name: a file's name on any system, and nobody else's."""
    base = re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:60] or "model"
    taken = {spec.id for spec in known}
    return next(one for one in (base, *(f"{base}-{n}" for n in range(2, 1000))) if one not in taken)

"""Conversations out of the app and into it: Markdown to read, JSON to keep, both in a zip where there are images.

Our JSON is complete, so that what is imported equals what was exported, but for ids. Nothing that is imported is
trusted: sizes before bytes, names never as paths, values against their types, images through the gate of uploads.py;
and all of a file is added, or nothing.
"""

from __future__ import annotations

import io
import math
import re
import time
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from configs.schema import ModelSpec
from engines.base import GenerationSettings
from engines.errors import ImageRejected, ImportRejected, SettingOutOfRange
from interface import foreign, transcript
from interface.archive import LIST, MAX_FILE, Source, opened
from interface.history import Store
from interface.i18n import LANGS, Lang, t
from interface.messages import explain
from interface.transcript import Entry, Picture, Problem, Transcript
from interface.uploads import Uploads, image_path

ChooseModel = Callable[[str, bool], ModelSpec]
"""The model to go on with: for a model's id, and whether there are images."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What an exported JSON holds."""

    format: Literal["shusheng-desk"]
    version: Literal[1]
    conversations: tuple[Transcript, ...]


EXPORTED = TypeAdapter(Exported)

# -- out --------------------------------------------------------------------------------------------------------------


def export_json(store: Store, ids: Sequence[str], folder: Path) -> Path:
    """Writes the conversations, complete, to a new file in `folder`: .json, or .zip where they have images."""
    chosen = _chosen(store, ids)
    data = EXPORTED.dump_json(Exported("shusheng-desk", 1, chosen), indent=1)
    return _written(store, folder, _name(chosen), {LIST: data}, _pictures(chosen))


def export_markdown(store: Store, ids: Sequence[str], folder: Path, title_of: Callable[[str], str], lang: Lang) -> Path:
    """Writes what is shown of the conversations: one .md, or a .zip of them with their images beside them.

    `title_of` names a model by its id.
    """
    chosen, files = _chosen(store, ids), {}
    for one in chosen:
        name, number = _slug(one.title), 1
        while f"{name}.md" in files:
            number += 1
            name = f"{_slug(one.title)} {number}"
        files[f"{name}.md"] = _markdown(one, title_of(one.model), lang).encode()
    return _written(store, folder, _name(chosen), files, _pictures(chosen, shown=True))


def _chosen(store: Store, ids: Sequence[str]) -> tuple[Transcript, ...]:
    return tuple(one for id in ids if (one := transcript.read(store, id)) is not None)


def _pictures(chosen: Sequence[Transcript], shown: bool = False) -> list[str]:
    entries = (entry for one in chosen for entry in (one.path if shown else one.messages))
    return list(dict.fromkeys(picture.sha256 for entry in entries for picture in entry.images))


def _name(chosen: Sequence[Transcript]) -> str:
    return _slug(chosen[0].title) if len(chosen) == 1 else f"shusheng-{datetime.now():%Y-%m-%d}"


def _slug(title: str) -> str:
    """A title as a file's name on any system."""
    return " ".join(re.sub(r"[^\w-]+", " ", title).split())[:60].strip() or "conversation"


def _written(store: Store, folder: Path, name: str, files: dict[str, bytes], pictures: Sequence[str]) -> Path:
    if len(files) == 1 and not pictures:
        ((inside, data),) = files.items()
        path = folder / f"{name}{Path(inside).suffix}"
        path.write_bytes(data)
        return path
    path = folder / f"{name}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for inside, data in files.items():
            archive.writestr(inside, data)
        for sha256 in pictures:
            stored = image_path(store.images, sha256)
            if stored.exists():
                archive.write(stored, f"images/{stored.name}", zipfile.ZIP_STORED)
    return path


def _markdown(one: Transcript, model: str, lang: Lang) -> str:
    begun = datetime.fromtimestamp(one.created).strftime("%Y-%m-%d %H:%M")
    blocks = [f"# {one.title}", f"*{model} · {begun}*"]
    if one.system:
        blocks += [f"**{t('chat.system', lang)}**", "\n".join(f"> {line}" for line in one.system.splitlines())]
    for entry in one.path:
        blocks.append(f"## {t('export.you', lang) if entry.role == 'user' else model}")
        blocks += [f"![{t('export.image', lang)}](images/{picture.sha256}.webp)" for picture in entry.images]
        blocks += [entry.text.strip()] if entry.text.strip() else []
        if entry.error:
            blocks.append(f"*{explain({'code': entry.error.code, 'facts': entry.error.facts}, lang).line}*")
        elif entry.status == "stopped":
            blocks.append(f"*{t('chat.stopped', lang)}*")
    return "\n\n".join(blocks) + "\n"


# -- in ---------------------------------------------------------------------------------------------------------------


def import_file(store: Store, uploads: Uploads, path: str | Path, choose: ChooseModel) -> list[str]:
    """Adds the conversations of an uploaded file and returns their ids. Raises ImportRejected, and then adds nothing.

    Images that an import which failed has brought stay in the folder, named by nothing.
    """
    name = Path(path).name
    try:
        file = uploads.uploaded(path)
        size = file.stat().st_size
        if size == 0 or size > MAX_FILE:
            raise ImportRejected(reason="too_large" if size else "empty", limit=MAX_FILE)
        with file.open("rb") as stream, opened(stream) as source:
            found = [_held(one, choose) for one in _transcripts(source, uploads)]
    except ImageRejected as refusal:  # of the file itself: it is not where uploads are
        raise ImportRejected(name=name, reason=refusal.facts["reason"]) from None
    except ImportRejected as refusal:
        raise ImportRejected(**{"name": name} | refusal.facts) from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError):
        # Python's zip reader meets broken and encrypted archives with all of these.
        raise ImportRejected(name=name, reason="damaged") from None
    with store.transaction():
        return [transcript.write(store, one) for one in found]


def _transcripts(source: Source, uploads: Uploads) -> list[Transcript]:
    taken: dict[str, Picture] = {}

    def take(data: bytes, where: str, stored: bool = False) -> Picture:
        try:
            part = uploads.accept_stream(where, io.BytesIO(data), stored)
        except ImageRejected as refusal:
            raise ImportRejected(reason="image", where=where, image=refusal.facts) from None
        return Picture(part.sha256, part.width, part.height)

    def again(picture: Picture) -> Picture:
        place = f"images/{picture.sha256}.webp"
        if place not in taken:
            taken[place] = take(source.image(place), place, stored=True)
        return taken[place]

    try:
        raw = from_json(source.json.removeprefix(b"\xef\xbb\xbf"), allow_inf_nan=False)
    except ValueError:
        raise ImportRejected(reason="not_json") from None
    _finite(raw, "")
    if not (isinstance(raw, dict) and raw.get("format") == "shusheng-desk"):
        return foreign.transcripts(raw, take)
    return [
        replace(one, messages=tuple(replace(e, images=tuple(map(again, e.images))) for e in one.messages))
        for one in _ours(raw, source.json)
    ]


def _ours(raw: dict[str, Any], data: bytes) -> tuple[Transcript, ...]:
    """Our own format, each value of its type, and nothing besides."""
    if isinstance(raw.get("version"), int) and raw["version"] > 1:
        raise ImportRejected(reason="too_new")
    try:
        exported = EXPORTED.validate_json(data.removeprefix(b"\xef\xbb\xbf"), strict=True)
    except ValidationError as error:
        raise ImportRejected(reason="wrong_value", where=_place(error.errors()[0]["loc"])) from None
    _known(raw, EXPORTED.dump_python(exported, mode="json"), "")
    for number, one in enumerate(exported.conversations):
        _whole(one, f"conversations[{number}]")
    return tuple(replace(one, messages=tuple(map(_worded, one.messages))) for one in exported.conversations)


def _known(raw: Any, known: Any, where: str) -> None:
    """Raises ImportRejected for a key that was not read."""
    if isinstance(raw, dict):
        for key, value in raw.items():
            if key not in known:
                raise ImportRejected(reason="unknown_key", where=f"{where}{key}")
            _known(value, known[key], f"{where}{key}.")
    elif isinstance(raw, list):
        for number, (one, other) in enumerate(zip(raw, known, strict=True)):
            _known(one, other, f"{where.rstrip('.')}[{number}].")


def _finite(raw: Any, where: str) -> None:
    """JSON cannot write what 1e999 is read as."""
    if isinstance(raw, float) and not math.isfinite(raw):
        raise ImportRejected(reason="wrong_value", where=where.rstrip("."))
    if isinstance(raw, dict | list):
        for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
            _finite(value, f"{where}{key}.")


def _whole(one: Transcript, where: str) -> None:
    """Every message below an earlier one, the head among them, and the settings in their ranges."""
    for number, entry in enumerate(one.messages):
        if entry.parent is not None and not 0 <= entry.parent < number:
            raise ImportRejected(reason="wrong_value", where=f"{where}.messages[{number}].parent")
    if one.head is not None and not 0 <= one.head < len(one.messages):
        raise ImportRejected(reason="wrong_value", where=f"{where}.head")
    try:
        one.settings.checked()
    except SettingOutOfRange as error:
        raise ImportRejected(reason="wrong_value", where=f"{where}.settings.{error.facts['name']}") from None


def _worded(entry: Entry) -> Entry:
    """An error that cannot be put into words would keep its conversation from being shown."""
    if entry.error is None:
        return entry
    try:
        for lang in LANGS:
            explain({"code": entry.error.code, "facts": entry.error.facts}, lang)
    except Exception:
        return replace(entry, error=Problem("internal", {}))
    return entry


def _held(one: Transcript, choose: ChooseModel) -> Transcript:
    """With a model that is here; and its own settings where the file says none."""
    spec = choose(one.model, bool(one.pictures) or one.kind == "vision")
    settings = one.settings if one.model else GenerationSettings.of(spec.defaults)
    return replace(one, model=spec.id, settings=settings, kind=one.kind or spec.kind)


def _place(loc: Sequence[str | int]) -> str:
    return "".join(f"[{one}]" if isinstance(one, int) else f".{one}" for one in loc).lstrip(".")


def tidy(folder: Path, seconds: float) -> None:
    """Deletes exports that were made so long ago."""
    for path in folder.glob("*/*"):
        if path.stat().st_mtime < time.time() - seconds:
            path.unlink(missing_ok=True)

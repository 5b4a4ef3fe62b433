"""Decides whether a model folder may be opened at all: no pickles, no broken weight files, no paths that lead out.

Reads headers and small JSON files only, never a tensor. Knows no model, no torch and no transformers.
"""

from __future__ import annotations

import json
import re
from math import prod
from pathlib import Path
from typing import Any

from engines.errors import ModelCorrupt, UnsafeModel

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".ckpt"})
SHARD = re.compile(r"\w[\w.-]{0,199}\.safetensors", re.ASCII)  # what an index may name: never a path
HEADER_LIMIT = 100_000_000  # bytes, the format's own limit
BITS = {
    **dict.fromkeys(["F4"], 4),
    **dict.fromkeys(["F6_E2M3", "F6_E3M2"], 6),
    **dict.fromkeys(["BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"], 8),
    **dict.fromkeys(["U16", "I16", "F16", "BF16"], 16),
    **dict.fromkeys(["U32", "I32", "F32"], 32),
    **dict.fromkeys(["U64", "I64", "F64", "C64"], 64),
}


def check_folder(folder: Path) -> None:
    """Refuse a model folder that is unsafe, incomplete or broken; cheap, it reads no tensor.

    Raises UnsafeModel(file), or ModelCorrupt(file, problem) with problem "missing", "syntax" or "path" for the
    folder's files, and those of check_safetensors for its weights.
    """
    read_json(folder / CONFIG)
    refuse_unsafe(folder)
    for file in weight_files(folder):
        check_safetensors(file)


def refuse_unsafe(folder: Path) -> None:
    """Raise UnsafeModel(file) if a file that is loaded by unpickling lies in the folder, needed or not."""
    for file in sorted(folder.iterdir()):
        if file.suffix.lower() in PICKLES:
            raise UnsafeModel(file=file.name)


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files that make up the model: the index's shards, or else all that are there.

    Raises ModelCorrupt(file, problem): "missing", "syntax", or "path" for an index that names anything but plain files.
    """
    if not (folder / INDEX).exists():
        if found := sorted(folder.glob("*.safetensors")):
            return found
        raise ModelCorrupt(file="model.safetensors", problem="missing")
    shards = _shards(read_json(folder / INDEX).get("weight_map"))
    for name in shards:
        if not (folder / name).is_file():
            raise ModelCorrupt(file=name, problem="missing")
    return [folder / name for name in shards]


def _shards(weight_map: object) -> list[str]:
    if not isinstance(weight_map, dict) or not weight_map:
        raise ModelCorrupt(file=INDEX, problem="syntax")
    for name in weight_map.values():
        if not isinstance(name, str) or not SHARD.fullmatch(name):
            raise ModelCorrupt(file=INDEX, problem="path")
    return sorted(set(weight_map.values()))


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a model's file. Raises ModelCorrupt(file, problem="missing"|"syntax")."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise ModelCorrupt(file=path.name, problem="missing") from None
    except (ValueError, RecursionError):
        raise ModelCorrupt(file=path.name, problem="syntax") from None
    if not isinstance(value, dict):
        raise ModelCorrupt(file=path.name, problem="syntax")
    return value


def check_safetensors(path: Path) -> None:
    """Check a safetensors file against its own header, reading nothing else.

    Raises ModelCorrupt(file, problem): "missing"; "header" for one that is over 100 MB, no JSON, or whose tensors do
    not lie one after the other with the bytes that their shapes need; "truncated" for a file that ends too early;
    "size" for one that goes on after its data. Source: the safetensors format description.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise ModelCorrupt(file=path.name, problem="missing") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > HEADER_LIMIT:
            raise ModelCorrupt(file=path.name, problem="header")
        if size < 8 + length:
            raise ModelCorrupt(file=path.name, problem="truncated")
        try:
            end = 8 + length + _data_length(json.loads(file.read(length)))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ModelCorrupt(file=path.name, problem="header") from None
    if size != end:
        raise ModelCorrupt(file=path.name, problem="truncated" if size < end else "size")


def _data_length(header: Any) -> int:
    """Bytes of data that a header describes; raises ValueError and its like for one that contradicts itself."""
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    end = 0
    for begin, stop, needed in sorted(_extent(entry) for entry in tensors):
        if begin != end or stop - begin != needed:
            raise ValueError
        end = stop
    return end


def _extent(entry: Any) -> tuple[int, int, int]:
    begin, stop = entry["data_offsets"]
    bits, shape = BITS[entry["dtype"]], entry["shape"]
    if len(shape) > 64 or any(type(number) is not int or not 0 <= number < 2**63 for number in (begin, stop, *shape)):
        raise ValueError
    size, rest = divmod(prod(shape) * bits, 8)
    if rest:
        raise ValueError
    return begin, stop, size

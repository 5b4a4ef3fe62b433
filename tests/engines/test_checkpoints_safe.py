"""Unsafe, broken and incomplete model folders: refused by the file that is wrong, before anything of them is loaded."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engines.checkpoints import load_model
from engines.checkpoints.safe import check_folder, check_safetensors
from engines.errors import ModelCorrupt, UnsafeModel
from tests.checkpoints import make_internlm2, write_json


@pytest.mark.parametrize("name", ["pytorch_model.bin", "a.pt", "b.pth", "c.pkl", "d.ckpt", "E.BIN"])
def test_a_folder_with_a_pickle_is_refused_even_beside_good_weights(tmp_path: Path, name: str) -> None:
    folder = make_internlm2(tmp_path / "model")
    (folder / name).write_bytes(b"cos\nsystem\n")
    with pytest.raises(UnsafeModel) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts == {"file": name}


def safetensors(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def tensor(begin: Any, end: Any, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


SOUND = safetensors(
    {"__metadata__": {"format": "pt"}, "b": tensor(8, 16), "a": tensor(0, 8), "c": tensor(16, 16, [0])}, bytes(16)
)
BROKEN = {
    "no length": (b"\x01\x02", "truncated"),
    "header past the end": (safetensors({}, length=500), "truncated"),
    "header of 2**60 bytes": (safetensors({}, length=2**60), "header"),
    "no json": (safetensors(b"{'a'"), "header"),
    "deep json": (safetensors(b"[" * 100_000), "header"),
    "a list": (safetensors([]), "header"),
    "no entry": (safetensors({"a": 3}), "header"),
    "unknown dtype": (safetensors({"a": tensor(0, 8, dtype="F31")}, bytes(8)), "header"),
    "shape too small": (safetensors({"a": tensor(0, 8, [1])}, bytes(8)), "header"),
    "negative": (safetensors({"a": tensor(0, 8, [-1, -2])}, bytes(8)), "header"),
    "half a byte": (safetensors({"a": tensor(0, 1, [1], "F4")}, bytes(1)), "header"),
    "overlap": (safetensors({"a": tensor(0, 8), "b": tensor(4, 12)}, bytes(12)), "header"),
    "hole": (safetensors({"a": tensor(0, 8), "b": tensor(12, 20)}, bytes(20)), "header"),
    "cut": (SOUND[:-1], "truncated"),
    "too long": (SOUND + b"\0", "size"),
}  # fmt: skip


def test_a_sound_file_passes(tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(SOUND)
    check_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_refused_by_what_is_wrong_and_at_once(tmp_path: Path, case: str) -> None:
    content, problem = BROKEN[case]
    (tmp_path / "a.safetensors").write_bytes(content)
    start = time.process_time()
    with pytest.raises(ModelCorrupt) as refused:
        check_safetensors(tmp_path / "a.safetensors")
    assert time.process_time() - start < 0.05
    assert refused.value.facts == {"file": "a.safetensors", "problem": problem}


def write_index(folder: Path, file: object) -> None:
    write_json(folder / "model.safetensors.index.json", {"weight_map": {"model.norm.weight": file}})


def spoil(folder: Path, file: str, content: bytes | None) -> None:
    (folder / file).unlink() if content is None else (folder / file).write_bytes(content)


INDEX = "model.safetensors.index.json"
INCOMPLETE: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "no config": (lambda folder: spoil(folder, "config.json", None), "config.json", "missing"),
    "config cut": (lambda folder: spoil(folder, "config.json", b'{"a": '), "config.json", "syntax"),
    "config no object": (lambda folder: spoil(folder, "config.json", b"[]"), "config.json", "syntax"),
    "config no text": (lambda folder: spoil(folder, "config.json", b"\xff\xfe"), "config.json", "syntax"),
    "no weights": (lambda folder: spoil(folder, "model.safetensors", None), "model.safetensors", "missing"),
    "weights cut": (lambda folder: spoil(folder, "model.safetensors", SOUND[:-1]), "model.safetensors", "truncated"),
    "index no map": (lambda folder: spoil(folder, INDEX, b"{}"), INDEX, "syntax"),
    "shard missing": (lambda folder: write_index(folder, "model-2.safetensors"), "model-2.safetensors", "missing"),
    **{
        f"index names {name!r}": (lambda folder, name=name: write_index(folder, name), INDEX, "path")
        for name in ["../a.safetensors", "/a.safetensors", "a/b.safetensors", "a\\b.safetensors", "c:a.safetensors",
                     "..", "", "a.bin", "a\0.safetensors", "a" * 300 + ".safetensors", 3, None]
    },
}  # fmt: skip


@pytest.mark.parametrize("case", INCOMPLETE)
def test_an_incomplete_folder_is_refused_by_the_file(tmp_path: Path, case: str) -> None:
    spoil_it, file, problem = INCOMPLETE[case]
    folder = make_internlm2(tmp_path / "model")
    spoil_it(folder)
    with pytest.raises(ModelCorrupt) as refused:
        check_folder(folder)
    assert refused.value.facts == {"file": file, "problem": problem}


def test_a_folder_that_is_not_there_has_no_config(tmp_path: Path) -> None:
    with pytest.raises(ModelCorrupt, match="missing"):
        load_model(tmp_path / "nothing", dtype="float32")

"""GGUF files: the folder that comes out holds exactly the weights and the tokenizer that went in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.numpy import load_file

from engines.checkpoints import load_model, load_tokenizer
from engines.checkpoints.gguf import convert_gguf
from engines.errors import ModelCorrupt, ModelUnsupported
from tests.checkpoints import TEXT, make_gguf, make_llama, write_weights

NAMES = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]


@pytest.mark.parametrize("tied", [True, False])
def test_the_folder_computes_what_the_file_holds(tmp_path: Path, tied: bool) -> None:
    llama = make_llama(tmp_path / "llama", tied=tied)
    stored = make_gguf(tmp_path / "model.gguf", llama)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")
    written = load_file(tmp_path / "folder" / "model.safetensors")
    assert written.keys() == stored.keys()
    assert all(numpy.array_equal(written[name], weight) for name, weight in stored.items())

    write_weights(llama, stored)
    ids = torch.arange(3, 103)[None]
    with torch.inference_mode():
        expected = load_model(llama, dtype="float32")(ids).logits
        assert torch.equal(load_model(tmp_path / "folder", dtype="float32")(ids).logits, expected)


def test_the_tokenizer_and_the_chat_come_through(tmp_path: Path) -> None:
    llama = make_llama(tmp_path / "llama")
    make_gguf(tmp_path / "model.gguf", llama)
    convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")
    before, after = load_tokenizer(llama), load_tokenizer(tmp_path / "folder")
    for text in [*TEXT.splitlines(), "", " a  b ", "😀 龘\n\n\t", "2026 1e9", "<|im_start|>user\nhi<|im_end|>"]:
        assert after(text).input_ids == before(text).input_ids
        assert after.decode(after(text).input_ids) == text
    assert 2 not in after("<|im_end|>", split_special_tokens=True).input_ids
    chat = [{"role": "user", "content": "hi"}]
    assert after.apply_chat_template(chat, tokenize=False) == "<|im_start|>user\nhi<|im_end|>\n"
    assert [after.bos_token, after.eos_token, after.pad_token] == ["<|im_start|>", "<|im_end|>", "<|im_end|>"]
    assert load_model(tmp_path / "folder", dtype="float32").generation_config.eos_token_id == [2]


def test_converting_again_replaces_what_an_earlier_try_left(tmp_path: Path) -> None:
    make_gguf(tmp_path / "model.gguf", make_llama(tmp_path / "llama"))
    folder = tmp_path / "folder"
    convert_gguf(tmp_path / "model.gguf", folder)
    first = {name: (folder / name).read_bytes() for name in NAMES}
    for name in NAMES:
        (folder / name).write_bytes(b"leftover")
        (folder / f"{name}.part").write_bytes(b"leftover")
    convert_gguf(tmp_path / "model.gguf", folder)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == first


@pytest.mark.parametrize(
    "replaced",
    [
        {"general.architecture": "qwen2"},
        {"tokenizer.ggml.model": "llama"},
        {"tokenizer.ggml.pre": "llama-bpe"},
        {"tokenizer.ggml.add_bos_token": True},
        {"llama.rope.scaling.type": "yarn"},
        {"llama.expert_count": 8},
    ],
)
def test_what_would_come_out_wrong_is_refused(tmp_path: Path, replaced: dict[str, Any]) -> None:
    make_gguf(tmp_path / "model.gguf", make_llama(tmp_path / "llama"), replaced)
    with pytest.raises(ModelUnsupported) as refused:
        convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")
    ((name, value),) = replaced.items()
    assert refused.value.facts == {"file": "model.gguf", "problem": f"{name} {value}"}
    assert not (tmp_path / "folder").exists()


def test_a_tensor_of_another_layout_is_refused(tmp_path: Path) -> None:
    llama = make_llama(tmp_path / "llama")
    write_weights(llama, {**load_file(llama / "model.safetensors"), "rope_freqs.weight": numpy.ones(8, numpy.float32)})
    make_gguf(tmp_path / "model.gguf", llama)
    with pytest.raises(ModelUnsupported, match=r"rope_freqs\.weight"):
        convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")


@pytest.mark.parametrize("kept", [0, 3, 10, 2000, -100])
def test_a_file_that_is_cut_or_no_gguf_is_refused(tmp_path: Path, kept: int) -> None:
    make_gguf(tmp_path / "model.gguf", make_llama(tmp_path / "llama"))
    (tmp_path / "model.gguf").write_bytes((tmp_path / "model.gguf").read_bytes()[:kept])
    with pytest.raises(ModelCorrupt) as refused:
        convert_gguf(tmp_path / "model.gguf", tmp_path / "folder")
    assert refused.value.facts == {"file": "model.gguf", "problem": "syntax"}


def test_converting_needs_neither_torch_nor_transformers(tmp_path: Path) -> None:
    make_gguf(tmp_path / "model.gguf", make_llama(tmp_path / "llama"))
    program = (
        "import sys; from pathlib import Path; from engines.checkpoints.gguf import convert_gguf;"
        f"convert_gguf(Path({str(tmp_path / 'model.gguf')!r}), Path({str(tmp_path / 'folder')!r}));"
        "print({'torch', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

"""InternVL2 folders: what is loaded computes what the model is defined to, and is refused where it would not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.checkpoints import load_model, load_tokenizer
from engines.errors import ModelCorrupt, ModelUnsupported, UnsafeModel
from tests.checkpoints import write_json
from tests.internvl2_checkpoint import IMAGE_TOKENS, make_internvl2
from tests.internvl2_reference import reference_logits

CASES: dict[str, dict[str, Any]] = {
    "two by two tokens": {},
    "larger tiles": {"tile": 112, "vision_hidden": 48},
    "the published geometry": {"tile": 448},
    "sharded": {"shards": 5},
    "no bias in the tower's attention": {"qkv_bias": False},
    "multi-head, dynamic": {"kv_heads": 4, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "single kv head": {"kv_heads": 1},
}


def question(model: Any, tiles: int) -> tuple[list[int], torch.Tensor]:
    """A prompt's ids with so many tiles in the middle, and their pixels."""
    side, noise = model.config.vision_config.image_size[0], torch.Generator().manual_seed(7)
    words = torch.randint(300, 900, (20,), generator=noise).tolist()
    ids = [1, *words[:8], *[model.config.image_token_id] * (tiles * model.config.image_seq_length), *words[8:]]
    return ids, torch.randn(tiles, 3, side, side, generator=noise)


def set_config(folder: Path, part: str | None = None, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    (config[part] if part else config).update(changes)
    write_json(folder / "config.json", config)
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_definition(tmp_path: Path, case: str, attention: str) -> None:
    folder = make_internvl2(tmp_path / "model", **CASES[case])
    model = load_model(folder, dtype="float32", attention=attention)
    ids, tiles = question(model, 2)
    with torch.inference_mode():
        logits = model(torch.tensor([ids]), pixel_values=tiles).logits[0]
    expected = reference_logits(folder, ids, tiles, model.config.image_token_id)
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)
    other = reference_logits(folder, ids, tiles.flip(0), model.config.image_token_id)
    assert (expected - other).abs().max() > 0.1, "the tiles decide"


def test_greedy_tokens_are_those_of_the_definition(tmp_path: Path) -> None:
    folder = make_internvl2(tmp_path / "model")
    model = load_model(folder, dtype="float32", attention="eager")
    ids, tiles = question(model, 3)
    asked = torch.tensor([ids])
    answer = model.generate(asked, pixel_values=tiles, max_new_tokens=12, min_new_tokens=12, do_sample=False)[0]
    for length in range(len(ids), len(ids) + 12):
        best = reference_logits(folder, answer[:length].tolist(), tiles, model.config.image_token_id)[-1]
        best[model.generation_config.eos_token_id] = -torch.inf  # min_new_tokens keeps it from ending
        assert answer[length] == best.argmax()


def test_what_is_loaded(tmp_path: Path) -> None:
    folder = make_internvl2(tmp_path / "model")
    exact, half = load_model(folder, dtype="float32"), load_model(folder, dtype="bfloat16")
    tokenizer = load_tokenizer(folder)
    assert half.dtype == torch.bfloat16 and not half.training
    assert torch.equal(half.model.language_model.rotary_emb.inv_freq, exact.model.language_model.rotary_emb.inv_freq)
    assert half.model.language_model.rotary_emb.inv_freq.dtype == torch.float32
    assert not any(tensor.is_meta for tensor in [*half.parameters(), *half.buffers()])
    assert exact.lm_head.weight is not exact.get_input_embeddings().weight
    assert not torch.equal(exact.lm_head.weight, exact.get_input_embeddings().weight)
    assert exact.config.image_token_id == tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>")
    assert exact.generation_config.eos_token_id == [2, tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert len(tokenizer) == exact.config.text_config.vocab_size


def test_loading_writes_nothing_and_runs_nothing_from_the_folder(tmp_path: Path) -> None:
    folder = make_internvl2(tmp_path / "model", shards=2)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    load_model(folder, dtype="float32")
    load_tokenizer(folder)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UnsafeModel):
        load_model(folder, dtype="float32")


@pytest.mark.parametrize("source", ["both", "added_tokens.json", "tokenizer_config.json", "tokenizer.json"])
def test_the_tokenizer_and_its_prompt(tmp_path: Path, source: str) -> None:
    folder = make_internvl2(tmp_path / "model")
    pieces = len(load_tokenizer(folder)) - len(IMAGE_TOKENS)
    if source == "added_tokens.json":
        (folder / "tokenizer_config.json").unlink()
    elif source == "tokenizer_config.json":
        (folder / "added_tokens.json").unlink()
    elif source == "tokenizer.json":
        load_tokenizer(folder).backend_tokenizer.save(str(folder / "tokenizer.json"))
        for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
            (folder / name).unlink()
    tokenizer = load_tokenizer(folder)
    assert [tokenizer.convert_tokens_to_ids(text) for text in IMAGE_TOKENS] == list(range(pieces, pieces + 9))
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "好"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True) == (
        "<s><|im_start|>system\nS<|im_end|><|im_start|>user\n好<|im_end|><|im_start|>assistant\n"
    )
    assert load_model(folder, dtype="float32").config.image_token_id == pieces + 2


def test_a_tokenizer_without_the_image_tokens_is_refused(tmp_path: Path) -> None:
    folder = make_internvl2(tmp_path / "model")
    (folder / "added_tokens.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(ModelCorrupt) as refused:
        load_tokenizer(folder)
    assert refused.value.facts == {"file": "added_tokens.json", "problem": "added_tokens"}


TOWER = "vision_model.encoder.layers.1."
POSITIONS = "vision_model.embeddings.position_embedding"
MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str, str]] = {
    "missing": (
        lambda weights: weights.pop("vision_model.embeddings.class_embedding"),
        "tensor_missing",
        "model.vision_tower.embeddings.cls_token",
    ),
    "unexpected": (lambda weights: weights.update({"mlp1.2.bias": torch.zeros(2)}), "tensor_unexpected", "mlp1.2.bias"),
    "positions of another tile": (lambda w: w.update({POSITIONS: torch.zeros(1, 65, 32)}), "tensor_shape", POSITIONS),
    "rows in no thirds": (
        lambda weights: weights.update({TOWER + "attn.qkv.weight": torch.zeros(97, 32)}),
        "tensor_shape",
        TOWER + "attn.qkv.weight",
    ),
    "too few rows": (
        lambda weights: weights.update({TOWER + "attn.qkv.bias": torch.zeros(93)}),
        "tensor_shape",
        TOWER + "attn.qkv.bias",
    ),
    "scalar": (
        lambda weights: weights.update({TOWER + "attn.qkv.bias": torch.tensor(1.0)}),
        "tensor_shape",
        TOWER + "attn.qkv.bias",
    ),
    "language model": (
        lambda weights: weights.update({"language_model.model.layers.0.attention.wqkv.weight": torch.zeros(100, 64)}),
        "tensor_shape",
        "language_model.model.layers.0.attention.wqkv.weight",
    ),
    "quantized": (
        lambda weights: weights.update({TOWER + "mlp.fc1.weight": torch.zeros(64, 32, dtype=torch.int8)}),
        "tensor_dtype",
        TOWER + "mlp.fc1.weight",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_are_not_exactly_the_configurations_are_refused(tmp_path: Path, case: str) -> None:
    change, problem, name = MISFITS[case]
    folder = make_internvl2(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelCorrupt) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts == {"file": "model.safetensors", "problem": problem, "tensor": name}


AWQ = {"quant_method": "awq", "version": "gemm", "bits": 4, "group_size": 128, "zero_point": True}


@pytest.mark.parametrize(
    ("part", "changes", "error", "problem"),
    [
        ("llm_config", {"quantization_config": AWQ}, ModelUnsupported, "quantization_config"),
        (None, {"quantization_config": AWQ}, ModelUnsupported, "quantization_config"),
        (None, {"ps_version": "v1"}, ModelUnsupported, "ps_version"),
        (None, {"select_layer": -4}, ModelUnsupported, "select_layer"),
        (None, {"downsample_ratio": 1.0}, ModelUnsupported, "downsample_ratio"),
        (None, {"force_image_size": 448}, ModelUnsupported, "force_image_size"),
        (None, {"architectures": ["InternVLRewardModel"]}, ModelUnsupported, "architectures"),
        (None, {"llm_config": None}, ModelCorrupt, "field"),
        (None, {"vision_config": [1]}, ModelCorrupt, "field"),
        ("llm_config", {"architectures": ["Qwen2ForCausalLM"]}, ModelUnsupported, "architectures"),
        ("llm_config", {"tie_word_embeddings": True}, ModelUnsupported, "tie_word_embeddings"),
        ("llm_config", {"num_attention_heads": 5}, ModelCorrupt, "field"),
        ("vision_config", {"qk_normalization": True}, ModelUnsupported, "qk_normalization"),
        ("vision_config", {"norm_type": "rms_norm"}, ModelUnsupported, "norm_type"),
        ("vision_config", {"hidden_size": "32"}, ModelCorrupt, "field"),
        ("vision_config", {"num_attention_heads": 5}, ModelCorrupt, "field"),
        ("vision_config", {"image_size": 70}, ModelCorrupt, "field"),
        ("vision_config", {"layer_norm_eps": "small"}, ModelCorrupt, "field"),
    ],
)
def test_a_configuration_that_cannot_be_expressed_is_refused(
    tmp_path: Path, part: str | None, changes: dict[str, Any], error: type[Exception], problem: str
) -> None:
    folder = set_config(make_internvl2(tmp_path / "model"), part, **changes)
    with pytest.raises(error) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts == {"file": "config.json", "problem": problem}

"""Model folders: what is loaded computes what InternLM2 is defined to, and is refused where it would not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.checkpoints import load_model, load_tokenizer
from engines.errors import ModelCorrupt, ModelUnsupported
from tests.checkpoints import make_internlm2, make_llama, write_json
from tests.internlm2_reference import reference_logits

DYNAMIC = {"type": "dynamic", "factor": 2.0}
CASES: dict[str, dict[str, Any]] = {
    "grouped": {},
    "multi-head": {"kv_heads": 4},
    "single kv head": {"kv_heads": 1},
    "three queries a kv head": {"heads": 6, "kv_heads": 2, "hidden": 96},
    "bias": {"bias": True},
    "tied": {"tied": True},
    "sharded": {"shards": 4},
    "linear": {"rope_scaling": {"type": "linear", "factor": 4.0}},
    "dynamic inside the window": {"rope_scaling": DYNAMIC},
    "dynamic past the window": {"rope_scaling": DYNAMIC, "window": 64},
    "dynamic past the window, single kv head": {"rope_scaling": DYNAMIC, "window": 64, "kv_heads": 1},
}
IDS = torch.randint(3, 900, (100,), generator=torch.Generator().manual_seed(7)).tolist()


def logits(folder: Path, attention: str = "eager") -> torch.Tensor:
    with torch.inference_mode():
        return load_model(folder, dtype="float32", attention=attention)(torch.tensor([IDS])).logits[0]


def set_config(folder: Path, **changes: Any) -> Path:
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, **changes})
    return folder


def set_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_the_definition(tmp_path: Path, case: str, attention: str) -> None:
    folder = make_internlm2(tmp_path / "model", **CASES[case])
    torch.testing.assert_close(logits(folder, attention), reference_logits(folder, IDS), atol=1e-4, rtol=0)


@pytest.mark.parametrize("case", ["grouped", "multi-head", "single kv head", "dynamic inside the window"])
def test_greedy_tokens_are_those_of_the_definition(tmp_path: Path, case: str) -> None:
    folder = make_internlm2(tmp_path / "model", **CASES[case])
    model = load_model(folder, dtype="float32", attention="eager")
    answer = model.generate(torch.tensor([IDS[:20]]), max_new_tokens=12, min_new_tokens=12, do_sample=False)[0].tolist()
    for length in range(20, 32):
        best = reference_logits(folder, answer[:length])[-1]
        best[model.generation_config.eos_token_id] = -torch.inf  # min_new_tokens keeps it from ending
        assert answer[length] == best.argmax().item()


def test_the_newer_spelling_of_rope_scaling_means_the_same(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model", rope_scaling=DYNAMIC, window=64)
    before = logits(folder)
    set_config(folder, rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    assert torch.equal(logits(folder), before)
    set_config(folder, rope_scaling=None)
    assert not torch.allclose(logits(folder), before, atol=1e-2)


def test_half_precision_leaves_the_rotary_frequencies_alone(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model")
    exact, half = load_model(folder, dtype=torch.float32), load_model(folder, dtype="bfloat16")
    assert half.dtype == torch.bfloat16 and not half.training
    assert torch.equal(half.model.rotary_emb.inv_freq, exact.model.rotary_emb.inv_freq)
    assert not any(tensor.is_meta for tensor in [*half.parameters(), *half.buffers()])


def test_an_answer_ends_at_eos_or_at_the_end_of_the_turn_and_is_greedy(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model")
    write_json(folder / "generation_config.json", {"do_sample": True, "temperature": 0.1, "eos_token_id": 7})
    settings = load_model(folder, dtype="float32").generation_config
    assert settings.eos_token_id == [2, load_tokenizer(folder).convert_tokens_to_ids("<|im_end|>")]
    assert settings.pad_token_id == 2
    assert not settings.do_sample and settings.temperature in (None, 1.0)


def test_an_architecture_that_transformers_has_is_loaded_as_its_own(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model")
    model, tokenizer = load_model(folder, dtype="float32"), load_tokenizer(folder)
    assert type(model).__name__ == "LlamaForCausalLM" and not model.training
    assert torch.equal(
        model.model.embed_tokens.weight, load_file(folder / "model.safetensors")["model.embed_tokens.weight"]
    )
    assert model.generation_config.eos_token_id == [2]
    assert tokenizer.decode(tokenizer(" 你好, world 42").input_ids) == " 你好, world 42"


def test_a_native_checkpoints_own_sentencepiece_model_is_not_taken_for_internlm2s(tmp_path: Path) -> None:
    folder = make_llama(tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(b"of some other kind")
    assert load_model(folder, dtype="float32").generation_config.eos_token_id == [2]
    assert load_tokenizer(folder).eos_token == "<|im_end|>"


def test_loading_writes_nothing_and_runs_nothing_from_the_folder(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model", shards=2)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    load_model(folder, dtype="float32")
    load_tokenizer(folder)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


def test_an_architecture_that_only_its_own_code_has_is_refused_and_the_code_not_run(tmp_path: Path) -> None:
    folder = set_config(make_internlm2(tmp_path / "model"), model_type="grok9", architectures=["Grok9ForCausalLM"])
    with pytest.raises(ModelUnsupported) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts == {"file": "config.json", "problem": "grok9"}
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ModelUnsupported):
        load_tokenizer(folder)
    assert not (folder / "executed").exists()


def test_importing_the_package_imports_neither_torch_nor_transformers() -> None:
    program = "import sys, engines.checkpoints; print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


WRONG = "model.layers.1.attention.wqkv.weight"
MISFITS: dict[str, tuple[Callable[[dict[str, torch.Tensor]], object], str, str]] = {
    "missing": (lambda weights: weights.pop("model.norm.weight"), "tensor_missing", "model.norm.weight"),
    "unexpected": (lambda weights: weights.update(extra=torch.zeros(2)), "tensor_unexpected", "extra"),
    "wrong rows": (lambda weights: weights.update({WRONG: torch.zeros(100, 64)}), "tensor_shape", WRONG),
    "wrong width": (lambda weights: weights.update({WRONG: torch.zeros(128, 32)}), "tensor_shape", WRONG),
    "scalar": (lambda weights: weights.update({WRONG: torch.tensor(1.0)}), "tensor_shape", WRONG),
    "integers": (
        lambda weights: weights.update({WRONG: torch.zeros(128, 64, dtype=torch.int8)}),
        "tensor_dtype",
        WRONG,
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_weights_that_are_not_exactly_the_configurations_are_refused(tmp_path: Path, case: str) -> None:
    change, problem, name = MISFITS[case]
    folder = set_weights(make_internlm2(tmp_path / "model"), change)
    with pytest.raises(ModelCorrupt) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts == {"file": "model.safetensors", "problem": problem, "tensor": name}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda weights: weights.pop("model.norm.weight"), "tensor_missing"),
        (lambda weights: weights.update(extra=torch.zeros(2)), "tensor_unexpected"),
        (lambda weights: weights.update({"model.norm.weight": torch.zeros(3)}), "tensor_shape"),
    ],
)
def test_a_native_checkpoints_weights_are_held_to_the_same(tmp_path: Path, change: Any, problem: str) -> None:
    folder = set_weights(make_llama(tmp_path / "model"), change)
    with pytest.raises(ModelCorrupt) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts["problem"] == problem


@pytest.mark.parametrize(
    ("changes", "error", "problem"),
    [
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, ModelUnsupported, "rope_scaling yarn"),
        ({"rope_scaling": {"type": "dynamic"}}, ModelCorrupt, "field"),
        ({"quantization_config": {"quant_method": "awq"}}, ModelUnsupported, "quantization_config"),
        ({"architectures": ["InternLM2ForRewardModel"]}, ModelUnsupported, "architectures"),
        ({"hidden_size": None}, ModelCorrupt, "field"),
        ({"hidden_size": "64"}, ModelCorrupt, "field"),
        ({"num_attention_heads": 5}, ModelCorrupt, "field"),
        ({"num_key_value_heads": 3}, ModelCorrupt, "field"),
        ({"hidden_act": "gelu"}, ModelUnsupported, "hidden_act"),
        ({"rms_norm_eps": "small"}, ModelCorrupt, "field"),
        ({"rope_scaling": [2.0]}, ModelCorrupt, "field"),
    ],
)
def test_a_configuration_that_llama_cannot_express_is_refused(
    tmp_path: Path, changes: dict[str, Any], error: type[Exception], problem: str
) -> None:
    folder = set_config(make_internlm2(tmp_path / "model"), **changes)
    with pytest.raises(error) as refused:
        load_model(folder, dtype="float32")
    assert refused.value.facts["problem"] == problem

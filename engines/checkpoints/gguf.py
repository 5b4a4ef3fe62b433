"""A GGUF file of a Llama with a byte-level BPE tokenizer -> a folder that transformers reads as its own, in float32.

Undoes what llama.cpp's converter did: quantization, tensor names, the order of query and key rows. Needs no torch.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.checkpoints.safe import CONFIG
from engines.errors import ModelCorrupt, ModelUnsupported

if TYPE_CHECKING:
    from gguf import GGUFReader
    from numpy import ndarray
    from tokenizers import Tokenizer

RENAMED = {  # parts of a tensor's name
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "blk": "model.layers",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "weight": "weight",
}
CONTROL, USER_DEFINED = 3, 4  # tokenizer.ggml.token_type


def convert_gguf(source: Path, folder: Path) -> None:
    """Write config.json, generation_config.json, model.safetensors and the tokenizer's files into `folder`.

    What is there of an earlier try is replaced; config.json comes last, so that a folder that has it is whole.
    Raises ModelCorrupt(file, problem) for a file that is no GGUF or a broken one, ModelUnsupported(file, problem) for
    another architecture, tokenizer or layout. Sources: the GGUF specification, llama.cpp's convert_hf_to_gguf.py.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(source)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        _check_supported(fields, source.name)
        config = _config(fields, tied=all(tensor.name != "output.weight" for tensor in reader.tensors))
        tokenizer = _tokenizer(fields)
        tensors = dict(_tensors(reader, config, source.name))
    except (ValueError, KeyError, IndexError, TypeError, OverflowError):  # what the reader meets in broken bytes
        raise ModelCorrupt(file=source.name, problem="syntax") from None
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(tensors, folder / "model.safetensors")
    _write(folder / "tokenizer.json", tokenizer.to_str())
    _write(folder / "tokenizer_config.json", _json(_tokenizer_config(fields)))
    ends = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    _write(folder / "generation_config.json", _json(ends))
    _write(folder / CONFIG, _json(config))


def _check_supported(fields: dict[str, Any], file: str) -> None:
    supported = {
        "general.architecture": ("llama",),
        "tokenizer.ggml.model": ("gpt2",),
        "tokenizer.ggml.pre": ("smollm",),
        "tokenizer.ggml.add_bos_token": (None, False),
        "tokenizer.ggml.add_eos_token": (None, False),
        "llama.rope.scaling.type": (None, "none"),
        "llama.expert_count": (None, 0),
    }
    for name, values in supported.items():
        if fields.get(name) not in values:
            raise ModelUnsupported(file=file, problem=f"{name} {fields.get(name)}")


def _config(fields: dict[str, Any], tied: bool) -> dict[str, Any]:
    heads = fields["llama.attention.head_count"]
    head_dim = fields["llama.embedding_length"] // heads
    if fields.get("llama.rope.dimension_count", head_dim) != head_dim:
        raise ValueError
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(fields["tokenizer.ggml.tokens"]),
        "hidden_size": fields["llama.embedding_length"],
        "intermediate_size": fields["llama.feed_forward_length"],
        "num_hidden_layers": fields["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": fields.get("llama.attention.head_count_kv", heads),
        "head_dim": head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": fields["llama.context_length"],
        "rms_norm_eps": fields["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_type": "default", "rope_theta": fields.get("llama.rope.freq_base", 10000.0)},
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": tied,
        "bos_token_id": fields.get("tokenizer.ggml.bos_token_id"),
        "eos_token_id": fields["tokenizer.ggml.eos_token_id"],
        "pad_token_id": fields.get("tokenizer.ggml.padding_token_id", fields["tokenizer.ggml.eos_token_id"]),
        "dtype": "float32",
    }


def _tensors(reader: GGUFReader, config: dict[str, Any], file: str) -> Iterator[tuple[str, ndarray[Any, Any]]]:
    import numpy
    from gguf import dequantize

    heads = {".attn_q.": config["num_attention_heads"], ".attn_k.": config["num_key_value_heads"]}
    for tensor in reader.tensors:
        parts = tensor.name.split(".")
        if any(part not in RENAMED and not part.isdecimal() for part in parts):
            raise ModelUnsupported(file=file, problem=tensor.name)
        values = dequantize(tensor.data, tensor.tensor_type)
        for part, count in heads.items():
            if part in tensor.name:
                # llama.cpp rotates neighbouring rows, transformers the two halves of a head.
                pairs = values.reshape(count, values.shape[0] // count // 2, 2, -1)
                values = pairs.swapaxes(1, 2).reshape(values.shape)
        # safetensors writes the memory as it lies, whatever the strides.
        yield ".".join(RENAMED.get(part, part) for part in parts), numpy.ascontiguousarray(values, numpy.float32)


def _tokenizer(fields: dict[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    tokens = fields["tokenizer.ggml.tokens"]
    ids = {token: i for i, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise ValueError
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(ids, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, fields["tokenizer.ggml.token_type"], strict=True):
        if kind in (CONTROL, USER_DEFINED):
            tokenizer.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False)])
    return tokenizer


def _tokenizer_config(fields: dict[str, Any]) -> dict[str, Any]:
    tokens = fields["tokenizer.ggml.tokens"]
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: fields.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": fields["llama.context_length"],
        "clean_up_tokenization_spaces": False,
        "chat_template": fields.get("tokenizer.chat_template"),
        **{name: tokens[i] for name, i in ids.items() if i is not None},
    }


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


def _write(file: Path, text: str) -> None:
    part = file.with_name(file.name + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(file)


def _write_weights(tensors: dict[str, ndarray[Any, Any]], file: Path) -> None:
    from safetensors.numpy import save_file

    part = file.with_name(file.name + ".part")
    save_file(tensors, part, metadata={"format": "pt"})
    part.replace(file)

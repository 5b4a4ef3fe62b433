"""InternLM2 checkpoints in their published layout -> transformers' own Llama classes, which compute the same function.

The two differ in names, in query, key and value being one fused tensor, and in the spelling of the configuration.
Knows nothing of tokenizers or prompts; the published modelling code is neither needed nor run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.checkpoints.safe import CONFIG
from engines.checkpoints.weights import Weights
from engines.errors import ModelCorrupt, ModelUnsupported

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import LlamaConfig, LlamaForCausalLM

RENAMED = {  # parts of a tensor's name, where they differ
    "tok_embeddings": "embed_tokens",
    "output": "lm_head",
    "attention": "self_attn",
    "wo": "o_proj",
    "feed_forward": "mlp",
    "w1": "gate_proj",
    "w2": "down_proj",
    "w3": "up_proj",
    "attention_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
SUPPORTED = {"architectures": ["InternLM2ForCausalLM"], "hidden_act": "silu", "quantization_config": None}
SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def load(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device, attention: str
) -> LlamaForCausalLM:
    """The folder's model in eval mode.

    Raises ModelCorrupt(file, problem) for weights that are not exactly those that `config` asks for, and
    ModelUnsupported(file, problem) for a configuration that Llama cannot express.
    """
    import torch

    with Weights(folder, dtype, device) as weights:
        from transformers import LlamaForCausalLM  # which takes as long as the weights
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        llama = llama_config(config, dtype, attention)

        def convert(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
            if name == "output.weight" and llama.tie_word_embeddings:
                return []
            return native_tensors(name, tensor, llama.num_attention_heads, llama.num_key_value_heads)

        with torch.device("meta"):
            model = LlamaForCausalLM(llama)
        # No checkpoint has the rotary frequencies, and they stay in float32 whatever the weights are.
        model.model.rotary_emb = LlamaRotaryEmbedding(llama).to(device)
        weights.fill(model, convert)
    if llama.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model.eval()


def llama_config(config: dict[str, Any], dtype: torch.dtype, attention: str) -> LlamaConfig:
    """InternLM2's configuration in Llama's words. What it leaves out has the published class's default.

    Raises ModelCorrupt(file, problem="field") for values that are missing or do not fit, and
    ModelUnsupported(file, problem) for what Llama cannot express.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import LlamaConfig

    for name, value in SUPPORTED.items():
        if config.get(name, value) != value:
            raise ModelUnsupported(file=CONFIG, problem=name)
    try:
        return LlamaConfig(
            **sizes(config),
            rope_parameters=_rope(config),
            max_position_embeddings=config.get("max_position_embeddings", 2048),
            rms_norm_eps=config.get("rms_norm_eps", 1e-6),
            attention_bias=config.get("bias", True),
            tie_word_embeddings=config.get("tie_word_embeddings", False),
            bos_token_id=config.get("bos_token_id", 1),
            eos_token_id=config.get("eos_token_id", 2),
            pad_token_id=config.get("pad_token_id", 2),
            architectures=["LlamaForCausalLM"],
            dtype=dtype,
            attn_implementation=attention,
        )
    except (TypeError, ValueError, KeyError, AttributeError, StrictDataclassError):
        raise ModelCorrupt(file=CONFIG, problem="field") from None


def sizes(config: dict[str, Any]) -> dict[str, int]:
    """SIZES with `num_key_value_heads` and `head_dim`. Raises ValueError where one is missing or does not fit."""
    sizes: dict[str, Any] = {name: config.get(name) for name in SIZES}
    heads = sizes["num_attention_heads"]
    kv_heads = sizes["num_key_value_heads"] = config.get("num_key_value_heads") or heads
    if any(type(size) is not int or size < 1 for size in sizes.values()):
        raise ValueError
    if sizes["hidden_size"] % heads or heads % kv_heads:
        raise ValueError
    return sizes | {"head_dim": sizes["hidden_size"] // heads}


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    rope = {"rope_type": kind, "rope_theta": float(config.get("rope_theta", 10000))}
    if kind == "default":
        return rope
    if kind not in ("linear", "dynamic"):
        raise ModelUnsupported(file=CONFIG, problem=f"rope_scaling {kind}")
    return rope | {"factor": float(scaling["factor"])}


def native_tensors(name: str, tensor: Tensor, heads: int, kv_heads: int) -> list[tuple[str, Tensor]]:
    """A published tensor under Llama's name, or the three that a fused `wqkv` holds. Raises ValueError for a misfit."""
    names = native_names(name)
    parts = [tensor] if len(names) == 1 else split_wqkv(tensor, heads, kv_heads)
    return list(zip(names, parts, strict=True))


def native_names(name: str) -> list[str]:
    """The name or names that a published tensor has in Llama, whose own names stay as they are."""
    name = ".".join(RENAMED.get(part, part) for part in name.split("."))
    return [name.replace(".wqkv.", f".{part}_proj.") for part in "qkv"] if ".wqkv." in name else [name]


def split_wqkv(fused: Tensor, heads: int, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value rows of a fused weight or bias [(heads + 2 * kv_heads) * head_dim, ...].

    For each key-value head the rows are those of its queries, then its key, then its value: [q, ..., q, k, v].
    """
    group = heads // kv_heads
    if not fused.ndim or len(fused) % (heads + 2 * kv_heads):
        raise ValueError
    blocks = fused.unflatten(0, (kv_heads, group + 2, -1))
    return blocks[:, :group].flatten(0, 2), blocks[:, group].flatten(0, 1), blocks[:, group + 1].flatten(0, 1)

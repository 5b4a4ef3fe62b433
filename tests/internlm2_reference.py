"""What InternLM2 computes, written down from its definition: slow, and independent of everybody's code.

The product's model is compared with it. Knows no cache: every text is computed whole.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file


def reference_logits(folder: Path, ids: list[int]) -> torch.Tensor:
    """The logits [tokens, vocabulary] of a text, in float32, of a folder in the published layout."""
    config = json.loads((folder / "config.json").read_text())
    weights = {name: value for file in folder.glob("*.safetensors") for name, value in load_file(file).items()}
    return internlm2_logits(config, weights, weights["model.tok_embeddings.weight"][ids])


def internlm2_logits(config: dict[str, Any], weights: dict[str, torch.Tensor], hidden: torch.Tensor) -> torch.Tensor:
    """The logits [tokens, vocabulary] that follow from embeddings [tokens, hidden]."""

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[name + ".weight"].T + weights.get(name + ".bias", torch.zeros(1))

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + config["rms_norm_eps"]).sqrt() * weights[name + ".weight"]

    for layer in range(config["num_hidden_layers"]):
        name = f"model.layers.{layer}."
        fused = linear(norm(hidden, name + "attention_norm"), name + "attention.wqkv")
        hidden = hidden + linear(_reference_attention(fused, config), name + "attention.wo")
        inner = norm(hidden, name + "ffn_norm")
        gate = torch.nn.functional.silu(linear(inner, name + "feed_forward.w1"))
        hidden = hidden + linear(gate * linear(inner, name + "feed_forward.w3"), name + "feed_forward.w2")
    return linear(norm(hidden, "model.norm"), "model.tok_embeddings" if config["tie_word_embeddings"] else "output")


def _reference_attention(fused: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """Causal attention [tokens, hidden] of the fused rows, head by head: for each key-value head [q, ..., q, k, v]."""
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    count, group, size = len(fused), heads // kv_heads, config["hidden_size"] // heads
    angles = _reference_angles(config, count, size)

    def rotate(x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, -1)
        turned = first * angles.cos() - second * angles.sin(), second * angles.cos() + first * angles.sin()
        return torch.cat(turned, -1)

    future = torch.full((count, count), -math.inf).triu(1)
    blocks = fused.view(count, kv_heads, group + 2, size)
    answers = []
    for head in range(heads):
        block = blocks[:, head // group]
        query, key, value = rotate(block[:, head % group]), rotate(block[:, group]), block[:, group + 1]
        answers.append((query @ key.T / math.sqrt(size) + future).softmax(-1) @ value)
    return torch.cat(answers, -1)


def _reference_angles(config: dict[str, Any], count: int, size: int) -> torch.Tensor:
    """Rotary angles [tokens, size / 2]; past the window, dynamic scaling stretches the base with the text's length."""
    base, step = float(config["rope_theta"]), 1.0
    scaling, window = config["rope_scaling"] or {}, config["max_position_embeddings"]
    if scaling.get("type") == "linear":
        step = 1 / scaling["factor"]
    elif scaling.get("type") == "dynamic" and count > window:
        base *= (scaling["factor"] * count / window - (scaling["factor"] - 1)) ** (size / (size - 2))
    frequencies = torch.tensor([base ** (-2 * i / size) for i in range(size // 2)], dtype=torch.float64)
    return (torch.arange(count)[:, None] * step * frequencies).float()

"""A full-size InternLM2-Chat-1.8B of random weights in the published layout, made on a card in seconds.

For memory and process behaviour on a real card where no hub can be reached; what it says is noise.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

VOCAB, HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS = 92544, 2048, 8192, 24, 16, 8
SPECIAL = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]


def make(folder: Path) -> Path:
    """Writes config.json, two shards of bfloat16 weights and a byte-level tokenizer; 3.8 GB."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config(VOCAB)), encoding="utf-8")
    weights = tensors(VOCAB)
    names = list(weights)
    half = len(names) // 2
    for number, some in enumerate((names[:half], names[half:]), 1):
        file = folder / f"model-0000{number}-of-00002.safetensors"
        save_file({name: weights[name] for name in some}, file, metadata={"format": "pt"})
    index = {name: f"model-0000{1 if n < half else 2}-of-00002.safetensors" for n, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    tokenizer(folder, VOCAB, SPECIAL)
    return folder


def config(vocab: int) -> dict[str, Any]:
    return {
        "architectures": ["InternLM2ForCausalLM"], "model_type": "internlm2", "bias": False, "hidden_act": "silu",
        "auto_map": {"AutoModelForCausalLM": "modeling_internlm2.InternLM2ForCausalLM"},
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-5, "rope_theta": 1000000, "rope_scaling": {"type": "dynamic", "factor": 2.0},
        "vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }  # fmt: skip


def tensors(vocab: int) -> dict[str, Any]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"

    def noise(*shape: int) -> Any:
        return (torch.randn(*shape, device=device) * 0.02).to(torch.bfloat16).cpu()

    made = {"model.tok_embeddings.weight": noise(vocab, HIDDEN), "output.weight": noise(vocab, HIDDEN)}
    made["model.norm.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    for layer in range(LAYERS):
        at = f"model.layers.{layer}."
        made[at + "attention.wqkv.weight"] = noise((HEADS + 2 * KV_HEADS) * HIDDEN // HEADS, HIDDEN)
        made[at + "attention.wo.weight"] = noise(HIDDEN, HIDDEN)
        for name in ("w1", "w3"):
            made[f"{at}feed_forward.{name}.weight"] = noise(INTERMEDIATE, HIDDEN)
        made[at + "feed_forward.w2.weight"] = noise(HIDDEN, INTERMEDIATE)
        for name in ("attention_norm", "ffn_norm"):
            made[f"{at}{name}.weight"] = torch.ones(HIDDEN, dtype=torch.bfloat16)
    return made


def tokenizer(folder: Path, vocab: int, special: list[str]) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    words = ["<unk>", "<s>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    words += [f"word{n}" for n in range(vocab - len(special) - len(words))] + special
    made = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, [], unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(["<unk>", "<s>", "</s>", *special])
    made.save(str(folder / "tokenizer.json"))
    template = (
        "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] +"
        " '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
        "pad_token": "</s>", "chat_template": template,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(told), encoding="utf-8")

"""InternVL2-2B and InternVL2-2B-AWQ at full size with random weights, in the published layout, made on the card.

For memory and process behaviour on a real card where no hub can be reached; what they say is noise.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tests.gpu import checkpoint

VOCAB, LAYERS, HIDDEN, WIDE = 92553, 24, 1024, 4096
SPECIAL = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]
AWQ = {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True}


def make(folder: Path) -> Path:
    """Writes config.json, one file of bfloat16 weights and a byte-level tokenizer; 4.4 GB."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"language_model.{name}": tensor for name, tensor in checkpoint.tensors(VOCAB).items()} | _tower()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(_config()), encoding="utf-8")
    checkpoint.tokenizer(folder, VOCAB, [*checkpoint.SPECIAL, *SPECIAL])
    return folder


def make_awq(source: Path, folder: Path) -> Path:
    """Writes the same checkpoint with the decoder's linear layers in 4 bits, random ones; 2.2 GB."""
    import torch
    from safetensors.torch import load_file, save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Any] = {}
    for name, weight in load_file(source / "model.safetensors").items():
        if not (name.startswith("language_model.model.layers.") and weight.ndim == 2):
            tensors[name] = weight.half()
            continue
        rows, columns = weight.shape
        at = name.removesuffix("weight")
        tensors[at + "qweight"] = torch.randint(-(2**31), 2**31 - 1, (columns, rows // 8), dtype=torch.int32)
        tensors[at + "qzeros"] = torch.full((columns // 128, rows // 8), -2004318072, dtype=torch.int32)  # eights
        tensors[at + "scales"] = torch.full((columns // 128, rows), 0.004).half()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = _config()
    config["llm_config"] |= {"quantization_config": AWQ, "torch_dtype": "float16"}
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, folder / name)
    return folder


def _config() -> dict[str, Any]:
    vision = {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "hidden_size": HIDDEN,
        "image_size": 448, "intermediate_size": WIDE, "layer_norm_eps": 1e-6, "norm_type": "layer_norm",
        "num_attention_heads": 16, "num_channels": 3, "num_hidden_layers": LAYERS, "patch_size": 14,
        "qk_normalization": False, "qkv_bias": True, "hidden_act": "gelu", "drop_path_rate": 0.0, "dropout": 0.0,
        "attention_dropout": 0.0, "initializer_factor": 1.0, "initializer_range": 0.02, "use_flash_attn": True,
        "torch_dtype": "bfloat16",
    }  # fmt: skip
    return {
        "architectures": ["InternVLChatModel"], "model_type": "internvl_chat",
        "auto_map": {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"},
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": 448, "max_dynamic_patch": 12,
        "min_dynamic_patch": 1, "ps_version": "v2", "select_layer": -1, "template": "internlm2-chat",
        "use_thumbnail": True, "use_backbone_lora": 0, "use_llm_lora": 0, "torch_dtype": "bfloat16",
        "llm_config": checkpoint.config(VOCAB), "vision_config": vision,
    }  # fmt: skip


def _tower() -> dict[str, Any]:
    import torch

    def noise(*shape: int) -> Any:
        return (torch.randn(*shape, device="cuda") * 0.02).to(torch.bfloat16).cpu()

    def flat(value: float, size: int) -> Any:
        return torch.full((size,), value, dtype=torch.bfloat16)

    at = "vision_model.embeddings."
    tensors = {
        at + "class_embedding": noise(1, 1, HIDDEN), at + "position_embedding": noise(1, 1025, HIDDEN),
        at + "patch_embedding.weight": noise(HIDDEN, 3, 14, 14), at + "patch_embedding.bias": flat(0, HIDDEN),
        "mlp1.0.weight": flat(1, 4 * HIDDEN), "mlp1.0.bias": flat(0, 4 * HIDDEN),
        "mlp1.1.weight": noise(2048, 4 * HIDDEN), "mlp1.1.bias": flat(0, 2048),
        "mlp1.3.weight": noise(2048, 2048), "mlp1.3.bias": flat(0, 2048),
    }  # fmt: skip
    for layer in range(LAYERS):
        at = f"vision_model.encoder.layers.{layer}."
        for name, rows, columns in (
            ("attn.qkv", 3 * HIDDEN, HIDDEN), ("attn.proj", HIDDEN, HIDDEN),
            ("mlp.fc1", WIDE, HIDDEN), ("mlp.fc2", HIDDEN, WIDE),
        ):  # fmt: skip
            tensors |= {f"{at}{name}.weight": noise(rows, columns), f"{at}{name}.bias": flat(0, rows)}
        for name in ("norm1", "norm2"):
            tensors |= {f"{at}{name}.weight": flat(1, HIDDEN), f"{at}{name}.bias": flat(0, HIDDEN)}
        tensors |= {at + "ls1": flat(0.1, HIDDEN), at + "ls2": flat(0.1, HIDDEN)}
    return tensors

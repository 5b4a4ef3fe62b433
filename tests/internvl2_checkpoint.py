"""Makes tiny random InternVL2 checkpoints in the published layout; their language model is tests/checkpoints.py's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy

from tests.checkpoints import (
    add_internlm2_tokenizer,
    internlm2_config,
    internlm2_weights,
    random_weights,
    write_json,
    write_traps,
    write_weights,
)

IMAGE_TOKENS = ["<img>", "</img>", "<IMG_CONTEXT>", "<quad>", "</quad>", "<ref>", "</ref>", "<box>", "</box>"]


def make_internvl2(
    folder: Path,
    *,
    tile: int = 56,
    vision_hidden: int = 32,
    vision_layers: int = 2,
    qkv_bias: bool = True,
    shards: int = 1,
    seed: int = 0,
    **language: Any,
) -> Path:
    """A random InternVL2 as published: `tile` pixels a side, patches of 14, so that 56 pixels become 4 tokens.

    `language` is for the language model, as make_internlm2 takes it. Running its code would leave a file "executed".
    """
    folder.mkdir(parents=True, exist_ok=True)
    pieces = add_internlm2_tokenizer(folder)
    add_image_tokens(folder, pieces)
    llm = internlm2_config(pieces + len(IMAGE_TOKENS), **language)
    vision = {
        "architectures": ["InternVisionModel"], "model_type": "intern_vit_6b", "attention_dropout": 0.0, "dropout": 0.0,
        "drop_path_rate": 0.0, "hidden_act": "gelu", "hidden_size": vision_hidden, "image_size": tile,
        "initializer_factor": 1.0, "initializer_range": 0.02, "intermediate_size": 2 * vision_hidden,
        "layer_norm_eps": 1e-06, "norm_type": "layer_norm", "num_attention_heads": 4, "num_channels": 3,
        "num_hidden_layers": vision_layers, "patch_size": 14, "qk_normalization": False, "qkv_bias": qkv_bias,
        "torch_dtype": "float32", "use_flash_attn": True,
    }  # fmt: skip
    names = {"AutoConfig": "configuration_internvl_chat.InternVLChatConfig"}
    names |= dict.fromkeys(["AutoModel", "AutoModelForCausalLM"], "modeling_internvl_chat.InternVLChatModel")
    config = {
        "architectures": ["InternVLChatModel"], "auto_map": names, "model_type": "internvl_chat",
        "downsample_ratio": 0.5, "dynamic_image_size": True, "force_image_size": tile, "llm_config": llm,
        "max_dynamic_patch": 12, "min_dynamic_patch": 1, "ps_version": "v2", "select_layer": -1,
        "template": "internlm2-chat", "torch_dtype": "float32", "use_backbone_lora": 0, "use_llm_lora": 0,
        "use_thumbnail": True, "vision_config": vision,
    }  # fmt: skip
    write_json(folder / "config.json", config)
    write_traps(folder, "configuration_internvl_chat", "modeling_internvl_chat", "tokenization_internlm2")
    weights = {f"language_model.{name}": value for name, value in internlm2_weights(llm, seed).items()}
    write_weights(folder, random_weights(_vision_shapes(vision, llm["hidden_size"]), seed + 1) | weights, shards)
    return folder


def add_image_tokens(folder: Path, first: int) -> None:
    """The published tokens that InternVL2 adds to InternLM2's, from id `first` on, in both files that name them."""
    config = json.loads((folder / "tokenizer_config.json").read_text())
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    added = dict(enumerate(IMAGE_TOKENS, first))
    config["added_tokens_decoder"] |= {str(i): {"content": text, **flags} for i, text in added.items()}
    write_json(folder / "tokenizer_config.json", config)
    write_json(folder / "added_tokens.json", {text: i for i, text in added.items()})


def _vision_shapes(config: dict[str, Any], language: int) -> dict[str, tuple[int, ...]]:
    hidden, middle = config["hidden_size"], config["intermediate_size"]
    patches = (config["image_size"] // config["patch_size"]) ** 2
    start = "vision_model.embeddings."
    shapes: dict[str, tuple[int, ...]] = {
        start + "class_embedding": (1, 1, hidden),
        start + "position_embedding": (1, patches + 1, hidden),
        start + "patch_embedding.weight": (hidden, 3, config["patch_size"], config["patch_size"]),
        start + "patch_embedding.bias": (hidden,),
    }
    for layer in range(config["num_hidden_layers"]):
        name = f"vision_model.encoder.layers.{layer}."
        linear = {"attn.qkv": (3 * hidden, hidden), "attn.proj": (hidden, hidden)}
        linear |= {"mlp.fc1": (middle, hidden), "mlp.fc2": (hidden, middle)}
        for part, shape in linear.items():
            shapes[f"{name}{part}.weight"] = shape
            if part != "attn.qkv" or config["qkv_bias"]:
                shapes[f"{name}{part}.bias"] = shape[:1]
        shapes |= {f"{name}{norm}.{kind}": (hidden,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")}
        shapes |= {f"{name}ls1": (hidden,), f"{name}ls2": (hidden,)}
    shapes |= {"mlp1.0.weight": (4 * hidden,), "mlp1.0.bias": (4 * hidden,)}
    shapes |= {"mlp1.1.weight": (language, 4 * hidden), "mlp1.1.bias": (language,)}
    return shapes | {"mlp1.3.weight": (language, language), "mlp1.3.bias": (language,)}


def write_image(file: Path, width: int, height: int, seed: int = 0) -> Path:
    """A PNG of smooth coloured noise: what stands where matters, and resizing does not wash it out."""
    from PIL import Image

    coarse = numpy.random.default_rng(seed).integers(0, 256, (8, 8, 3), numpy.uint8)
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file)
    return file

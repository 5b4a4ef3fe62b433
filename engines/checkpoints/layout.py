"""config.json -> what the planner must know of a model, or why it is not one that we load. Reads no tensor.

Asks the loaders' own readers, so that what passes here is what they take; these import transformers, so that it runs in
a child of the app (additions.py).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.schema import Architecture, Dtype, ModelKind, Quantization, VisionTower
from engines.checkpoints import internlm2, internvl2, native, onnx_graph, tokenizer
from engines.checkpoints.safe import CONFIG, read_json
from engines.errors import AppError, ModelCorrupt, ModelUnsupported

README = "README.md"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
DESCRIBING = (CONFIG, native.TOKENIZER_CONFIG, *TEMPLATES, README)
"""The files that this reads; a model can be judged by them before its weights are here."""
STORED: dict[str, int] = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Layout:
    """A model that we load. `licence` is "" where its makers name none."""

    kind: ModelKind
    architecture: Architecture
    window: int
    dtype: Dtype
    quantization: Quantization = "none"
    vision: VisionTower | None = None
    licence: str = ""
    quantizable: bool = False
    """Whether its weights can be integers: on a CPU (onnx_graph.py), and on a card (engines/block_linear.py)."""


def examine(folder: Path, weights: int, names: frozenset[str]) -> Layout:
    """What the model of a folder is, of which DESCRIBING is enough: `weights` are the bytes of its safetensors, and
    `names` those of all its files.

    Raises ModelUnsupported(file, problem) for a layout that we do not load, ModelCorrupt(file, problem) for one that
    lacks something.
    """
    config = read_json(folder / CONFIG)
    if not names & {tokenizer.MODEL, native.TOKENIZER}:
        raise ModelCorrupt(file=tokenizer.MODEL, problem="missing")
    match config.get("model_type"):
        case "internlm2":
            found = _internlm2(config)
        case internvl2.MODEL_TYPE:
            found = _internvl2(config)
        case _:
            found = _native(config, weights, has_template=_has_template(folder))
    return Layout(*found, licence=_licence(folder), quantizable=found[0] == "text" and _quantizable(config))


def _quantizable(config: dict[str, Any]) -> bool:
    try:
        onnx_graph.llama_config(config)
    except AppError:
        return False
    return True


Found = tuple[ModelKind, Architecture, int, Dtype, Quantization, VisionTower | None]


def _internlm2(config: dict[str, Any]) -> Found:
    llama = internlm2.llama_config(config, "bfloat16", "sdpa")
    return "text", _decoder(llama), llama.max_position_embeddings, _dtype(config), "none", None


def _internvl2(config: dict[str, Any]) -> Found:
    given = config.get("llm_config")
    llm: dict[str, Any] = given if isinstance(given, dict) else {}
    quantization: Quantization = "none"
    for part in (config, llm):
        packed = part.get("quantization_config")
        if packed:
            if not isinstance(packed, dict) or (packed.get("quant_method"), packed.get("bits")) != ("awq", 4):
                raise ModelUnsupported(file=CONFIG, problem="quantization_config")
            quantization = "awq"
    plain = {**config, "quantization_config": None, "llm_config": {**llm, "quantization_config": None}}
    whole = internvl2.internvl_config(plain, "bfloat16", "sdpa")
    tower = _tower(whole.vision_config, whole.text_config.hidden_size, config.get("max_dynamic_patch"))
    # With float16 TurboMind's vision part aborts, whatever the file says.
    dtype = _dtype(config if "torch_dtype" in config else llm or {})
    return (
        "vision", _decoder(whole.text_config), whole.text_config.max_position_embeddings, dtype, quantization, tower,
    )  # fmt: skip


def _native(config: dict[str, Any], weights: int, has_template: bool) -> Found:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    model_type = str(config.get("model_type"))
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelUnsupported(file=CONFIG, problem=model_type)
    if config.get("quantization_config"):
        raise ModelUnsupported(file=CONFIG, problem="quantization_config")
    if not has_template:
        raise ModelUnsupported(file=native.TOKENIZER_CONFIG, problem="no_chat_template")
    try:
        sizes = internlm2.sizes(config)
    except ValueError:  # no decoder as the planner knows them
        raise ModelUnsupported(file=CONFIG, problem=model_type) from None
    stored = STORED.get(str(config.get("dtype") or config.get("torch_dtype")), 4)
    head_dim, window = config.get("head_dim"), config.get("max_position_embeddings")
    if type(window) is not int or window < 1 or weights < stored:
        raise ModelCorrupt(file=CONFIG, problem="field")
    shape = _architecture(sizes | ({"head_dim": head_dim} if type(head_dim) is int else {}), weights // stored)
    return "text", shape, window, _dtype(config), "none", None


def _decoder(llama: Any) -> Architecture:
    """An InternLM2's geometry, its parameters counted."""
    sizes = {name: getattr(llama, name) for name in (*internlm2.SIZES, "num_key_value_heads", "head_dim")}
    hidden, middle = llama.hidden_size, llama.intermediate_size
    queries, keys = (llama.head_dim * count for count in (llama.num_attention_heads, llama.num_key_value_heads))
    biases = queries + 2 * keys + hidden if llama.attention_bias else 0
    layer = 2 * hidden * (queries + keys) + 3 * hidden * middle + 2 * hidden + biases
    embeddings = llama.vocab_size * hidden * (1 if llama.tie_word_embeddings else 2)
    return _architecture(sizes, llama.num_hidden_layers * layer + hidden + embeddings)


def _architecture(sizes: dict[str, int], parameters: int) -> Architecture:
    return Architecture(
        parameters=parameters,
        layers=sizes["num_hidden_layers"],
        hidden=sizes["hidden_size"],
        intermediate=sizes["intermediate_size"],
        heads=sizes["num_attention_heads"],
        kv_heads=sizes["num_key_value_heads"],
        head_dim=sizes["head_dim"],
        vocab=sizes["vocab_size"],
    )


def _tower(vision: Any, text: int, max_tiles: object) -> VisionTower:
    """An InternViT's geometry, its parameters and the projector's counted."""
    hidden, middle = vision.hidden_size, vision.intermediate_size
    patch, side = vision.patch_size[0], vision.image_size[0]
    patches = (side // patch) ** 2
    embeddings = hidden + (patches + 1) * hidden + 3 * patch * patch * hidden + hidden
    attention = 4 * hidden * hidden + hidden + (3 * hidden if vision.attention_bias else 0)
    layer = attention + 2 * hidden * middle + middle + hidden + 6 * hidden
    projector = 8 * hidden + 4 * hidden * text + text + text * text + text
    return VisionTower(
        parameters=embeddings + vision.num_hidden_layers * layer + projector,
        layers=vision.num_hidden_layers,
        hidden=hidden,
        intermediate=middle,
        tile=side,
        tokens_per_tile=patches // 4,
        patches_per_tile=patches + 1,
        max_tiles=max_tiles if type(max_tiles) is int and max_tiles > 0 else 12,
    )


def _dtype(config: dict[str, Any]) -> Dtype:
    """What it is run in: 16 bits with float32's range, but for what was stored in 32."""
    return "float32" if (config.get("dtype") or config.get("torch_dtype")) == "float32" else "bfloat16"


def _has_template(folder: Path) -> bool:
    if any((folder / name).is_file() for name in TEMPLATES):
        return True
    file = folder / native.TOKENIZER_CONFIG
    return file.is_file() and bool(read_json(file).get("chat_template"))


def _licence(folder: Path) -> str:
    """As the model's card names it, in the lines that hubs read."""
    try:
        text = (folder / README).read_text(encoding="utf-8", errors="replace")[:4000]
    except OSError:
        return ""
    card = re.match(r"\s*---\s*\n(.*?)\n---", text, re.DOTALL)
    named = re.search(r"^license(?:_name)?:\s*[\"']?([\w .+-]{1,60})", card[1], re.MULTILINE) if card else None
    return named[1].strip() if named else ""

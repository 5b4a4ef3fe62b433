"""InternVL2 checkpoints in their published layout -> transformers' own InternVL classes, which compute the same.

The language model is an InternLM2 under a prefix; the vision tower differs in names and in its fused attention. Knows
nothing of images; the published modelling code is neither needed nor run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.checkpoints.internlm2 import llama_config, native_tensors
from engines.checkpoints.safe import CONFIG
from engines.checkpoints.weights import Weights
from engines.errors import ModelCorrupt, ModelUnsupported

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import InternVLConfig, InternVLForConditionalGeneration, InternVLVisionConfig, LlamaConfig

MODEL_TYPE = "internvl_chat"
IMAGE, IMAGE_END, IMAGE_CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
IMAGE_CONTEXT_ID = 92546
# As the published code writes a prompt: nothing stands between two turns.
CHAT_TEMPLATE = (
    "<s>{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
RENAMED = {  # parts of a vision tensor's name, where they differ
    "vision_model": "model.vision_tower",
    "class_embedding": "cls_token",
    "position_embedding": "position_embeddings",
    "patch_embedding": "patch_embeddings.projection",
    "layers": "layer",
    "attn": "attention",
    "proj": "projection_layer",
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "ls1": "lambda_1",
    "ls2": "lambda_2",
}
PROJECTOR = {"mlp1.0": "layer_norm", "mlp1.1": "linear_1", "mlp1.3": "linear_2"}
SUPPORTED = {
    "architectures": ["InternVLChatModel"],
    "ps_version": "v2",
    "select_layer": -1,
    "downsample_ratio": 0.5,
    "quantization_config": None,
}
VISION_SUPPORTED = {
    "architectures": ["InternVisionModel"],
    "model_type": "intern_vit_6b",
    "hidden_act": "gelu",
    "norm_type": "layer_norm",
    "qk_normalization": False,
    "num_channels": 3,
}
SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "image_size", "patch_size")


def load(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device, attention: str
) -> InternVLForConditionalGeneration:
    """The folder's model in eval mode.

    Raises ModelCorrupt(file, problem) for weights that are not exactly those that `config` asks for, and
    ModelUnsupported(file, problem) for a configuration that transformers' classes cannot express.
    """
    import torch

    with Weights(folder, dtype, device) as weights:
        from transformers import InternVLForConditionalGeneration  # which takes as long as the weights
        from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

        native = internvl_config(config, dtype, attention)
        text = native.text_config

        def convert(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
            if name.startswith("language_model."):
                pairs = native_tensors(
                    name.removeprefix("language_model."), tensor, text.num_attention_heads, text.num_key_value_heads
                )
                return [(_under_language_model(inner), rows) for inner, rows in pairs]
            return vision_tensors(name, tensor)

        with torch.device("meta"):
            model = InternVLForConditionalGeneration(native)
        # No checkpoint has the rotary frequencies, and they stay in float32 whatever the weights are.
        model.model.language_model.rotary_emb = LlamaRotaryEmbedding(text).to(device)
        weights.fill(model, convert)
    return model.eval()


def internvl_config(config: dict[str, Any], dtype: torch.dtype, attention: str) -> InternVLConfig:
    """The published configuration in the words of transformers.

    Raises ModelCorrupt(file, problem="field") for values that are missing or do not fit, and
    ModelUnsupported(file, problem) for what transformers' classes cannot express.
    """
    from transformers import InternVLConfig

    _check(config, SUPPORTED)
    text = _text_config(_part(config, "llm_config"), dtype, attention)
    vision = _vision_config(_part(config, "vision_config"), dtype, attention)
    side = vision.image_size[0]
    if config.get("force_image_size") not in (None, side):
        raise ModelUnsupported(file=CONFIG, problem="force_image_size")
    return InternVLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_CONTEXT_ID,
        image_seq_length=(side // vision.patch_size[0] // 2) ** 2,
        downsample_ratio=0.5,
        tie_word_embeddings=False,
        architectures=["InternVLForConditionalGeneration"],
        dtype=dtype,
        attn_implementation=attention,
    )


def _check(config: dict[str, Any], supported: dict[str, Any]) -> None:
    for name, value in supported.items():
        if config.get(name, value) != value:
            raise ModelUnsupported(file=CONFIG, problem=name)


def _part(config: dict[str, Any], name: str) -> dict[str, Any]:
    part = config.get(name)
    if not isinstance(part, dict):
        raise ModelCorrupt(file=CONFIG, problem="field")
    return part


def _text_config(config: dict[str, Any], dtype: torch.dtype, attention: str) -> LlamaConfig:
    text = llama_config(config, dtype, attention)
    if text.tie_word_embeddings:
        raise ModelUnsupported(file=CONFIG, problem="tie_word_embeddings")
    return text


def _vision_config(config: dict[str, Any], dtype: torch.dtype, attention: str) -> InternVLVisionConfig:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import InternVLVisionConfig

    _check(config, VISION_SUPPORTED)
    sizes: dict[str, Any] = {name: config.get(name) for name in SIZES}
    try:
        if any(type(size) is not int or size < 1 for size in sizes.values()):
            raise ValueError
        # Two by two patches become one token.
        if sizes["hidden_size"] % sizes["num_attention_heads"] or sizes["image_size"] % (2 * sizes["patch_size"]):
            raise ValueError
        return InternVLVisionConfig(
            **sizes,
            layer_norm_eps=config.get("layer_norm_eps", 1e-6),
            attention_bias=config.get("qkv_bias", True),
            use_qk_norm=False,
            use_mean_pooling=True,  # which is to say that there is no norm after the last layer
            dtype=dtype,
            attn_implementation=attention,
        )
    except (TypeError, ValueError, StrictDataclassError):
        raise ModelCorrupt(file=CONFIG, problem="field") from None


def _under_language_model(name: str) -> str:
    return name.replace("model.", "model.language_model.", 1) if name.startswith("model.") else name


def vision_tensors(name: str, tensor: Tensor) -> list[tuple[str, Tensor]]:
    """A published tensor of the vision tower or the projector under transformers' name, or the three that a fused
    `qkv` holds. Raises ValueError for a misfit."""
    for old, new in PROJECTOR.items():
        if name.startswith(f"{old}."):
            return [(name.replace(old, f"model.multi_modal_projector.{new}", 1), tensor)]
    renamed = ".".join(RENAMED.get(part, part) for part in name.split("."))
    if ".qkv." not in name:
        return [(renamed, tensor)]
    if not tensor.ndim or len(tensor) % 3:
        raise ValueError
    thirds = zip("qkv", tensor.chunk(3), strict=True)
    return [(renamed.replace(".qkv.", f".{part}_proj."), rows) for part, rows in thirds]

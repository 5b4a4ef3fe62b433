"""Checkpoints of the architectures that transformers itself has -> its model and its tokenizer, from local files only.

Never follows auto_map, never downloads, never unpickles, and takes no weights but exactly the architecture's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.checkpoints.safe import CONFIG, INDEX, read_json, weight_files
from engines.errors import ModelCorrupt, ModelUnsupported

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
PROBLEMS = {
    "missing_keys": "tensor_missing",
    "unexpected_keys": "tensor_unexpected",
    "mismatched_keys": "tensor_shape",
}


def load(
    folder: Path, config: dict[str, Any], dtype: torch.dtype, device: torch.device, attention: str
) -> PreTrainedModel:
    """The folder's causal language model in eval mode.

    Raises ModelUnsupported(file, problem=model_type) for an architecture that transformers does not have, and
    ModelCorrupt(file, problem, tensor) for weights that are not exactly those that the architecture asks for.
    """
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    model_type = str(config.get("model_type"))
    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ModelUnsupported(file=CONFIG, problem=model_type)
    if config.get("quantization_config"):
        raise ModelUnsupported(file=CONFIG, problem="quantization_config")
    model, report = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=dtype,
        attn_implementation=attention,
        ignore_mismatched_sizes=True,  # reported below instead
        output_loading_info=True,
    )
    files = weight_files(folder)
    for kind, problem in PROBLEMS.items():
        for tensor in report[kind]:
            name = tensor if isinstance(tensor, str) else tensor[0]
            raise ModelCorrupt(file=files[0].name if len(files) == 1 else INDEX, problem=problem, tensor=name)
    return model.to(device).eval()


def special_ids(folder: Path) -> dict[str, int]:
    """Ids of the tokens that tokenizer.json adds to its vocabulary, by their text; none where there is no such file."""
    added = read_json(folder / TOKENIZER).get("added_tokens") if (folder / TOKENIZER).exists() else None
    return {str(token["content"]): token["id"] for token in added or []}


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The folder's tokenizer: tokenizer.json as it stands if there is one, else what transformers makes of the rest.

    Raises ModelCorrupt(file, problem) and ModelUnsupported(file, problem) for one that only published code can read.
    """
    if (folder / TOKENIZER).exists():
        from transformers import PreTrainedTokenizerFast

        read_json(folder / TOKENIZER)  # tokenizers has no error of its own
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    config = read_json(folder / TOKENIZER_CONFIG)
    if "auto_map" in config:
        raise ModelUnsupported(file=TOKENIZER_CONFIG, problem=str(config.get("tokenizer_class")))
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)

"""Model folders -> transformers' own models and tokenizers: the one door to the published layouts.

Reads safetensors, JSON and tokenizer.model, never code, never a pickle. Imports no torch until something is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.checkpoints import internlm2, internvl2, native, tokenizer
from engines.checkpoints.safe import CONFIG, check_folder, read_json
from engines.checkpoints.tokenizer import END_OF_TURN
from engines.errors import ModelCorrupt

if TYPE_CHECKING:
    import torch
    from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

PUBLISHED = {  # by model_type, the layouts that transformers itself cannot read
    "internlm2": internlm2.load,
    internvl2.MODEL_TYPE: internvl2.load,
}


def load_model(
    folder: str | Path, *, dtype: torch.dtype | str, device: torch.device | str = "cpu", attention: str = "sdpa"
) -> PreTrainedModel:
    """The model of a folder, in eval mode on `device`. Its generation ends at EOS or <|im_end|> and is greedy.

    `dtype` is a torch.dtype or its name, `attention` is "eager" or "sdpa". No code from the folder runs.
    Raises UnsafeModel(file), ModelCorrupt(file, problem) and ModelUnsupported(file, problem).
    """
    folder = Path(folder)
    check_folder(folder)
    import torch

    config = read_json(folder / CONFIG)
    load = PUBLISHED.get(str(config.get("model_type")), native.load)
    kind = dtype if isinstance(dtype, torch.dtype) else getattr(torch, dtype)
    model = load(folder, config, kind, torch.device(device), attention)
    special = special_ids(folder, config)
    model.generation_config = _generation(model, special.get(END_OF_TURN))
    if _sees_images(config):
        model.config.image_token_id = special.get(internvl2.IMAGE_CONTEXT, internvl2.IMAGE_CONTEXT_ID)
    return model


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder; nothing is written there. Raises ModelCorrupt(file, problem), ModelUnsupported.

    InternVL2's writes the published code's prompt, whatever template lies in the folder.
    """
    folder = Path(folder)
    config = read_json(folder / CONFIG)
    published = _published_tokenizer(folder, config)
    loaded = tokenizer.load(folder) if published else native.load_tokenizer(folder)
    if _sees_images(config):
        if not {internvl2.IMAGE, internvl2.IMAGE_END, internvl2.IMAGE_CONTEXT} <= loaded.get_added_vocab().keys():
            raise ModelCorrupt(file=tokenizer.ADDED, problem="added_tokens")
        loaded.chat_template = internvl2.CHAT_TEMPLATE
    return loaded


def special_ids(folder: Path, config: dict[str, Any]) -> dict[str, int]:
    """Ids of the tokens that a folder's tokenizer adds to its vocabulary, by their text."""
    return (tokenizer if _published_tokenizer(folder, config) else native).special_ids(folder)


def stop_ids(eos: int | list[int] | None, end_of_turn: int | None) -> list[int]:
    """The ids that end an answer."""
    ends = [*eos] if isinstance(eos, list) else [eos]
    return list(dict.fromkeys(i for i in [*ends, end_of_turn] if i is not None))


def _sees_images(config: dict[str, Any]) -> bool:
    return config.get("model_type") == internvl2.MODEL_TYPE


def _published_tokenizer(folder: Path, config: dict[str, Any]) -> bool:
    """Whether tokenizer.model is to be read: it wins over a tokenizer.json, which may be anyone's conversion."""
    published = str(config.get("model_type")) in PUBLISHED
    return published and ((folder / tokenizer.MODEL).exists() or not (folder / native.TOKENIZER).exists())


def _generation(model: PreTrainedModel, end_of_turn: int | None) -> GenerationConfig:
    """Where an answer ends, and nothing else: sampling is the caller's, not the folder's."""
    from transformers import GenerationConfig

    given, config = model.generation_config, model.config.get_text_config()
    eos = given.eos_token_id if given is not None else None
    if eos is None:
        eos = config.eos_token_id
    stops = stop_ids(eos, end_of_turn)
    pad = config.pad_token_id
    return GenerationConfig(
        bos_token_id=config.bos_token_id,
        eos_token_id=stops or None,
        pad_token_id=stops[0] if pad is None and stops else pad,
    )

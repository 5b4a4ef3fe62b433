"""Lets LMDeploy read the published InternVL2 folder as it is: configuration and tokenizer under the names it asks for.

LMDeploy asks transformers' Auto classes, which know neither and would run the folder's own code, were it trusted.
"""

from __future__ import annotations

from typing import Any

from engines.checkpoints import load_tokenizer

TOKENIZER_CLASS = "InternLM2Tokenizer"  # the class that a published tokenizer_config.json names


def register() -> None:
    """Makes `internvl_chat` and its tokenizer known to transformers in this process. May be called again."""
    from transformers import AutoConfig, AutoTokenizer, LlamaConfig, PretrainedConfig
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if "internvl_chat" in CONFIG_MAPPING:
        return

    class InternLM2Config(LlamaConfig):
        model_type = "internlm2"

    class InternVLChatConfig(PretrainedConfig):
        model_type = "internvl_chat"

        def __init__(self, llm_config: Any = None, vision_config: Any = None, **others: Any) -> None:
            others.pop("auto_map", None)
            super().__init__(**others)
            self.llm_config = _of(InternLM2Config, llm_config)
            self.vision_config = _of(PretrainedConfig, vision_config)

    tokenizer = type(TOKENIZER_CLASS, (), {"from_pretrained": classmethod(_tokenizer)})
    AutoConfig.register("internvl_chat", InternVLChatConfig)
    AutoTokenizer.register(InternVLChatConfig, fast_tokenizer_class=tokenizer)


def _of(kind: Any, values: Any) -> Any:
    values = values if isinstance(values, dict) else values.to_dict() if values is not None else {}
    return kind(**{name: value for name, value in values.items() if name not in ("auto_map", "model_type")})


def _tokenizer(cls: type, folder: str, *args: Any, **kwargs: Any) -> Any:
    return load_tokenizer(folder)

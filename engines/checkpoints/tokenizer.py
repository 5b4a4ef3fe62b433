"""InternLM2's tokenizer.model -> a fast transformers tokenizer, with the ids of the published one and none of its code.

Knows the published files and byte-pair encoding. Which text may hold special tokens is for engines/prompt.py to say.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.checkpoints.safe import read_json
from engines.errors import ModelCorrupt, ModelUnsupported

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

MODEL = "tokenizer.model"
CONFIG = "tokenizer_config.json"
ADDED = "added_tokens.json"
END_OF_TURN = "<|im_end|>"
RENAMED = {
    "[UNUSED_TOKEN_141]": "<|plugin|>",
    "[UNUSED_TOKEN_142]": "<|interpreter|>",
    "[UNUSED_TOKEN_143]": "<|action_end|>",
    "[UNUSED_TOKEN_144]": "<|action_start|>",
    "[UNUSED_TOKEN_145]": END_OF_TURN,
    "[UNUSED_TOKEN_146]": "<|im_start|>",
}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
UNUSED = re.compile(r"\[UNUSED_TOKEN_\d+\]")
SPACE = "\u2581"  # what sentencepiece writes for a space


class Kind(IntEnum):
    """The types of pieces in a sentencepiece model."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass
class Sentencepiece:
    """What a tokenizer.model says. Defaults are the format's: a field that has its default value is not written."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)  # text, score, Kind; the index is the id
    trainer: dict[int, Any] = field(default_factory=dict)
    normalizer: dict[int, Any] = field(default_factory=dict)


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder in InternLM2's published layout; nothing is written there.

    `tokenizer(text).input_ids` starts with BOS. Text never gives an unused piece, and with split_special_tokens=True
    no special one. Raises ModelCorrupt(file, problem) and ModelUnsupported(file, problem).
    """
    from transformers import PreTrainedTokenizerFast

    model = read_model(folder / MODEL)
    config = _optional(folder / CONFIG)
    special = special_tokens(folder, model)
    names = {
        "unk_token": _name(config, "unk_token", "<unk>"),
        "bos_token": _name(config, "bos_token", "<s>"),
        "eos_token": _name(config, "eos_token", "</s>"),
        "pad_token": _name(config, "pad_token", "</s>"),
    }
    template = config.get("chat_template")
    return PreTrainedTokenizerFast(
        tokenizer_object=_build(model, special, names, config),
        **names,
        extra_special_tokens=[name for name in special.values() if name not in names.values()],
        chat_template=template if isinstance(template, str) else CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
    )


def special_ids(folder: Path) -> dict[str, int]:
    """Ids of the special tokens by their text; none for a folder without a tokenizer."""
    if not (folder / MODEL).exists():
        return {}
    return {text: i for i, text in special_tokens(folder, read_model(folder / MODEL)).items()}


def special_tokens(folder: Path, model: Sentencepiece) -> dict[int, str]:
    """Special tokens by id: the model's own, those that the folder names, and InternLM2's six where it names none."""
    try:
        decoder = _optional(folder / CONFIG).get("added_tokens_decoder", {})
        named = {int(i): str(token["content"]) for i, token in decoder.items()}
        named |= {int(i): str(text) for text, i in _optional(folder / ADDED).items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ModelCorrupt(file=CONFIG, problem="added_tokens") from None
    special = {}
    for i, (text, _, kind) in enumerate(model.pieces):
        if kind in (Kind.UNKNOWN, Kind.CONTROL):
            special[i] = text
        elif text in RENAMED and RENAMED[text] not in named.values():
            special[i] = RENAMED[text]
    return dict(sorted((special | named).items()))


def _build(model: Sentencepiece, special: dict[int, str], names: dict[str, str], config: dict[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

    texts = {i: text for i, (text, _, _) in enumerate(model.pieces)} | special
    ids = {text: i for i, text in texts.items()}
    if (
        len(ids) != len(texts)
        or set(texts) != set(range(len(texts)))
        or not set(names.values()) <= set(special.values())
    ):
        raise ModelCorrupt(file=CONFIG, problem="added_tokens")
    bpe = models.BPE(ids, _merges(model, special, ids), unk_token=names["unk_token"], fuse_unk=True, byte_fallback=True)
    tokenizer = Tokenizer(bpe)
    prefix = bool(model.normalizer.get(3, 1))
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if prefix else spaces
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if prefix else steps)
    # Special, whatever the folder's flags say: only special tokens can be kept out of a user's text.
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in special.values()])
    tokenizer.post_processor = _ends(names, ids, config)
    return tokenizer


def _ends(names: dict[str, str], ids: dict[str, int], config: dict[str, Any]) -> Any:
    """What encoding puts around a text: BOS before it unless the folder says otherwise, EOS after it if it says so."""
    from tokenizers import processors

    bos = [names["bos_token"]] if config.get("add_bos_token", True) else []
    eos = [names["eos_token"]] if config.get("add_eos_token", False) else []
    return processors.TemplateProcessing(
        single=[*bos, "$A", *eos],
        pair=[*bos, "$A", *eos, *(f"{name}:1" for name in bos), "$B:1", *(f"{name}:1" for name in eos)],
        special_tokens=[(name, ids[name]) for name in dict.fromkeys(bos + eos)],
    )


def _merges(model: Sentencepiece, special: dict[int, str], ids: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces to a third, the most wanted first.

    Ordinary pieces only, by score; before them those that the model keeps whole, which join with nothing further.
    """
    scores = {
        text: score if kind == Kind.NORMAL else math.inf
        for i, (text, score, kind) in enumerate(model.pieces)
        if i not in special and (kind == Kind.NORMAL or (kind == Kind.USER_DEFINED and not UNUSED.fullmatch(text)))
    }
    parts = {text for text, score in scores.items() if score < math.inf}
    merges: list[tuple[str, str]] = []
    for text in sorted(scores, key=scores.__getitem__, reverse=True):
        halves = [
            (text[:cut], text[cut:]) for cut in range(1, len(text)) if text[:cut] in parts and text[cut:] in parts
        ]
        merges += sorted(halves, key=lambda pair: (ids[pair[0]], ids[pair[1]])) if len(halves) > 1 else halves
    return merges


def read_model(path: Path) -> Sentencepiece:
    """Read a sentencepiece model: its pieces, and its trainer's and normalizer's fields by number.

    Raises ModelCorrupt(file, problem="missing"|"syntax"), or ModelUnsupported(file, problem) for one that is not a
    byte-fallback BPE or changes its text. Source: sentencepiece_model.proto.
    """
    model = Sentencepiece()
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                model.pieces.append((piece[1].decode(), struct.unpack("<f", piece[2])[0], piece.get(3, Kind.NORMAL)))
            elif number == 2:
                model.trainer = dict(_fields(value))
            elif number == 3:
                model.normalizer = dict(_fields(value))
    except FileNotFoundError:
        raise ModelCorrupt(file=path.name, problem="missing") from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, struct.error):
        raise ModelCorrupt(file=path.name, problem="syntax") from None
    _check_supported(model, path.name)
    return model


def _check_supported(model: Sentencepiece, file: str) -> None:
    unsupported = {
        "model_type": model.trainer.get(3, 1) != 2,  # BPE
        "byte_fallback": not model.trainer.get(35, 0),
        "treat_whitespace_as_suffix": bool(model.trainer.get(24, 0)),
        "precompiled_charsmap": bool(model.normalizer.get(2, b"")),
        "remove_extra_whitespaces": bool(model.normalizer.get(4, 1)),
        "escape_whitespaces": not model.normalizer.get(5, 1),
        "user_defined_symbols": any(
            kind == Kind.USER_DEFINED and len(text) > 2 and not UNUSED.fullmatch(text) for text, _, kind in model.pieces
        ),
    }
    for name, refused in unsupported.items():
        if refused:
            raise ModelUnsupported(file=file, problem=name)


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protobuf message: their numbers, with an int for a varint and the bytes of anything else."""
    at, end = 0, len(data)
    while at < end:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if wire == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}[wire]
        if at + size > end:
            raise ValueError
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7


def _optional(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _name(config: dict[str, Any], key: str, default: str) -> str:
    """A token of tokenizer_config.json, which is written as its text or as an object with its text."""
    value = config.get(key) or default
    return str(value["content"] if isinstance(value, dict) and "content" in value else value)

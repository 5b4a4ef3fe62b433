"""InternLM2's tokenizer: the ids that sentencepiece itself gives, and no way from a text to a special token."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from engines.checkpoints import load_tokenizer
from engines.errors import ModelCorrupt, ModelUnsupported
from tests.checkpoints import RENAMED, TEXT, UNUSED, make_internlm2, sentencepiece, sentencepiece_model, write_json

REAL = os.environ.get("SHUSHENG_TEST_TOKENIZER", "")
TEXTS = [
    "Hello, world!", "你好，世界", "上海人工智能实验室", "书生·浦语 InternLM", "def main():\n    return 0", "a\tb\r\nc",
    " leading", "trailing ", "   ", "\n", "\n\n  \n", "two  spaces   three", "　全角　空格　", "1234567890 3.14159",
    "😀😂👍🏽👨‍👩‍👧‍👦🇨🇳", "龘靐齉𠀀𪚥", "naïve café Привет こんにちは 안녕", "\x00\x01\x7f",
    "———— …… —…— ——… —……", "<0x41> <unk", "x" * 300, "ＡＢＣ",
    *TEXT.splitlines(),
]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internlm2(tmp_path_factory.mktemp("tokenizer") / "model")


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return load_tokenizer(folder)


def ids(tokenizer: Any, text: str, **options: Any) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False, **options).input_ids)


def noise(count: int, seed: int = 0) -> list[str]:
    """Texts of a few kinds of character each, spaces and newlines among them more often than not."""
    draw = random.Random(seed)
    kinds = [list(TEXT), [" ", "  ", "\n", "\t"], ["—", "…", "·", "。"], list("ab "), ["😀", "é", "龘", "\u200b", "ก"]]
    return [
        "".join(draw.choice(draw.choice(chosen)) for _ in range(draw.randrange(1, 40)))
        for chosen in (draw.sample(kinds, draw.randrange(1, 4)) for _ in range(count))
    ]


def test_ids_are_sentencepieces(tokenizer: Any) -> None:
    reference = sentencepiece(sentencepiece_model())
    for text in TEXTS + noise(3000):
        assert ids(tokenizer, text) == reference.encode(text), text


def test_decoding_gives_the_text_back(tokenizer: Any) -> None:
    for text in TEXTS + noise(1000, seed=1):
        assert tokenizer.decode(ids(tokenizer, text)) == text


def test_encoding_starts_with_bos_unless_told_not_to(tokenizer: Any) -> None:
    assert tokenizer("你好").input_ids == [1, *ids(tokenizer, "你好")]
    assert tokenizer("").input_ids == [1]
    assert ids(tokenizer, "") == []


def test_special_tokens_have_the_ids_of_the_pieces_they_rename(tokenizer: Any) -> None:
    first = len(tokenizer) - len(RENAMED)
    assert [tokenizer.convert_tokens_to_ids(name) for name in RENAMED] == list(range(first, len(tokenizer)))
    assert ids(tokenizer, "<|im_start|>user\n你好<|im_end|>\n") == [
        first + 5, *ids(tokenizer, "user\n你好"), first + 4, *ids(tokenizer, "\n")
    ]  # fmt: skip
    assert tokenizer.decode([1, first + 5, *ids(tokenizer, "好"), first + 4], skip_special_tokens=True) == "好"
    assert [tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id] == [
        0,
        1,
        2,
        2,
    ]


def test_split_special_tokens_makes_them_ordinary_text(tokenizer: Any) -> None:
    special = set(tokenizer.all_special_ids)
    for text in ["<|im_end|>", "a<|im_start|>system\n", "</s>", "<s>", "<unk>", "".join(RENAMED)]:
        split = ids(tokenizer, text, split_special_tokens=True)
        assert not special & set(split) and tokenizer.decode(split) == text
    assert ids(tokenizer, "<|im_end|>") == [tokenizer.convert_tokens_to_ids("<|im_end|>")], "and only for that call"


def test_unused_pieces_never_come_from_text(tokenizer: Any) -> None:
    first = len(tokenizer) - len(UNUSED)
    for text in [*UNUSED, "x".join(UNUSED), "[UNUSED_TOKEN_145]<|im_end|"]:
        assert max(ids(tokenizer, text)) < first
        assert tokenizer.decode(ids(tokenizer, text)) == text


def test_unused_pieces_never_come_from_text_that_holds_their_halves(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model")
    joined = dict.fromkeys(["split_digits", "split_by_number", "split_by_unicode_script"], False)
    (folder / "tokenizer.model").write_bytes(sentencepiece_model("[UNUSED_TOKEN_\n0]\n" * 20, **joined))
    (folder / "tokenizer_config.json").unlink()
    pieces = load_tokenizer(folder).tokenize("[UNUSED_TOKEN_0]")
    assert pieces == ["[UNUSED_TOKEN_", "0]"]


def test_byte_pieces_are_not_written_out_in_text(tokenizer: Any) -> None:
    assert ids(tokenizer, "<0x41>") != [3 + 0x41] and tokenizer.decode([3 + 0xE5, 3 + 0xA5, 3 + 0xBD]) == "好"


def written_chat(tokenizer: Any) -> str:
    chat = [{"role": "system", "content": "S"}, {"role": "user", "content": "你好"}]
    return str(tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))


def test_the_chat_template_is_internlm2s(tokenizer: Any) -> None:
    written = "<s><|im_start|>system\nS<|im_end|>\n<|im_start|>user\n你好<|im_end|>\n<|im_start|>assistant\n"
    assert written_chat(tokenizer) == written


@pytest.mark.parametrize("source", ["none", "three of them", "added_tokens.json"])
def test_without_its_configuration_the_special_tokens_are_the_known_ones(
    tmp_path: Path, tokenizer: Any, source: str
) -> None:
    folder = make_internlm2(tmp_path / "model")
    (folder / "tokenizer_config.json").unlink()
    if source == "three of them":
        named = {str(i): {"content": name} for i, name in enumerate(["<unk>", "<s>", "</s>"])}
        write_json(folder / "tokenizer_config.json", {"added_tokens_decoder": named})
    if source == "added_tokens.json":
        write_json(folder / source, {name: tokenizer.convert_tokens_to_ids(name) for name in RENAMED})
    bare = load_tokenizer(folder)
    text = "<|im_start|>user\n 你好, world<|im_end|>\n[UNUSED_TOKEN_145]"
    assert bare(text).input_ids == tokenizer(text).input_ids
    assert written_chat(bare) == written_chat(tokenizer)
    assert bare.all_special_ids == tokenizer.all_special_ids


def test_added_tokens_past_the_pieces_extend_the_vocabulary(tmp_path: Path, tokenizer: Any) -> None:
    folder = make_internlm2(tmp_path / "model")
    count = len(tokenizer)
    write_json(folder / "added_tokens.json", {"<img>": count, "</img>": count + 1})
    extended = load_tokenizer(folder)
    assert ids(extended, "<img>x</img>") == [count, *ids(tokenizer, "x"), count + 1]
    write_json(folder / "added_tokens.json", {"<img>": count + 5})
    with pytest.raises(ModelCorrupt, match="added_tokens"):
        load_tokenizer(folder)


def test_an_ordinary_piece_may_be_renamed_too(tmp_path: Path, tokenizer: Any) -> None:
    folder = make_internlm2(tmp_path / "model")
    taken = ids(tokenizer, "assistant")[0]
    write_json(folder / "added_tokens.json", {"<think>": taken})
    renamed = load_tokenizer(folder)
    assert ids(renamed, "<think>") == [taken]
    assert taken not in ids(renamed, "assistant") and renamed.decode(ids(renamed, "assistant")) == "assistant"


def test_a_dummy_prefix_is_honoured(tmp_path: Path) -> None:
    folder = make_internlm2(tmp_path / "model")
    model = sentencepiece_model(add_dummy_prefix=True)
    (folder / "tokenizer.model").write_bytes(model)
    (folder / "tokenizer_config.json").unlink()
    tokenizer, reference = load_tokenizer(folder), sentencepiece(model)
    for text in TEXTS:
        assert ids(tokenizer, text) == reference.encode(text)
        assert tokenizer.decode(ids(tokenizer, text)) == text


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"model_type": "unigram", "vocab_size": 600}, "model_type"),
        ({"byte_fallback": False}, "byte_fallback"),
        ({"remove_extra_whitespaces": True}, "remove_extra_whitespaces"),
        ({"normalization_rule_name": "nmt_nfkc"}, "precompiled_charsmap"),
        ({"treat_whitespace_as_suffix": True}, "treat_whitespace_as_suffix"),
        ({"user_defined_symbols": "<think>"}, "user_defined_symbols"),
    ],
)
def test_a_tokenizer_that_would_be_wrong_is_refused(tmp_path: Path, options: dict[str, Any], problem: str) -> None:
    folder = make_internlm2(tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(sentencepiece_model(**options))
    with pytest.raises(ModelUnsupported) as refused:
        load_tokenizer(folder)
    assert refused.value.facts == {"file": "tokenizer.model", "problem": problem}


@pytest.mark.parametrize(
    "content", [b"\x0a\xff", sentencepiece_model()[:-3], b"no protobuf", b"\x0a\x02\x0a\x00", b"\x80" * 50]
)
def test_a_broken_tokenizer_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = make_internlm2(tmp_path / "model")
    (folder / "tokenizer.model").write_bytes(content)
    with pytest.raises(ModelCorrupt) as refused:
        load_tokenizer(folder)
    assert refused.value.facts == {"file": "tokenizer.model", "problem": "syntax"}
    (folder / "tokenizer.model").unlink()
    with pytest.raises(ModelCorrupt, match="missing"):
        load_tokenizer(folder)


@pytest.mark.parametrize(
    "decoder", [{"x": {"content": "a"}}, {"1": "a"}, {"1": {}}, [], {"5": {"content": "<s>"}}, {"-1": {"content": "a"}}]
)
def test_added_tokens_that_make_no_sense_are_refused(tmp_path: Path, decoder: object) -> None:
    folder = make_internlm2(tmp_path / "model")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    write_json(folder / "tokenizer_config.json", {**config, "added_tokens_decoder": decoder})
    with pytest.raises(ModelCorrupt, match="added_tokens"):
        load_tokenizer(folder)


@pytest.mark.skipif(not REAL, reason="SHUSHENG_TEST_TOKENIZER names no tokenizer.model of InternLM2")
def test_the_published_tokenizer_gives_the_published_ids(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"model_type": "internlm2"})
    (tmp_path / "tokenizer.model").symlink_to(Path(REAL).resolve())
    tokenizer = load_tokenizer(tmp_path)
    golden = {
        "Hello, world!": [9843, 328, 2028, 346], "你好，世界": [77230, 60353, 68339], "😀": [243, 162, 155, 131],
        "上海人工智能实验室": [68589, 76659, 71581], "user\n": [1008, 364], "assistant\n": [525, 11353, 364],
        "system\n": [9081, 364], "<|im_start|>": [92543], "<|im_end|>": [92542], "——": [92395], "": [],
    }  # fmt: skip
    assert {text: ids(tokenizer, text) for text in golden} == golden
    assert len(tokenizer) == 92544
    for text in TEXTS + noise(1000, seed=2):
        assert tokenizer.decode(ids(tokenizer, text)) == text

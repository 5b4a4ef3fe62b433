"""Makes tiny random checkpoints in the layouts that the app meets. The weights are noise, so is what the models say.

make_internlm2: as published, with fused wqkv, tokenizer.model, auto_map, and code that betrays being run. make_llama:
an architecture that transformers has itself. make_gguf: the same as llama.cpp writes it.
"""

from __future__ import annotations

import functools
import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy

RENAMED = ["<|plugin|>", "<|interpreter|>", "<|action_end|>", "<|action_start|>", "<|im_end|>", "<|im_start|>"]
UNUSED = [f"[UNUSED_TOKEN_{number}]" for number in (0, 1, 2, *range(141, 147))]
KEPT_WHOLE = ["——", "……"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEXT = """You are an AI assistant whose name is InternLM (书生·浦语).
user: Hello, world! What is the capital of France? It's Paris, isn't it?
assistant: The quick brown fox jumps over the lazy dog, and then over 3 more of them.
system: answer in the language that the person writes in; the answer is 42, or 3.14159.
def main(argv: list[str]) -> int:
    for index, value in enumerate(range(10)):
        print(f"{index}: {value * 2}")  # a comment
    return 0 if argv else 1
{"name": "shusheng", "tags": ["a", "b"], "size": 1024, "ok": true, "url": "https://example.org/a?b=c&d=%20"}
- [link](https://example.org) `code` **bold** _italic_ <b>html</b> a@b.org $x^2 + y^2 = z^2$ 50% #1 ~/path\\file | ;
上海人工智能实验室的书生大模型，英文名叫InternLM，是一个有用无害的人工智能助手。
你好，世界！今天天气怎么样？我们一起去看海吧—…好的—…明天见。
用户提出问题，助手给出回答：请介绍一下你自己，并说明你能做什么。
中国的首都是北京，法国的首都是巴黎。一二三四五六七八九十，百千万亿。
图片里有什么？请用中文描述这张图片的内容、颜色和文字（如果有的话）；不要编造。
"""


def make_internlm2(folder: Path, *, shards: int = 1, seed: int = 0, **geometry: Any) -> Path:
    """A random InternLM2 chat checkpoint as published, of about 200,000 parameters in float32 and 1000 pieces.

    `geometry` is internlm2_config's. Running its code would leave a file named "executed" in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = internlm2_config(add_internlm2_tokenizer(folder), **geometry)
    write_json(folder / "config.json", config)
    write_traps(folder, *(f"{kind}_internlm2" for kind in ("configuration", "modeling", "tokenization")))
    write_weights(folder, internlm2_weights(config, seed), shards)
    return folder


def internlm2_config(
    vocab: int,
    *,
    heads: int = 4,
    kv_heads: int = 2,
    hidden: int = 64,
    layers: int = 2,
    window: int = 2048,
    rope_scaling: dict[str, Any] | None = None,
    bias: bool = False,
    tied: bool = False,
) -> dict[str, Any]:
    """The published configuration; `window` is its context in tokens."""
    names = {"AutoConfig": "configuration_internlm2.InternLM2Config"}
    names |= dict.fromkeys(["AutoModel", "AutoModelForCausalLM"], "modeling_internlm2.InternLM2ForCausalLM")
    return {
        "architectures": ["InternLM2ForCausalLM"], "auto_map": names, "model_type": "internlm2",
        "attn_implementation": "eager", "bias": bias, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2,
        "hidden_act": "silu", "hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "max_position_embeddings": window,
        "rms_norm_eps": 1e-05, "rope_scaling": rope_scaling, "rope_theta": 10000, "tie_word_embeddings": tied,
        "torch_dtype": "float32", "use_cache": True, "vocab_size": vocab, "initializer_range": 0.02,
    }  # fmt: skip


def write_traps(folder: Path, *modules: str) -> None:
    """Code as published beside the weights, which must never run."""
    trap = f"open({str(folder / 'executed')!r}, 'w').close()\nraise SystemExit('published code was run')\n"
    for module in modules:
        (folder / f"{module}.py").write_text(trap, encoding="utf-8")


def internlm2_weights(config: dict[str, Any], seed: int) -> dict[str, numpy.ndarray]:
    hidden, middle, heads = config["hidden_size"], config["intermediate_size"], config["num_attention_heads"]
    fused = (heads + 2 * config["num_key_value_heads"]) * (hidden // heads)
    shapes: dict[str, tuple[int, ...]] = {"model.tok_embeddings.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        shapes[prefix + "attention.wqkv.weight"] = (fused, hidden)
        shapes[prefix + "attention.wo.weight"] = (hidden, hidden)
        if config["bias"]:
            shapes |= {prefix + "attention.wqkv.bias": (fused,), prefix + "attention.wo.bias": (hidden,)}
        shapes |= {prefix + f"feed_forward.{name}.weight": (middle, hidden) for name in ("w1", "w3")}
        shapes[prefix + "feed_forward.w2.weight"] = (hidden, middle)
        shapes |= {prefix + f"{name}.weight": (hidden,) for name in ("attention_norm", "ffn_norm")}
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["output.weight"] = (config["vocab_size"], hidden)
    return random_weights(shapes, seed)


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, numpy.ndarray]:
    """Noise large enough for attention to look somewhere and for logits to be apart; norms are about 1."""
    random = numpy.random.default_rng(seed)
    values = {name: random.standard_normal(shape, numpy.float32) for name, shape in shapes.items()}
    return {name: 1 + value / 10 if "norm" in name else value / 5 for name, value in values.items()}


def write_weights(folder: Path, weights: dict[str, numpy.ndarray], shards: int = 1) -> None:
    """One model.safetensors, or numbered shards with their index."""
    from safetensors.numpy import save_file

    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    numbers = {name: i * shards // len(weights) + 1 for i, name in enumerate(weights)}
    files = {name: f"model-{number:05}-of-{shards:05}.safetensors" for name, number in numbers.items()}
    for file in set(files.values()):
        shard = {name: weights[name] for name in weights if files[name] == file}
        save_file(shard, folder / file, metadata={"format": "pt"})
    total = sum(value.nbytes for value in weights.values())
    write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": files})


def add_internlm2_tokenizer(folder: Path) -> int:
    """tokenizer.model and tokenizer_config.json as published; returns the number of pieces."""
    model = sentencepiece_model()
    (folder / "tokenizer.model").write_bytes(model)
    count = sentencepiece(model).get_piece_size()
    added = {0: "<unk>", 1: "<s>", 2: "</s>"} | dict(enumerate(RENAMED, count - len(RENAMED)))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    config = {
        "added_tokens_decoder": {str(i): {"content": text, **flags} for i, text in added.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_internlm2.InternLM2Tokenizer", None]},
        "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>",
        "chat_template": CHAT_TEMPLATE, "clean_up_tokenization_spaces": False, "tokenizer_class": "InternLM2Tokenizer",
    }  # fmt: skip
    write_json(folder / "tokenizer_config.json", config)
    return count


@functools.cache
def sentencepiece_model(text: str = TEXT, **options: Any) -> bytes:
    """A tokenizer.model like InternLM2's, of about 1000 pieces; the last of them text never gives."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    settings = {
        "model_type": "bpe", "vocab_size": 1000, "hard_vocab_limit": False, "byte_fallback": True, "split_digits": True,
        "add_dummy_prefix": False, "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
        "character_coverage": 1.0, "allow_whitespace_only_pieces": True, "num_threads": 1, "minloglevel": 2,
    }  # fmt: skip
    lines = iter([*text.splitlines(), text])
    SentencePieceTrainer.train(sentence_iterator=lines, model_writer=model, **settings | options)
    # Repeated fields of one protobuf message may be appended to it.
    return model.getvalue() + b"".join(map(_piece, KEPT_WHOLE + UNUSED))


def _piece(text: str) -> bytes:
    name = text.encode()
    # A user-defined piece: it is matched whole, and its score has no meaning.
    piece = b"\x0a" + bytes([len(name)]) + name + b"\x15" + struct.pack("<f", -9999.0) + b"\x18\x04"
    return b"\x0a" + bytes([len(piece)]) + piece


def sentencepiece(model: bytes) -> Any:
    """The library's own processor of a tokenizer.model: what token ids are compared with."""
    from sentencepiece import SentencePieceProcessor

    return SentencePieceProcessor(model_proto=model)


def make_llama(folder: Path, *, tied: bool = True, seed: int = 0) -> Path:
    """A random chat checkpoint like SmolLM2's: Llama with a byte-level BPE of 600 pieces, about 100,000 parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    pieces = _add_bytelevel_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 64,
        "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-05, "rope_theta": 100000.0, "tie_word_embeddings": tied,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2, "vocab_size": pieces, "torch_dtype": "float32",
    }  # fmt: skip
    write_json(folder / "config.json", config)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (pieces, 64), "model.norm.weight": (64,)}
    for layer in range(2):
        name = f"model.layers.{layer}."
        shapes |= {
            name + f"self_attn.{part}_proj.weight": (rows, 64)
            for part, rows in zip("qkvo", (64, 32, 32, 64), strict=True)
        }
        shapes |= {name + "mlp.gate_proj.weight": (128, 64), name + "mlp.up_proj.weight": (128, 64)}
        shapes |= {name + "mlp.down_proj.weight": (64, 128), name + "input_layernorm.weight": (64,)}
        shapes[name + "post_attention_layernorm.weight"] = (64,)
    if not tied:
        shapes["lm_head.weight"] = (pieces, 64)
    write_weights(folder, random_weights(shapes, seed))
    return folder


def _add_bytelevel_tokenizer(folder: Path) -> int:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([TEXT, "2026 " * 9], trainer)  # numbers are pieces, but no text may give them
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, tokenizer.pre_tokenizer])
    tokenizer.save(str(folder / "tokenizer.json"))
    names = {"bos_token": special[1], "eos_token": special[2], "unk_token": special[0], "pad_token": special[2]}
    template = CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    config = {**names, "chat_template": template, "tokenizer_class": "PreTrainedTokenizerFast"}
    write_json(folder / "tokenizer_config.json", config)
    return tokenizer.get_vocab_size()


def make_gguf(file: Path, llama: Path, replaced: dict[str, Any] | None = None) -> dict[str, numpy.ndarray]:
    """A make_llama checkpoint as llama.cpp's converter writes it: Q4_1, its embedding in Q8_0, its norms in float32.

    `replaced` metadata stand in for its own. Returns the weights, by Llama's names, that are in it after quantization.
    """
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFWriter, dequantize, quantize
    from safetensors.numpy import load_file

    metadata = _gguf_metadata(llama) | (replaced or {})
    writer = GGUFWriter(file, metadata.pop("general.architecture"))
    add = {str: writer.add_string, bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32}
    for key, value in metadata.items():
        add.get(type(value), writer.add_array)(key, value)
    stored = {}
    for name, weight in load_file(llama / "model.safetensors").items():
        kind = Kind.F32 if weight.ndim == 1 else Kind.Q8_0 if "embed" in name else Kind.Q4_1
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        rows = weight
        if heads:  # the two halves of each head, interleaved
            rows = weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
        writer.add_tensor(_gguf_name(name), quantize(numpy.ascontiguousarray(rows), kind), raw_dtype=kind)
        stored[name] = dequantize(quantize(weight, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def _gguf_metadata(llama: Path) -> dict[str, Any]:
    config = json.loads((llama / "config.json").read_text())
    tokenizer = json.loads((llama / "tokenizer.json").read_text())
    tokens = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = {token["content"] for token in tokenizer["added_tokens"]}
    return {
        "general.architecture": "llama",
        "llama.context_length": config["max_position_embeddings"],
        "llama.embedding_length": config["hidden_size"],
        "llama.block_count": config["num_hidden_layers"],
        "llama.feed_forward_length": config["intermediate_size"],
        "llama.attention.head_count": config["num_attention_heads"],
        "llama.attention.head_count_kv": config["num_key_value_heads"],
        "llama.attention.layer_norm_rms_epsilon": config["rms_norm_eps"],
        "llama.rope.freq_base": config["rope_theta"],
        "llama.rope.dimension_count": config["hidden_size"] // config["num_attention_heads"],
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if token in special else 1 for token in tokens],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in tokenizer["model"]["merges"]],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": json.loads((llama / "tokenizer_config.json").read_text())["chat_template"],
    }


def _gguf_name(name: str) -> str:
    for old, new in {
        "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    }.items():  # fmt: skip
        name = name.replace(old, new)
    return name


def write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False), encoding="utf-8")

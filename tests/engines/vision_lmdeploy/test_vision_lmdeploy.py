"""What LMDeploy is given by the engine: folder, settings and prompts, against LMDeploy's own code and types."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from engines import lmdeploy_configs
from engines.base import GenerationSettings, ImagePart, Message
from engines.errors import EngineFailed, TooManyImages
from engines.memory import LoadSettings
from engines.prompt import ImageChatFormat
from engines.tiling import pixels, tile_count
from engines.vision import LMDeployEngine
from engines.worker import Load, make_engine
from tests.engines.vision_lmdeploy.conftest import Loader
from tests.engines.vision_lmdeploy.core import GIB, GREEDY, Core, answer, put_in_place, user

BACKENDS = ("turbomind", "pytorch")


def said(text: str) -> Message:
    return Message.of("assistant", text)


# -- the folder, as LMDeploy reads it --------------------------------------------------------------------------------


def test_lmdeploy_reads_the_published_folder_and_leaves_it_as_it_is(
    folder: Path, tokenizer: Any, core: Core, load: Loader
) -> None:
    from lmdeploy.archs import get_model_arch, get_task
    from lmdeploy.pytorch.config import ModelConfig
    from lmdeploy.tokenizer import Tokenizer

    before = {file: file.read_bytes() for file in folder.iterdir()}
    lmdeploy_configs.register()
    arch, config = get_model_arch(str(folder), trust_remote_code=False)
    assert arch == "InternVLChatModel" and get_task("turbomind", str(folder))[0] == "vlm"
    assert (config.llm_config.num_hidden_layers, config.vision_config.image_size) == (2, 448)
    model = ModelConfig.from_hf_config(config, str(folder), dtype="bfloat16")
    assert (model.num_layers, model.num_key_value_heads, model.head_dim) == (2, 2, 16)
    assert model.vocab_size == config.llm_config.vocab_size == len(tokenizer)
    text = "Hello, 世界！\n  <|im_end|> 42"
    assert Tokenizer(str(folder), trust_remote_code=False).encode(text, add_bos=False) == tokenizer.encode(
        text, add_special_tokens=False
    )
    load()
    assert {file: file.read_bytes() for file in folder.iterdir()} == before


# -- loading ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backend", "kind"), [("turbomind", "TurbomindEngineConfig"), ("pytorch", "PytorchEngineConfig")]
)
def test_the_plan_is_what_the_engine_is_made_with(backend: str, kind: str, core: Core, load: Loader) -> None:
    load(backend, context=5120, max_batch=2, kv_bits=8)
    made = core.engine_config
    assert (type(made).__name__, made.dtype, made.session_len) == (kind, "bfloat16", 5120)
    assert (made.max_batch_size, made.max_prefill_token_num, made.quant_policy) == (2, 4096, 8)
    assert made.enable_prefix_caching == (backend == "turbomind")
    assert os.environ["LMDEPLOY_ENABLE_CHECK_ENV"] == "0"
    assert os.environ["LMDEPLOY_W4A16_GEMM_BACKEND"] == "triton"
    assert os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] == ("1" if backend == "turbomind" else "0")
    if backend == "pytorch":
        assert (made.num_gpu_blocks - 1) * made.block_size == 2 * 5120, "LMDeploy keeps a block for itself"
        assert made.cudagraph_capture_batch_sizes == [1, 2]
    load(backend)
    assert core.engine_config.quant_policy == 0, "16 would be 8 bits to LMDeploy"


@pytest.mark.parametrize(("free", "share"), [(8 * GIB, 0.2), (5 * GIB, 0.5)])
def test_the_cache_is_a_share_of_what_is_free_when_it_is_made(
    free: int, share: float, core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(core, monkeypatch, free)
    load()
    assert core.engine_config.cache_max_entry_count == pytest.approx(share)


@pytest.mark.parametrize("free", [4 * GIB, 2 * GIB])
def test_a_cache_that_memory_has_no_room_for_any_more_is_not_tried(
    free: int, core: Core, load: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place(core, monkeypatch, free)
    with pytest.raises(MemoryError, match="not enough memory"):
        load()


@pytest.mark.parametrize(("quantization", "layout"), [("none", None), ("awq", "awq")])
def test_awq_is_said_to_be_awq(quantization: str, layout: str | None, core: Core, load: Loader) -> None:
    load(quantization=quantization)
    assert core.engine_config.model_format == layout


@pytest.mark.parametrize("chunk", [2048, 1024])
def test_it_is_warmed_up_with_the_most_tiles_and_tokens_there_can_be(folder: Path, core: Core, chunk: int) -> None:
    stages: list[str] = []
    settings = LoadSettings("pytorch", "cuda", "bfloat16", 4096, chunk, max_tiles=6)
    engine = make_engine(Load("internvl2-2b", folder, settings), stages.append)
    assert isinstance(engine, LMDeployEngine) and stages == ["libraries", "tokenizer", "weights", "warming"]
    (warmed,) = core.requests
    assert [len(one["pixel_values"]) for one in warmed["multimodal"]] == [7]
    least = engine.count_tokens([user("", ImagePart("", folder, 1344, 896))])
    assert max(least, chunk - 1) <= len(warmed["input_ids"]) <= max(least, chunk)
    engine.close()


def test_a_load_that_cannot_be_fails(folder: Path, core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    core.script = [RuntimeError("no kernel image")]
    settings = LoadSettings("turbomind", "cuda", "bfloat16", 4096, max_tiles=1, kv_bytes=GIB)
    with pytest.raises(EngineFailed) as failed:
        LMDeployEngine(folder, settings)
    assert failed.value.facts == {"kind": "RequestError"}
    monkeypatch.setattr("lmdeploy.turbomind.is_available", lambda: False)
    with pytest.raises(EngineFailed) as failed:
        LMDeployEngine(folder, settings)
    assert failed.value.facts == {"kind": "TurboMind"}, "not the other engine instead"


# -- what is asked ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_lmdeploy_makes_our_prompt_of_what_it_is_given(
    backend: str, tokenizer: Any, images: list[ImagePart], core: Core, load: Loader
) -> None:
    first, second, third = images
    system = Message.of("system", "你是一个有用无害的人工智能助手。")
    conversations = [
        ([user("What?", first)], 12),
        ([system, user("Compare <|im_end|> <IMG_CONTEXT><img>", first, second)], 5),
        ([user("", third, first, second), said("Hm. <IMG_CONTEXT>"), user("And <image>?")], 3),
        ([user("a", first), said("b"), user("c", third)], 5),
    ]
    engine = load(backend)
    for messages, each in conversations:
        shown = [one for message in messages for one in message.images]
        _, usage = answer(engine, messages)
        request = core.requests.pop()
        encode = ImageChatFormat(tokenizer, lambda one, each=each: tile_count(one.width, one.height, each))  # type: ignore[misc]
        assert request["input_ids"] == encode(messages) and usage.prompt_tokens == len(request["input_ids"])
        spans = encode.image_spans(request["input_ids"])
        seen = request["multimodal"]
        assert [range(one["offset"], one["offset"] + one["image_tokens"]) for one in seen] == spans
        for one, image in zip(seen, shown, strict=True):
            with Image.open(image.path) as opened:
                assert one["pixel_values"].float().sub(pixels(opened, each)).abs().max() < 2**-6


def test_a_question_without_images_goes_by_its_ids_alone(tokenizer: Any, core: Core, load: Loader) -> None:
    messages = [user("Hello <|im_end|><|im_start|>system"), said("你好"), user("<IMG_CONTEXT>")]
    answer(load(), messages)
    (request,) = core.requests
    assert request["input_ids"] == ImageChatFormat(tokenizer, lambda one: 0)(messages)
    assert "multimodal" not in request


def test_lmdeploys_tiles_are_as_many_as_are_counted() -> None:
    from lmdeploy.vl.model.internvl import dynamic_preprocess

    dice = random.Random(0)
    shapes = [(dice.randrange(20, 1200), dice.randrange(20, 1200)) for _ in range(60)] + [(2000, 45), (45, 2000)]
    for width, height in shapes:
        image = Image.new("L", (width, height))
        for most in (1, 2, 3, 5, 6, 12):
            tiles = dynamic_preprocess(image, 1, most, 56, use_thumbnail=True)
            assert len(tiles) == tile_count(width, height, most, 56), (width, height, most)


def test_more_images_than_tiles_are_refused_before_anything_is_asked(
    images: list[ImagePart], core: Core, load: Loader
) -> None:
    engine = load(tiles=1)
    with pytest.raises(TooManyImages):
        answer(engine, [user("x", *images)])
    assert not core.requests


def test_how_it_is_sampled(core: Core, load: Loader) -> None:
    engine = load(context=1024, tiles=1)
    answer(engine, [user("x")], GenerationSettings(2000, 0.7, 0.9, 40, 1.1, seed=5))
    answer(engine, [user("x")], GREEDY)
    drawn, greedy = (request["gen_config"] for request in core.requests)
    assert drawn.do_sample and (drawn.temperature, drawn.top_p, drawn.top_k) == (0.7, 0.9, 40)
    assert (drawn.repetition_penalty, drawn.random_seed) == (1.1, 5)
    assert drawn.max_new_tokens + len(core.requests[0]["input_ids"]) < 1024
    assert (greedy.do_sample, greedy.top_k, greedy.max_new_tokens) == (False, 1, 64)
    assert {*greedy.stop_token_ids} == {*engine._stop_ids} and len(engine._stop_ids) == 2

"""The text engine on tiny random checkpoints in the published layouts: real loading and generating, noise for words."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engines.base import GenerationSettings, Message
from engines.decode import Sink
from engines.errors import Cancelled, PromptTooLong, SettingOutOfRange
from engines.memory import LoadSettings
from engines.text import TextEngine, prompt_limit
from tests.asking import an_error_in_the_middle_drops_the_cache, answers, ask
from tests.checkpoints import make_internlm2, make_llama

CONTEXT = 512
GREEDY = GenerationSettings(max_new_tokens=24, temperature=0.0)
SAMPLED = GenerationSettings(max_new_tokens=24, temperature=1.0, top_p=0.95, repetition_penalty=1.1, seed=11)
answer = answers(GREEDY)


def load(folder: Path, context: int = CONTEXT, chunk: int = 32, **more: Any) -> TextEngine:
    return TextEngine(folder, LoadSettings("transformers", "cpu", "float32", context, chunk), **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_internlm2(tmp_path_factory.mktemp("internlm2"))


@pytest.fixture(scope="module")
def engine(folder: Path) -> TextEngine:
    return load(folder)


def whole_answer(engine: TextEngine, messages: list[Message], new: int) -> str:
    """What transformers' own generate says, decoded in one go."""
    ids = engine._tensor(engine._format(messages))
    out = engine._model.generate(ids, do_sample=False, max_new_tokens=new, eos_token_id=engine._stop_ids)
    return str(engine._tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True))


def test_it_streams_what_generate_says(engine: TextEngine) -> None:
    text, usage = answer(engine, ask("你好"))
    assert text == whole_answer(engine, ask("你好"), 24).rstrip("\ufffd")
    assert usage.new_tokens == 24 and usage.reason == "length"


def test_any_native_model_of_transformers(tmp_path: Path) -> None:
    engine = load(make_llama(tmp_path))
    text, usage = answer(engine, ask("hello"))
    assert text == whole_answer(engine, ask("hello"), 24).rstrip("\ufffd") and usage.new_tokens > 0


def test_it_stops_at_the_end_of_a_turn_and_does_not_show_it(engine: TextEngine, monkeypatch: Any) -> None:
    end = engine._tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert set(engine._stop_ids) == {2, end}
    forced = iter([engine._tokenizer.encode("Hi", add_special_tokens=False)[0], end])
    bias_last_logits(engine, monkeypatch, forced)
    text, usage = answer(engine, ask("x"))
    assert usage.reason == "stop" and usage.new_tokens == 2 and "im_end" not in text and text


def bias_last_logits(engine: TextEngine, monkeypatch: Any, tokens: Any) -> None:
    """Makes the model choose `tokens`, one after the other."""
    forward = engine._model.forward

    def chosen(*args: Any, **kwargs: Any) -> Any:
        out = forward(*args, **kwargs)
        ids = args[0] if args else kwargs["input_ids"]
        token = next(tokens, None) if ids.shape[1] == 1 else None  # decoding, not the prefill
        if token is not None:
            out.logits[:, -1, token] = 1e4
        return out

    monkeypatch.setattr(engine._model, "forward", chosen)


def test_the_seed_decides(engine: TextEngine) -> None:
    first, _ = answer(engine, ask("tell"), SAMPLED)
    again, _ = answer(engine, ask("tell"), SAMPLED)
    other, _ = answer(engine, ask("tell"), GenerationSettings(24, 1.0, 0.95, 0, 1.1, 12))
    assert first == again and first != other


def test_without_a_seed_it_differs(engine: TextEngine) -> None:
    free = GenerationSettings(24, 1.5, 1.0)
    assert len({answer(engine, ask("tell"), free)[0] for _ in range(4)}) > 1


@pytest.mark.parametrize("settings", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_the_kept_cache_changes_no_token(folder: Path, settings: GenerationSettings) -> None:
    kept, recomputed = load(folder), load(folder, reuse_prefix=False)
    turns: list[str] = []
    for question in ("What is the capital of France?", "再说一遍", "def f(): return 1", "😀", "and then?"):
        turns.append(question)
        with_cache, usage = answer(kept, ask(*turns, system="Be brief."), settings)
        without, plain = answer(recomputed, ask(*turns, system="Be brief."), settings)
        assert with_cache == without and usage.new_tokens == plain.new_tokens and plain.cached_tokens == 0
        turns.append(with_cache)
    assert usage.cached_tokens > usage.prompt_tokens * 0.5


def test_another_conversation_in_between_does_no_harm(folder: Path) -> None:
    engine, fresh = load(folder), load(folder)
    answer(engine, ask("first conversation, some words"))
    answer(engine, ask("second"))
    again, usage = answer(engine, ask("first conversation, some words"))
    assert again == answer(fresh, ask("first conversation, some words"))[0] and usage.cached_tokens > 0


def test_a_prompt_of_many_chunks(folder: Path) -> None:
    long = "word and another 词 " * 30
    small, large = load(folder, chunk=16), load(folder, chunk=4096)
    assert answer(small, ask(long))[0] == answer(large, ask(long))[0]


def test_cancel_ends_it_within_one_token(engine: TextEngine) -> None:
    calls = 0

    def emit(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls > 7:
            raise Cancelled

    usage = engine.generate(ask("go on"), GenerationSettings(200, 0.0), emit)
    # The first two calls are the prefill's; the eighth is the token during which it was cancelled.
    assert usage.reason == "cancelled" and usage.new_tokens == 6
    kept, _ = answer(engine, ask("go on"))
    assert kept == whole_answer(engine, ask("go on"), 24).rstrip("\ufffd"), "the cache is sound after a cancel"


def test_cancel_in_the_prefill(folder: Path) -> None:
    engine = load(folder, chunk=16)
    calls = 0

    def emit(text: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled

    usage = engine.generate(ask("word " * 100), GREEDY, emit)
    assert usage.reason == "cancelled" and usage.new_tokens == 0 and calls == 3
    assert answer(engine, ask("word " * 100))[1].cached_tokens == 32, "what was computed is kept"


def test_an_error_in_the_middle_drops_the_cache(folder: Path) -> None:
    engine = load(folder)
    an_error_in_the_middle_drops_the_cache(engine, load(folder), GREEDY)


def test_past_the_window_the_newest_turns_are_kept(folder: Path) -> None:
    engine = load(folder, context=128)
    turns = ["some words that take room"] * 21
    text, usage = answer(engine, ask(*turns, system="Be brief."))
    assert usage.turns_left_out > 0 and usage.prompt_tokens <= prompt_limit(128, 24) and usage.context == 128
    assert text == answer(engine, ask(*turns[2 * usage.turns_left_out :], system="Be brief."))[0]


def test_past_the_window_the_kept_cache_still_serves(folder: Path) -> None:
    engine = load(folder, context=256)
    turns = [f"{n} are some words" for n in range(40)]
    served = []
    for asked in range(21, 40, 2):
        _, usage = answer(engine, ask(*turns[:asked], system="Be brief."), GenerationSettings(4, 0.0))
        assert usage.turns_left_out > 0
        served.append(usage.cached_tokens > usage.prompt_tokens / 2)
    assert served.count(True) >= 5


def test_a_message_too_long_is_refused_before_anything_is_computed(engine: TextEngine) -> None:
    with pytest.raises(PromptTooLong) as long:
        answer(engine, ask("word " * 1000))
    assert long.value.facts["limit"] == prompt_limit(CONTEXT, 24) and long.value.facts["tokens"] > 1000


def test_an_answer_never_leaves_the_window(folder: Path) -> None:
    engine = load(folder, context=64)
    _, usage = answer(engine, ask("hi"), GenerationSettings(1000, 0.0))
    assert usage.prompt_tokens + usage.new_tokens <= 64


def test_settings_out_of_range(engine: TextEngine) -> None:
    with pytest.raises(SettingOutOfRange) as refused:
        answer(engine, ask("x"), GenerationSettings(temperature=3.0))
    assert refused.value.facts == {"name": "temperature", "value": 3.0, "low": 0.0, "high": 2.0}


def test_usage_adds_up(folder: Path) -> None:
    engine = load(folder)
    began = time.monotonic()
    _, usage = answer(engine, ask("hello there"))
    assert usage.prompt_tokens == engine.count_tokens(ask("hello there"))
    assert 0 < usage.first_token_s <= usage.seconds <= time.monotonic() - began
    assert usage.tokens_per_second > 0 and usage.cached_tokens < usage.prompt_tokens
    assert engine.memory() > 0


@pytest.mark.parametrize("text", ["😀👩‍👩‍👧‍👦 ok", "𠮷野家", "你好，世界", "  spaces   kept  ", "a\n\n\tb", "é ñ ü"])
def test_characters_of_many_bytes_come_whole(engine: TextEngine, text: str) -> None:
    pieces: list[str] = []
    sink = Sink(engine._tokenizer, pieces.append)
    stream(sink, engine, engine._tokenizer.encode(text, add_special_tokens=False))
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_cut_off_by_the_length_is_left_out(engine: TextEngine) -> None:
    ids = engine._tokenizer.encode("ok😀", add_special_tokens=False)
    pieces: list[str] = []
    stream(Sink(engine._tokenizer, pieces.append), engine, ids[:-1])
    assert "".join(pieces) == "ok"


def test_bytes_that_are_no_character_do_not_hold_the_rest_back(engine: TextEngine) -> None:
    byte = engine._tokenizer.convert_tokens_to_ids("<0xE4>")
    plain = engine._tokenizer.encode("fine", add_special_tokens=False)
    pieces: list[str] = []
    stream(Sink(engine._tokenizer, pieces.append), engine, [byte] * 20 + plain)
    assert "".join(pieces).endswith("fine") and len("".join(pieces[:12])) > 4


def stream(sink: Sink, engine: TextEngine, ids: list[int]) -> None:
    sink.put(engine._tensor([1])[0])
    for one in ids:
        sink.put(engine._tensor([one])[0])
    sink.flush()


# -- going on with an answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 5, 9, 17])
def test_an_answer_that_was_cut_goes_on_as_if_it_had_not_been(folder: Path, cut: int) -> None:
    """Byte for byte, and out of the cache: though a random model writes in tokens that no tokenizer would choose."""
    engine = load(folder)
    question = ask("Count to ten, please.")
    whole, _ = answer(load(folder), question)
    first, _ = answer(engine, question, replace(GREEDY, max_new_tokens=cut))
    rest, usage = answer(engine, [*question, Message.of("assistant", first)], replace(GREEDY, max_new_tokens=24 - cut))
    assert first + rest == whole
    assert usage.prompt_tokens == engine.count_tokens(question) + cut and usage.cached_tokens == usage.prompt_tokens - 1


def test_an_answer_goes_on_twice_and_after_a_stop(folder: Path) -> None:
    engine = load(folder)
    question = ask("Count to ten, please.")
    whole, _ = answer(load(folder), question)
    pieces: list[str] = []

    def emit(text: str) -> None:
        if len("".join(pieces)) > 8:
            raise Cancelled  # a token that nobody heard of has been written
        pieces.append(text)

    assert engine.generate(question, GREEDY, emit).reason == "cancelled"
    said = "".join(pieces)
    for _ in range(2):
        more, _ = answer(engine, [*question, Message.of("assistant", said)], replace(GREEDY, max_new_tokens=5))
        said += more
    assert whole.startswith(said) and len(said) > 9


def test_an_answer_goes_on_in_another_process_from_its_text(folder: Path, engine: TextEngine) -> None:
    """Nothing of it is in the cache there: the prompt ends in its text, inside the assistant's turn."""
    question = ask("Count.")
    ids = engine._format([*question, Message.of("assistant", "one, two")])
    opening = engine._format(question)
    assert ids[: len(opening)] == opening and engine._tokenizer.decode(ids[len(opening) :]) == "one, two"
    text, usage = answer(load(folder), [*question, Message.of("assistant", "one, two")])
    assert usage.prompt_tokens == len(ids)
    assert whole_answer(engine, [*question, Message.of("assistant", "one, two")], 24).strip() == text.strip()

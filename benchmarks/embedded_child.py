"""The contenders of benchmarks.embedded, one a process: our engine, plain transformers, and a conversation of 20 turns.

Usage: python -m benchmarks.embedded_child NAME FOLDER STARTED TOKENS. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from configs.load import load_catalogue
from engines.base import GenerationSettings, Message, Usage
from engines.memory import Wishes
from engines.need import choices
from engines.text import TextEngine
from engines.text_onnx import OnnxTextEngine

QUESTION = "Write a long story about a ship that sails around the world."


def ours(folder: Path, started: float, tokens: int) -> dict[str, float]:
    engine = load(folder)
    ready = time.time() - started
    usage = engine.generate([Message.of("user", QUESTION)], greedy(tokens), lambda text: None)
    return {"load": ready, "first": usage.first_token_s, "rate": usage.tokens_per_second, "peak": peak()}


def plain(folder: Path, started: float, tokens: int) -> dict[str, float]:
    """What the transformers documentation says to do, on the same folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ready = time.time() - started
    turns = [{"role": "user", "content": QUESTION}]
    inputs = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
    more: dict[str, Any] = {"do_sample": False, "max_new_tokens": tokens, "min_new_tokens": tokens}
    began = time.monotonic()
    thread = threading.Thread(target=model.generate, kwargs={**inputs, **more, "streamer": streamer})
    thread.start()
    # A streamer holds text back until a word is whole, so the first piece is not the first token: tokens are timed.
    times: list[float] = []
    put = streamer.put
    streamer.put = lambda value: (times.append(time.monotonic()), put(value))[1]
    for _ in streamer:
        pass
    thread.join()
    first, last = times[1], times[-1]  # the prompt is handed over before any token
    return {"load": ready, "first": first - began, "rate": (len(times) - 2) / (last - first), "peak": peak()}


def turns(folder: Path, reuse: bool) -> dict[str, float]:
    """Time to the first token at every turn of one conversation."""
    figures: dict[str, float] = {}
    for turn, usage in enumerate(conversation(load(folder, reuse)), start=1):
        figures |= {f"turn {turn}": usage.first_token_s, f"prompt {turn}": float(usage.prompt_tokens)}
    return figures


def past(folder: Path, reuse: bool) -> dict[str, float]:
    """Mean time to the first token of the turns that no longer fit a window of 1024 tokens with all before them."""
    times = [one.first_token_s for one in conversation(load(folder, reuse, 1024)) if one.turns_left_out]
    return {"past": sum(times) / len(times), "past turns": float(len(times))}


def conversation(engine: TextEngine) -> Iterator[Usage]:
    """20 turns, whose answers are 60 tokens each."""
    messages: list[Message] = []
    for turn in range(1, 21):
        messages.append(Message.of("user", f"Part {turn}: tell me more about the ship and its crew."))
        pieces: list[str] = []
        yield engine.generate(messages, greedy(60), pieces.append)
        messages.append(Message.of("assistant", "".join(pieces)))


def load(folder: Path, reuse: bool = True, context: int = 8192) -> TextEngine:
    """As the guard plans it for a CPU."""
    settings = choices(load_catalogue()[folder.name], "cpu", Wishes(context=context))[0].settings
    return OnnxTextEngine(folder, settings, home(folder), reuse_prefix=reuse)


def home(folder: Path) -> Path:
    return folder.parent / ".quantized" / folder.name


def greedy(tokens: int) -> GenerationSettings:
    return GenerationSettings(max_new_tokens=tokens, temperature=0.0)


def peak() -> float:
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


if __name__ == "__main__":
    name, where, since, count = sys.argv[1:]
    if name == "ours":
        found = ours(Path(where), float(since), int(count))
    elif name == "plain":
        found = plain(Path(where), float(since), int(count))
    else:
        contender = {"turns": turns, "past": past}[name.removesuffix("-recomputed")]
        found = contender(Path(where), reuse=not name.endswith("-recomputed"))
    print(json.dumps(found))

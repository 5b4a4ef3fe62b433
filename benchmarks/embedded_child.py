"""The contenders of benchmarks.embedded, one a process: our engine, plain transformers, and a conversation of 20 turns.

Usage: python -m benchmarks.embedded_child NAME FOLDER STARTED TOKENS. Prints one line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import threading
import time
from pathlib import Path
from typing import Any

from engines.base import GenerationSettings, Message
from engines.memory import LoadSettings
from engines.text import TextEngine

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


def turns(folder: Path, started: float, tokens: int, reuse: bool = True) -> dict[str, float]:
    """Time to the first token at some turns of one conversation, whose answers are 60 tokens each."""
    engine = load(folder, reuse)
    messages: list[Message] = []
    figures: dict[str, float] = {}
    for turn in range(1, 21):
        messages.append(Message.of("user", f"Part {turn}: tell me more about the ship and its crew."))
        pieces: list[str] = []
        usage = engine.generate(messages, greedy(60), pieces.append)
        messages.append(Message.of("assistant", "".join(pieces)))
        figures |= {f"turn {turn}": usage.first_token_s, f"prompt {turn}": float(usage.prompt_tokens)}
    return figures


def load(folder: Path, reuse: bool = True) -> TextEngine:
    return TextEngine(folder, LoadSettings("transformers", "cpu", "float32", 8192), reuse_prefix=reuse)


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
        found = turns(Path(where), float(since), int(count), reuse=name == "turns")
    print(json.dumps(found))

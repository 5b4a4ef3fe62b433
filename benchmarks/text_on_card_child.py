"""The contenders of benchmarks.text_on_card, one a process, and what they need.

Usage: python -m benchmarks.text_on_card_child NAME FOLDER DEVICE TOKENS STARTED. Prints one line of JSON at the end.
"""

from __future__ import annotations

import gc
import json
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MODEL = "internlm2-chat-1_8b"
ANSWERS = 3
LETTERS = "bcdefgh"
"""In the checkpoint's tokenizer each is a token. Every prompt begins with another: nothing of it was seen before."""

Answer = Callable[[str, int], tuple[float, float, int]]
"""A prompt and how many tokens at most -> seconds to the first token and to the last, and the tokens there were."""


def figures(answer: Answer, started: float, tokens: int) -> dict[str, Any]:
    """What is measured of every contender alike."""
    answer("a" * 20, 1)
    start = time.time() - started
    answer("a" * 200, 32)
    rates, firsts, seconds, made = [], [], time.process_time(), 0
    for letter in LETTERS[:ANSWERS]:
        first, last, count = answer(letter * 200, tokens)
        rates += [(count - 1) / (last - first)] if count > 1 else []  # a tiny model may end an answer at once
        firsts.append(first)
        made += count
    cpu = (time.process_time() - seconds) / made * 1000
    long = [answer(letter * 3000, 2)[0] for letter in LETTERS[ANSWERS : 2 * ANSWERS]]
    middle = statistics.median
    return {"start": start, "rate": middle(rates), "first 200": middle(firsts),
            "first 3000": middle(long), "cpu": cpu}  # fmt: skip


def ours(folder: Path, device: str, tokens: int, started: float, weights: str = "full") -> dict[str, Any]:
    from engines.base import GenerationSettings, Message
    from engines.text import TextEngine

    stages: list[str] = []
    engine = TextEngine(
        folder, planned(device, weights), lambda name: stages.append(f"{name} {time.time() - started:.1f}")
    )
    gc.freeze()  # as engines/worker.py does
    print(f"stages began at: {', '.join(stages)}; loaded {time.time() - started:.1f}", file=sys.stderr)

    def asked(messages: list[Message], new: int) -> Any:
        settings = GenerationSettings(new, 0.8, 0.8, seed=1)
        return engine.generate([Message.of("system", "."), *messages], settings, pieces.append)

    def answer(prompt: str, new: int) -> tuple[float, float, int]:
        usage = asked([Message.of("user", prompt)], new)
        return usage.first_token_s, usage.seconds, usage.new_tokens

    pieces: list[str] = []
    found = figures(answer, started, tokens)
    turns: list[Message] = []
    for turn in range(1, 21):
        turns.append(Message.of("user", f"{turn}" + "a" * 100))
        pieces.clear()
        found[f"turn {turn}"] = asked(turns, 60).first_token_s
        turns.append(Message.of("assistant", "".join(pieces)))
    return found | {"way": engine.decoded_by}


def rounded(folder: Path, device: str, tokens: int, started: float) -> dict[str, Any]:
    return ours(folder, device, tokens, started, "quantized")


def planned(device: str, weights: Any) -> Any:
    from configs.load import load_catalogue
    from engines.memory import LoadSettings, Wishes
    from engines.need import choices

    if device == "cpu":
        bits = 0 if weights == "full" else 4
        return LoadSettings("transformers", "cpu", "float32", 8192, weight_bits=bits, graphs=True)
    spec = next(one for one in load_catalogue().models if one.id == MODEL)
    return choices(spec, "cuda", Wishes(weights=weights))[0].settings


def plain(folder: Path, device: str, tokens: int, started: float) -> dict[str, Any]:
    """What the transformers documentation says to do."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=kind).to(device).eval()
    model.generation_config.eos_token_id = None  # noise may say it at any time

    def answer(prompt: str, new: int) -> tuple[float, float, int]:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False).to(device)
        streamer = TextIteratorStreamer(tokenizer, skip_prompt=True)
        # A streamer holds text back until a word is whole, so the first piece is not the first token: tokens are timed.
        times: list[float] = []
        put = streamer.put
        streamer.put = lambda value: (times.append(time.monotonic()), put(value))[1]
        more = {"do_sample": True, "temperature": 0.8, "top_p": 0.8, "top_k": 0, "max_new_tokens": new}
        began = time.monotonic()
        thread = threading.Thread(target=model.generate, kwargs={**inputs, **more, "streamer": streamer})
        thread.start()
        for _ in streamer:
            pass
        thread.join()
        return times[1] - began, times[-1] - began, len(times) - 1  # the prompt is handed over before any token

    return figures(answer, started, tokens)


def turbomind(folder: Path, device: str, tokens: int, started: float) -> dict[str, Any]:
    """LMDeploy's pipeline as it comes, with room for one answer."""
    os.environ["LMDEPLOY_ENABLE_CHECK_ENV"] = "0"
    import lmdeploy

    config = lmdeploy.TurbomindEngineConfig(
        dtype="bfloat16", session_len=8192, max_batch_size=1, cache_max_entry_count=0.1
    )
    pipe = lmdeploy.pipeline(str(folder), backend_config=config, log_level="ERROR")

    def answer(prompt: str, new: int) -> tuple[float, float, int]:
        wish = lmdeploy.GenerationConfig(max_new_tokens=new, do_sample=True, temperature=0.8, top_p=0.8, top_k=0,
                                         ignore_eos=True)  # fmt: skip
        began, first, last, count, early = time.monotonic(), 0.0, 0.0, 0, 0
        for piece in pipe.stream_infer(prompt, gen_config=wish, do_preprocess=False):
            if piece.generate_token_len > count:
                last, count = time.monotonic() - began, piece.generate_token_len
                first, early = (first, early) if first else (last, count)
        return first, last, count - early + 1

    found = figures(answer, started, tokens)
    pipe.close()
    return found


def roof(folder: Path, device: str, tokens: int, started: float) -> dict[str, Any]:
    """Bytes a second that the device copies, read and written, and those that a token reads of the weights."""
    import torch

    from engines.checkpoints import load_model

    model = load_model(folder, dtype="bfloat16", device=device)
    table = model.get_input_embeddings().weight
    read = sum(one.numel() * one.element_size() for one in model.parameters())
    if model.get_output_embeddings().weight is not table:
        read -= table.numel() * table.element_size()  # of which a token needs one row
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    source = torch.zeros(2**31 if device == "cuda" else 2**27, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(10):
        wait()
        began = time.monotonic()
        for _ in range(5):
            target.copy_(source)
        wait()
        seconds.append((time.monotonic() - began) / 5)
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return {"device": name, "bytes": read, "copy": 2 * source.numel() / statistics.median(seconds)}


def make(folder: Path, device: str, tokens: int, started: float) -> dict[str, Any]:
    """The checkpoint as published, and the same in transformers' own layout."""
    from engines.checkpoints import load_model, load_tokenizer

    published, native = folder / "published", folder / "native"
    if not (published / "config.json").exists():
        if device == "cuda":
            from tests.gpu import checkpoint

            checkpoint.make(published)
        else:
            from tests.checkpoints import make_internlm2

            make_internlm2(published, window=8192)
    model = load_model(published, dtype="bfloat16" if device == "cuda" else "float32")
    # Within the context that is measured, its dynamic rotations are the plain ones, which every peer knows.
    model.config.rope_parameters = {"rope_type": "default", "rope_theta": model.config.rope_parameters["rope_theta"]}
    load_tokenizer(published).save_pretrained(native)
    model.save_pretrained(native)
    return {}


if __name__ == "__main__":
    name, where, kind, count, since = sys.argv[1:]
    contenders = {"ours": ours, "rounded": rounded, "plain": plain, "turbomind": turbomind, "roof": roof, "make": make}
    print(json.dumps(contenders[name](Path(where), kind, int(count), float(since))), flush=True)

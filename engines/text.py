"""A transformers streamer for any native causal model of the catalogue, with the KV cache kept from turn to turn.

Runs in a worker process, on one thread. Knows no conversation's identity: whatever prefix of the new prompt is in the
cache already is reused, the rest is computed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from engines.ahead import collector_paused, start_card, start_kernels
from engines.base import Emit, FinishReason, GenerationSettings, Message, Usage
from engines.checkpoints import load_model, load_tokenizer
from engines.decode import Sink, decoded
from engines.errors import Cancelled
from engines.graphs import Decoder, best_decoder
from engines.kv import KVCache
from engines.memory import LoadSettings
from engines.probe import device_memory, process_memory
from engines.prompt import ChatFormat, Prompt, fit

LATE = 64
"""Tokens that may have been written after an answer was stopped, and before that was heard."""


class TextEngine:
    """One loaded text model. `reuse_prefix` False recomputes every prompt whole, for comparison."""

    parallel = 1
    _decoder: Decoder | None = None
    """Where there is none, transformers' `generate` decodes."""

    def __init__(
        self,
        folder: Path,
        settings: LoadSettings,
        stage: Callable[[str], None] = lambda name: None,
        *,
        reuse_prefix: bool = True,
    ) -> None:
        self._settings = settings
        self._reuse_prefix = reuse_prefix
        with collector_paused():
            stage("libraries")
            self._prepare()
            self._read(folder, stage)
            stage("tokenizer")
            self._tokenizer = load_tokenizer(folder)
        self._format = ChatFormat(self._tokenizer)
        self._cached: list[Hashable] = []
        self._written: list[Hashable] = []
        stage("warming")
        self._warm_up()

    def _prepare(self) -> None:
        self._free_before = device_memory().free
        if self._settings.device == "cuda":
            start_card()
        import torch

        # On Hopper cards torch prefers cuDNN's attention, which fails for want of a workspace where memory is short.
        torch.backends.cuda.enable_cudnn_sdp(False)
        if self._settings.device == "cuda":
            start_kernels(written_in_triton=self._steps)
        self._torch = torch
        self._cores = torch.get_num_threads()

    def _read(self, folder: Path, stage: Callable[[str], None]) -> None:
        stage("weights")
        bits, device = self._settings.weight_bits, self._settings.device
        self._model = load_model(folder, dtype=self._settings.dtype, device="cpu" if bits else device)
        if bits:
            from engines.block_linear import quantize

            quantize(self._model, bits, device)
        eos = self._model.generation_config.eos_token_id
        self._stop_ids: list[int] = [eos] if isinstance(eos, int) else list(eos)
        self._kv: Any = KVCache(self._settings.context)

    def generate(self, messages: Sequence[Message], settings: GenerationSettings, emit: Emit) -> Usage:
        """See engines.base.Engine. A cancelled answer returns its Usage, too."""
        settings = settings.checked()
        started = time.monotonic()
        prompt = self._as_written(self._prompt(messages, settings))
        sink = Sink(self._tokenizer, emit, prompt.ids if messages[-1].role == "assistant" else ())
        reason: FinishReason = "length"
        with self._cache_for(prompt, sink) as cached:
            try:
                self._prefill(prompt, emit)
                self._decode(prompt.ids, settings, sink)
                sink.flush()
                if sink.ids and sink.ids[-1] in self._stop_ids:
                    reason = "stop"
            except Cancelled:
                reason = "cancelled"
        ended = time.monotonic()
        return Usage(
            prompt_tokens=len(prompt.ids),
            cached_tokens=cached,
            new_tokens=len(sink.ids),
            first_token_s=(sink.first_token or ended) - started,
            seconds=ended - started,
            reason=reason,
            context=self._settings.context,
            turns_left_out=prompt.turns_left_out,
            prompt_limit=self._limit(settings),
        )

    def count_tokens(self, messages: Sequence[Message]) -> int:
        return len(self._format(messages))

    def memory(self) -> int:
        """Bytes of the device held: at the peak so far on a card, now on the CPU."""
        if self._settings.device == "cuda":
            return int(self._torch.cuda.max_memory_reserved()) + self._context_bytes()
        return process_memory(os.getpid(), "cpu")

    @property
    def decoded_by(self) -> str:
        """What makes the tokens of this load, as the log has it."""
        return self._decoder.name if self._decoder else "generate"

    def close(self) -> None:
        self._decoder = None
        del self._model, self._kv

    def _context_bytes(self) -> int:
        """What the process holds of the card outside torch's allocator, as far as the driver tells."""
        reserved = int(self._torch.cuda.memory_reserved())
        held = process_memory(os.getpid(), "cuda")
        if not held:  # inside a container the driver does not say which process holds what
            held = self._free_before - int(self._torch.cuda.mem_get_info()[0])
        return max(0, held - reserved)

    def _warm_up(self) -> None:
        """One step through every kernel, so that what cannot run fails now and the first answer is not slower.

        On a card, the step is the largest there will be: what does not fit fails now, too.
        """
        hello = self._format([Message.of("user", "Hello")])
        self._forward(hello)
        self._largest(self._forward)
        if self._steps:
            context, graphs = self._settings.context, self._settings.graphs
            self._decoder = best_decoder(self._model, self._kv, context, graphs, hello, self._largest)
            self._forward(hello)  # what a failed capture broke for good fails the load, and no answer
            self._kv.cut(0)

    @property
    def _steps(self) -> bool:
        """Whether to decode by steps. Of weights in integers `generate` would make every one whole for every token."""
        return self._settings.graphs or bool(self._settings.weight_bits and self._settings.backend == "transformers")

    def _largest(self, forward: Callable[[list[int]], None]) -> None:
        """Puts the largest piece of a prompt, on a card, at the end of the KV cache, which is empty afterwards."""
        if self._settings.device == "cuda":
            chunk = min(self._settings.prefill_chunk, self._settings.context)
            self._kv.cut(self._settings.context - chunk)
            forward([0] * chunk)
        self._kv.cut(0)

    @contextmanager
    def _cache_for(self, prompt: Prompt, sink: Sink) -> Iterator[int]:
        """Cuts the cache back to what it shares with `prompt`, yields that length, and books what it holds after."""
        seen = self._what_is_seen(prompt)
        shared = _common_prefix(seen, self._cached) if self._reuse_prefix else 0
        shared = min(shared, len(seen) - 1)  # the last token must be run to know what follows
        self._kv.cut(shared)
        self._cached = self._written = []  # and so it stays after an error, which may have come between two layers
        yield shared
        self._written = [*seen, *sink.ids]
        self._cached = self._written[: self._kv.length]

    def _as_written(self, prompt: Prompt) -> Prompt:
        """An answer that is to go on, in the very tokens in which it was written, if it was the last thing written.

        Its text, encoded, need not be those: a model may write in other tokens than the tokenizer would.
        """
        *before, last = prompt.messages
        if last.role != "assistant":
            return prompt
        head = replace(prompt, ids=self._encoded(prompt, before))
        written = self._written[len(head.ids) :]
        if self._written[: len(head.ids)] != [*self._what_is_seen(head)]:
            return prompt
        for end in range(len(written), max(0, len(written) - LATE), -1):
            ids = [one for one in written[:end] if isinstance(one, int)]
            if decoded(self._tokenizer, ids).rstrip("\ufffd") == last.text:
                return (
                    replace(prompt, ids=[*head.ids, *ids]) if len(head.ids) + end < self._settings.context else prompt
                )
        return prompt

    def _encoded(self, prompt: Prompt, messages: Sequence[Message]) -> list[int]:
        """Messages as they are encoded in `prompt`."""
        return self._format(messages)

    def _prefill(self, prompt: Prompt, emit: Emit) -> None:
        """Runs all but the last token of the prompt, a chunk at a time so that a cancel is noticed in between."""
        last = len(prompt.ids) - 1
        emit("")
        with self._all_cores():
            for start in range(self._kv.length, last, self._settings.prefill_chunk):
                self._run(prompt, start, min(start + self._settings.prefill_chunk, last), emit)
                emit("")

    def _prompt(self, messages: Sequence[Message], settings: GenerationSettings) -> Prompt:
        return fit(messages, self._format, self._limit(settings))

    def _limit(self, settings: GenerationSettings) -> int:
        return prompt_limit(self._settings.context, settings.max_new_tokens)

    def _what_is_seen(self, prompt: Prompt) -> Sequence[Hashable]:
        """One value for each token: two prompts leave the same in the cache as far as these are equal."""
        return prompt.ids

    def _run(self, prompt: Prompt, start: int, stop: int, emit: Emit) -> None:
        """Puts a piece of the prompt through the model, behind what the cache holds."""
        self._forward(prompt.ids[start:stop])

    @contextmanager
    def _all_cores(self) -> Iterator[None]:
        """For work that computing bounds. Decoding is bound by memory, where the last core adds nothing, and with all
        cores at work every thread waits for the one whose core something else has borrowed, as a browser does."""
        self._torch.set_num_threads(self._cores)
        try:
            yield
        finally:
            self._torch.set_num_threads(max(1, self._cores - 1))

    def _forward(self, ids: list[int]) -> None:
        if self._decoder is not None and self._decoder.reads:
            return self._decoder.read(ids)
        with self._torch.inference_mode():
            self._model(self._tensor(ids), past_key_values=self._kv.cache, use_cache=True, logits_to_keep=1)

    def _decode(self, ids: list[int], settings: GenerationSettings, sink: Sink) -> None:
        if settings.seed is None:
            self._torch.seed()
        else:
            self._torch.manual_seed(settings.seed)
        most = min(settings.max_new_tokens, self._settings.context - len(ids))
        if self._decoder is None:
            self._generate(ids, settings, most, sink)
            return
        try:
            for token in self._decoder.tokens(ids, settings, most):
                sink.add(token)
                if token in self._stop_ids:
                    break
        finally:
            self._kv.cut(len(ids) - 1 + len(sink.ids))

    def _generate(self, ids: list[int], settings: GenerationSettings, most: int, sink: Sink) -> None:
        from transformers import GenerationConfig

        torch = self._torch
        sampled = settings.temperature > 0
        config = GenerationConfig(
            max_new_tokens=most,
            do_sample=sampled,
            repetition_penalty=settings.repetition_penalty,
            eos_token_id=self._stop_ids,
            pad_token_id=self._stop_ids[0],
            **(
                {"temperature": settings.temperature, "top_p": settings.top_p, "top_k": settings.top_k}
                if sampled
                else {}
            ),
        )
        tensor = self._tensor(ids)
        with torch.inference_mode():
            self._model.generate(
                tensor,
                attention_mask=torch.ones_like(tensor),
                generation_config=config,
                past_key_values=self._kv.cache,
                streamer=sink,
            )

    def _tensor(self, ids: list[int]) -> Any:
        return self._torch.tensor([ids], device=self._settings.device)


def prompt_limit(context: int, max_new_tokens: int, kept: int = 4) -> int:
    """Tokens that a prompt may have: the window less room for the answer, at most one part in `kept` of the window."""
    return context - min(max_new_tokens, context // kept)


def _common_prefix(left: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    length = min(len(left), len(right))
    return next((n for n in range(length) if left[n] != right[n]), length)

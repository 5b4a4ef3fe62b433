"""Answers one token a step, each step a captured CUDA graph that is replayed: what bounds it is the card, not Python.

A step reads its token and its position where the step before left them, so the next one is started before the last
one's token has been read: the card never waits. The token comes to the host in pinned memory, with an event.
"""

from __future__ import annotations

import gc
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from engines.base import GenerationSettings
from engines.chooser import Chooser
from engines.kv import KVCache
from engines.step import FusedStep, Step

log = logging.getLogger(__name__)

TRIALS = 3
"""Runs before a capture, in which libraries choose their kernels and take their workspaces."""
ROUNDING = 0.1
"""How far logits may be from the plain forward's, as a part of their own size. bfloat16 gives about a hundredth."""


class WrongResult(Exception):
    """The step does not compute what the model does."""


class Decoder:
    """Decodes with one model and its KV cache, whose buffers are taken as they are.

    With `graphs` on a card every step is one, for each length that attention may read. Without, the same functions are
    called, one after the other. Raises step.NotLlama, and whatever a capture may raise.
    """

    reads = False
    """Whether prompts may be put through `read`, as `check_read` finds out."""

    def __init__(self, model: Any, kv: KVCache, context: int, step: type[Step], graphs: bool = True) -> None:
        import torch

        self._torch, self._model, self._kv = torch, model, kv
        self._device = model.device
        self._graphs = graphs and self._device.type == "cuda"
        with torch.inference_mode():
            self._step = step(model, kv, context)
            self._chooser = Chooser(model.config.vocab_size, self._device)
            self._token = torch.zeros(1, dtype=torch.int64, device=self._device)
            self._position = torch.zeros(1, dtype=torch.int64, device=self._device)
            self._logits = torch.zeros(model.config.vocab_size, dtype=model.dtype, device=self._device)
            self._reader = _Reader(self._token)
            capture = _Capture(torch.cuda, self._start) if self._graphs else lambda work: work
            # The longest first: the memory that its results take does for the others.
            self._buckets = {size: capture(self._forward(size)) for size in reversed(step.lengths(context))}
            self._greedy = capture(lambda: self._take(self._chooser.greedy(self._logits)))
            self._drawn = capture(lambda: self._take(self._chooser.drawn(self._logits)))

    @property
    def name(self) -> str:
        """For logs and benchmarks."""
        graphs = f"{len(self._buckets)} CUDA graphs" if self._graphs else "no graphs"
        return f"{type(self._step).__name__}, {graphs}"

    def tokens(self, ids: Sequence[int], settings: GenerationSettings, most: int) -> Iterator[int]:
        """The answer's tokens after the prompt `ids`, of which the KV cache has all but the last; at most `most`.

        Whoever stops listening cuts the cache: one token more than were given out may lie in its buffers.
        """
        self._reader.reset()
        with self._torch.inference_mode():
            self._start(ids[-1], len(ids) - 1)
            self._chooser.prepare(ids, settings)
        choose = self._drawn if settings.temperature > 0 else self._greedy
        self._run(len(ids), choose)
        for count in range(1, most + 1):
            if count < most:
                self._run(len(ids) + count, choose)
            yield self._reader.next()

    def read(self, ids: Sequence[int]) -> None:
        """Puts a piece of a prompt behind what the KV cache holds."""
        start = self._kv.length
        with self._torch.inference_mode():
            self._step.read(self._torch.tensor([*ids], device=self._device), start)
        self._kv.cut(start + len(ids))

    def check(self, ids: Sequence[int]) -> Any:
        """Compares every graph with the model's own forward after `ids`. -> the logits of that, for `check_read`.

        Raises WrongResult. Empties the KV cache.
        """
        last = len(ids) - 1
        wanted = self._forwarded(ids)
        for size in self._buckets:
            self._compare(size, ids[-1], last, wanted)
        self._kv.cut(0)
        for temperature in (0.0, 1.0):
            self._kv.cut(last)
            settings = GenerationSettings(temperature=temperature, top_k=1)
            (token,) = self.tokens(ids, settings, 1)
            if token != int(self._logits.argmax()) and float(self._logits.max()) != float(self._logits[token]):
                raise WrongResult(f"the likeliest token is not what is chosen at temperature {temperature:.0f}")
        self._kv.cut(0)
        return wanted

    def check_read(self, ids: Sequence[int], wanted: Any) -> None:
        """Compares what `read` leaves of `ids` with what the forward does. Raises WrongResult. Empties the KV cache."""
        if not self._step.reads:
            return
        last = len(ids) - 1
        with self._torch.inference_mode():
            for buffer in itertools.chain(*self._kv.buffers):
                buffer.zero_()  # it holds what is to be read
        self._kv.cut(0)
        for piece in (ids[: last // 2], ids[last // 2 : last]):
            self.read(piece)
        self._compare(max(self._buckets), ids[-1], last, wanted)
        self._kv.cut(0)
        self.reads = True

    def _forwarded(self, ids: Sequence[int]) -> Any:
        """Logits of what follows `ids` as the model itself computes them, with all of them in the cache."""
        with self._torch.inference_mode():
            everything = self._torch.tensor([[*ids]], device=self._device)
            self._kv.cut(0)
            self._model(everything[:, :-1], past_key_values=self._kv.cache, use_cache=True, logits_to_keep=1)
            out = self._model(everything[:, -1:], past_key_values=self._kv.cache, use_cache=True, logits_to_keep=1)
            return out.logits[0, -1].float()

    def _compare(self, size: int, token: int, position: int, wanted: Any) -> None:
        """Raises WrongResult if a step that attends to `size` places gives other logits."""
        with self._torch.inference_mode():
            self._logits.zero_()
            self._start(token, position)
            self._buckets[size]()
            apart = float((self._logits.float() - wanted).norm() / wanted.norm())
        if not apart < ROUNDING:  # nor is it, if it is no number
            raise WrongResult(f"logits of {size} places are {apart:.3f} of their size from the model's")

    def _start(self, token: int, position: int) -> None:
        self._token.fill_(token)
        self._position.fill_(position)

    def _run(self, length: int, choose: Callable[[], None]) -> None:
        """Starts the step that makes the cache `length` long."""
        with self._torch.inference_mode():
            self._buckets[next(size for size in reversed(self._buckets) if size >= length)]()
            choose()
            self._reader.send()

    def _forward(self, size: int) -> Callable[[], None]:
        def run() -> None:
            self._logits.copy_(self._step(self._token, self._position, size))

        return run

    def _take(self, token: Any) -> None:
        """Makes a chosen token the next step's."""
        self._token.copy_(token)
        self._position.add_(1)


def best_decoder(
    model: Any,
    kv: KVCache,
    context: int,
    graphs: bool,
    hello: Sequence[int],
    largest: Callable[[Callable[[list[int]], None]], None],
) -> Decoder | None:
    """A decoder that asks little of the host, if it computes what the model does; None where `generate` must do.

    It is compared on the short prompt `hello`. `largest` has a function read the largest piece that a prompt may have.
    Empties the KV cache.
    """
    decoder = None
    for step in (FusedStep, Step) if model.device.type == "cuda" else (Step,):
        try:
            decoder = Decoder(model, kv, context, step, graphs)
            wanted = decoder.check(hello)
            break
        except Exception as error:
            log.warning("Not decoding by %s: %s", step.__name__, _cause(error))
        decoder = None
        gc.collect()  # its steps hold it, and it holds the weights where it had put them
        _give_back(model)  # not while the error is held, and with it what was made
    if decoder is not None:
        try:
            decoder.check_read(hello, wanted)
            if decoder.reads:
                largest(decoder.read)
        except Exception as error:
            log.warning("Not reading prompts by steps: %s", _cause(error))
            decoder.reads = False
        _give_back(model)
        log.info("Decoding by %s, prompts by %s", decoder.name, "it, too" if decoder.reads else "the model")
    kv.cut(0)
    return decoder


def _give_back(model: Any) -> None:
    """What torch's allocator keeps of the card's memory and nothing uses."""
    import torch

    if model.device.type == "cuda":
        torch.cuda.empty_cache()


def _cause(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


class _Capture:
    """Makes graphs that share their memory: no two of them run at once. `start` readies a step that may be tried."""

    def __init__(self, cuda: Any, start: Callable[[int, int], None]) -> None:
        self._cuda, self._start = cuda, start
        self._pool = cuda.graph_pool_handle()
        self._side = cuda.Stream()  # one for all: libraries take a workspace for every stream

    def __call__(self, work: Callable[[], None]) -> Callable[[], None]:
        """A graph of `work`, to be replayed; while it is captured nothing is computed."""
        self._side.wait_stream(self._cuda.current_stream())
        with self._cuda.stream(self._side):
            for _ in range(TRIALS):
                self._start(0, 0)
                work()
        self._cuda.current_stream().wait_stream(self._side)
        graph = self._cuda.CUDAGraph()
        with self._cuda.graph(graph, pool=self._pool, stream=self._side):
            work()
        return lambda: graph.replay()


class _Reader:
    """Brings the tokens to the host in order, each as soon as it is there, with one more under way."""

    def __init__(self, token: Any) -> None:
        import torch

        self._token = token
        self._host = torch.zeros(2, dtype=token.dtype, pin_memory=token.is_cuda)
        # One that waits asleep: a core is worth more than the microseconds, which the step under way hides.
        self._events = [torch.cuda.Event(blocking=True) for _ in range(2)] if token.is_cuda else []
        self.reset()

    def reset(self) -> None:
        """Forgets what was sent and not taken."""
        self._sent = self._taken = 0

    def send(self) -> None:
        slot = self._sent % 2
        self._host[slot : slot + 1].copy_(self._token, non_blocking=True)
        if self._events:
            self._events[slot].record()
        self._sent += 1

    def next(self) -> int:
        slot = self._taken % 2
        if self._events:
            self._events[slot].synchronize()
        self._taken += 1
        return int(self._host[slot])

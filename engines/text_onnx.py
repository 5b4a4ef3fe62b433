"""The text engine on a CPU: 4- or 8-bit weights in onnxruntime, several times as fast as transformers there.

Imports no torch.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from engines.base import GenerationSettings
from engines.checkpoints.onnx_graph import GRAPH
from engines.decode import Sink
from engines.memory import LoadSettings
from engines.quantize import quantized
from engines.sampling import Sampler
from engines.text import TextEngine

SPIN = 5
"""Microseconds that a thread looks for more work before it sleeps. A step has some 200 operators: a thread that sleeps
after each costs a third of the speed, one that spins for long costs more than that where other programs want its core.
"""


class OnnxTextEngine(TextEngine):
    """One loaded Llama or InternLM2. `home` is where its quantized weights are kept, made there if they are not."""

    def __init__(
        self,
        folder: Path,
        settings: LoadSettings,
        home: Path,
        stage: Callable[[str], None] = lambda name: None,
        *,
        reuse_prefix: bool = True,
    ) -> None:
        self._home = home
        super().__init__(folder, settings, stage, reuse_prefix=reuse_prefix)

    def _prepare(self) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)

    def _read(self, folder: Path, stage: Callable[[str], None]) -> None:
        made = quantized(folder, self._home, self._settings.weight_bits, lambda: stage("quantizing"))
        stage("weights")
        self._kv = self._network = Decoder(made / GRAPH, self._settings.context, physical_cores())
        self._stop_ids = self._network.stops

    def close(self) -> None:
        del self._kv, self._network

    @contextmanager
    def _all_cores(self) -> Iterator[None]:
        yield  # onnxruntime's threads are as many for a prompt as for an answer

    def _forward(self, ids: list[int]) -> None:
        self._network.run(ids)

    def _decode(self, ids: list[int], settings: GenerationSettings, sink: Sink) -> None:
        from numpy import array

        choose = Sampler(settings, ids)
        sink.put(array(ids))
        token = ids[-1]
        for _ in range(min(settings.max_new_tokens, self._settings.context - len(ids))):
            token = choose(self._network.run([token]))
            sink.put(array([token]))
            if token in self._stop_ids:
                break


class Decoder:
    """The session of a graph as write_graph writes it, with the KV cache of one sequence of up to `capacity` tokens."""

    def __init__(self, graph: Path, capacity: int, threads: int) -> None:
        import numpy
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN))
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self.stops = [int(one) for one in self._session.get_modelmeta().custom_metadata_map["stops"].split()]
        self.length = 0
        self._numpy, self._binding = numpy, self._session.io_binding()
        self._logits = onnxruntime.OrtValue.ortvalue_from_numpy(
            numpy.zeros(self._session.get_outputs()[0].shape, numpy.float32)
        )
        self._binding.bind_ortvalue_output("logits", self._logits)
        self._kept = []
        for given in self._session.get_inputs():
            if given.name.startswith("past."):
                _, heads, _, size = given.shape
                # The same memory goes in and comes out: so the new tokens are written behind those that are there.
                buffer = onnxruntime.OrtValue.ortvalue_from_shape_and_type([1, heads, capacity, size], numpy.float32)
                self._binding.bind_ortvalue_input(given.name, buffer)
                self._binding.bind_ortvalue_output(given.name.replace("past.", "present."), buffer)
                self._kept.append(buffer)

    def cut(self, length: int) -> None:
        """Keeps the first `length` tokens."""
        self.length = length

    def run(self, ids: list[int]) -> Any:
        """Puts tokens behind those that are there; the logits [vocabulary] after the last, good until the next run."""
        numpy, total = self._numpy, self.length + len(ids)
        self._binding.bind_cpu_input("input_ids", numpy.array([ids], numpy.int64))
        self._binding.bind_cpu_input("total", numpy.array(total, numpy.int32))
        self._binding.bind_cpu_input("last", numpy.array([total - 1], numpy.int32))
        self._session.run_with_iobinding(self._binding)
        self.length = total
        return self._logits.numpy()[0, 0]


def physical_cores() -> int:
    """Those that this process may use."""
    import psutil

    cores = psutil.cpu_count(logical=False) or os.cpu_count() or 1
    return min(cores, len(os.sched_getaffinity(0))) if hasattr(os, "sched_getaffinity") else cores

"""LMDeploy as far as it goes without a card: all of it, but for the engine behind it and torchvision, which it imports.

Its own pipeline, sessions, preprocessing and decoding run; an engine that says what a test scripts stands behind them.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import types
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from engines.base import GenerationSettings, ImagePart, Message, TextPart, Usage
from engines.vision import LMDeployEngine

GIB = 2**30
GREEDY = GenerationSettings(max_new_tokens=64, temperature=0.0)


def user(text: str, *images: ImagePart) -> Message:
    return Message("user", (*images, TextPart(text)))


def answer(engine: LMDeployEngine, messages: list[Message], settings: GenerationSettings = GREEDY) -> tuple[str, Usage]:
    texts: list[str] = []
    usage = engine.generate(messages, settings, texts.append)
    return "".join(texts), usage


Script = Iterable[int | threading.Event | Exception]


class Core:
    """In TurboMind's place, or the PyTorch engine's. Answers each request with `script`, and remembers it.

    A script is of token ids, events to wait for, and exceptions to raise. Its end is the answer's. `scripts` are for
    the next requests, one each.
    """

    def __init__(self) -> None:
        self.engine_config: Any = None
        self.requests: list[dict[str, Any]] = []
        self.script: Script = [500]
        self.scripts: list[Script] = []
        self.aborted, self.closed = False, False

    def create_instance(self) -> _Handle:
        return _Handle(self)

    def close(self) -> None:
        self.closed = True


class _Handle:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._aborted = False

    async def async_cancel(self, session_id: int) -> None:
        self._aborted = self._core.aborted = True

    async def async_stream_infer(self, session_id: int, **request: Any) -> AsyncIterator[Any]:
        from lmdeploy.messages import EngineOutput, ResponseType

        self._core.requests.append(request)
        self._aborted = self._core.aborted = False
        script = self._core.scripts.pop(0) if self._core.scripts else self._core.script
        for step, after in itertools.pairwise(itertools.chain(script, [None])):
            await asyncio.sleep(0)
            if self._aborted:
                yield EngineOutput(ResponseType.CANCEL, [])
                return
            if isinstance(step, threading.Event):
                await asyncio.to_thread(step.wait)
            elif isinstance(step, Exception):
                raise step
            else:
                yield EngineOutput(ResponseType.FINISH if after is None else ResponseType.SUCCESS, [step])


def put_in_place(core: Core, patch: pytest.MonkeyPatch, free: int = 8 * GIB) -> None:
    """LMDeploy meets `core` behind it, a card with `free` bytes of memory, and what it wants of torchvision."""
    from lmdeploy.serve.core.async_engine import AsyncEngine

    def build(self: Any, model_path: str, backend_config: Any, **options: Any) -> Core:
        assert not options.pop("trust_remote_code")
        core.engine_config = backend_config
        return core

    patch.setattr(AsyncEngine, "_build_turbomind", build)
    patch.setattr(AsyncEngine, "_build_pytorch", build)
    patch.setattr("lmdeploy.turbomind.is_available", lambda: True)
    for module in ("vl.engine", "pytorch.config"):
        patch.setattr(f"lmdeploy.{module}.is_bf16_supported", lambda device: True)
    patch.setattr("torch.cuda.mem_get_info", lambda device=0: (free, 8 * GIB))
    patch.setattr("engines.peak.free_memory", lambda: free)
    for name, module in _torchvision().items():
        patch.setitem(sys.modules, name, module)


def _torchvision() -> dict[str, types.ModuleType]:
    names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
    vision, transforms, functional = modules = [types.ModuleType(name) for name in names]

    def compose(steps: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
        def run(value: Any) -> Any:
            for step in steps:
                value = step(value)
            return value

        return run

    def normalize(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda value: (value - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

    vision.transforms, transforms.functional = transforms, functional  # type: ignore[attr-defined]
    contents = {
        "Compose": compose,
        "Lambda": lambda step: step,
        "Resize": lambda size, interpolation: lambda image: image.resize(size, interpolation),
        "ToTensor": lambda: lambda image: torch.from_numpy(numpy.array(image)).permute(2, 0, 1) / 255,
        "Normalize": normalize,
    }
    vars(transforms).update(contents)
    functional.InterpolationMode = Image.Resampling  # type: ignore[attr-defined]
    return dict(zip(names, modules, strict=True))

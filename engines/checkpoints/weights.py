"""A folder's tensors -> a model's parameters. Threads read them while the model's library is imported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from engines.checkpoints.safe import INDEX, weight_files
from engines.errors import ModelCorrupt

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

Convert: TypeAlias = "Callable[[str, Tensor], list[tuple[str, Tensor]]]"
COPIERS = 4
"""A card takes tensors faster than one thread brings pages of a mapped file in."""


class Weights:
    """While it is entered, threads read all tensors, onto `device` and in `dtype`, in the order of the files.

    Beside them, at most COPIERS lie in memory in the type in which they were stored. On a CPU, what is of the right
    type already is a part of its file until it is used. Nothing is known of the model until `fill`: what that refuses
    has been read like the rest.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        self._files, self._dtype, self._device = weight_files(folder), dtype, device
        self._read: deque[tuple[str, str, Future[Tensor]]] = deque()

    def __enter__(self) -> Self:
        from safetensors import safe_open

        with ExitStack() as opening:
            files = [
                (file.name, opening.enter_context(safe_open(file, framework="pt", device=str(self._device))))
                for file in self._files
            ]
            self._readers = opening.enter_context(ThreadPoolExecutor(COPIERS))
            for name, tensors in files:
                for stored in tensors.keys():
                    self._read.append((name, stored, self._readers.submit(self._one, tensors, stored)))
            self._open = opening.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._readers.shutdown(cancel_futures=True)
        self._open.close()

    def fill(self, model: PreTrainedModel, convert: Convert) -> None:
        """Gives every parameter of a model that lies on the meta device its tensor.

        `convert` turns a stored tensor into (name, tensor) pairs of the model's; its ValueError means a wrong shape.
        Raises ModelCorrupt(file, problem="tensor_missing"|"tensor_unexpected"|"tensor_shape"|"tensor_dtype", tensor).
        """
        from torch.nn import Parameter

        wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
        while self._read:
            file, stored, reading = self._read.popleft()
            tensor = reading.result()
            del reading  # or what was converted would be in memory twice
            try:
                found = convert(stored, tensor)
            except ValueError:
                raise ModelCorrupt(file=file, problem="tensor_shape", tensor=stored) from None
            for name, tensor in found:
                if problem := _misfit(tensor, wanted.pop(name, None)):
                    raise ModelCorrupt(file=file, problem=problem, tensor=stored)
                owner, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(owner), leaf, Parameter(tensor, requires_grad=False))
        for name in wanted:
            whole = self._files[0].name if len(self._files) == 1 else INDEX
            raise ModelCorrupt(file=whole, problem="tensor_missing", tensor=name)

    def _one(self, tensors: Any, stored: str) -> Tensor:
        tensor: Tensor = tensors.get_tensor(stored)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor


def _misfit(tensor: Tensor, shape: torch.Size | None) -> str | None:
    if shape is None:
        return "tensor_unexpected"
    if tensor.shape != shape:
        return "tensor_shape"
    return None if tensor.is_floating_point() else "tensor_dtype"

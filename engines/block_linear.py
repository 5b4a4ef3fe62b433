"""Linear layers whose weights lie in integers: less memory to hold, and less to read for every token."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from engines.checkpoints.blocks import BLOCK, OUTER_BITS, integers, whole
from engines.need_text import WHOLE_AT_ONCE


class BlockLinear(nn.Module):
    """What nn.Linear computes, from a weight [rows, columns] = scale * (integer - zero), as checkpoints.blocks has it.

    integers [rows, columns / 32, 4 * bits] and zeros, uint8; scales [rows, columns / 32], float16. The columns of a
    block lie in the order of `arranged`.
    """

    integers: Tensor
    scales: Tensor
    zeros: Tensor

    def __init__(self, integers: Tensor, scales: Tensor, zeros: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.bits = integers.shape[2] // 4
        self.rows, self.columns = len(integers), integers.shape[1] * BLOCK
        self.register_buffer("integers", integers)
        self.register_buffer("scales", scales.half())
        self.register_buffer("zeros", zeros)
        self.bias = bias

    @classmethod
    def of(cls, layer: nn.Linear, bits: int, device: torch.device | str) -> BlockLinear:
        """A layer's weight in integers of `bits`, on `device`. Raises ValueError for columns that make no blocks."""
        if layer.in_features % BLOCK:
            raise ValueError(f"rows of {layer.in_features}")
        bias = None if layer.bias is None else layer.bias.to(device)
        return cls(*integers(layer.weight.detach(), bits, device, partial(arranged, bits=bits)), bias)

    def forward(self, x: Tensor) -> Tensor:
        x, step = arranged(x, self.bits), max(1, WHOLE_AT_ONCE // self.columns)
        pieces = zip(
            self.integers.split(step), self.scales.to(x.dtype).split(step), self.zeros.split(step), strict=True
        )
        parts = [linear(x, whole(*piece, self.bits)) for piece in pieces]
        product = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return product if self.bias is None else product + self.bias


def arranged(x: Tensor, bits: int) -> Tensor:
    """x [..., columns] in the order in which a weight's columns lie.

    The 32 integers of a block make `bits` words of 32 bits. Those that are neighbours in the weight lie at the same
    place of words that are neighbours, so that whoever takes the words apart needs pieces of x in one go.
    """
    return x.unflatten(-1, (-1, BLOCK // bits, bits)).transpose(-1, -2).flatten(-3)


def quantize(model: nn.Module, bits: int, device: torch.device | str) -> None:
    """Moves a causal model onto `device`, each linear layer's weight rounded to integers of `bits` on its way there.

    The output's have OUTER_BITS. Of no layer more than a piece is on the device in full.
    """
    for name in [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)]:
        layer = model.get_submodule(name)
        assert isinstance(layer, nn.Linear)  # noqa: S101  it is from the list above
        model.set_submodule(name, BlockLinear.of(layer, OUTER_BITS if name.endswith("lm_head") else bits, device))
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()  # or what rounding took stays taken beside the rest
    model.to(device)

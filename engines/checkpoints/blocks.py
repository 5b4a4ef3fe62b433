"""A weight as 4- or 8-bit integers, in blocks with a scale and a zero point each: the layout of MatMulNBits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy import ndarray
    from torch import Tensor

BLOCK = 32
"""Weights that share a scale and a zero point."""


def integers(weight: Tensor, bits: int) -> tuple[ndarray[Any, Any], ndarray[Any, Any], ndarray[Any, Any]]:
    """A weight [rows, columns] in integers: weight = scale * (integer - zero), of each BLOCK of a row.

    -> integers [rows, columns / 32, 4 * bits] and zeros [rows, columns / 32 * bits / 8], uint8, with two of 4 bits in a
    byte, the first in its lower half; scales [rows, columns / 32], float32.
    """
    import torch

    blocks = weight.float().unflatten(1, (-1, BLOCK))
    most = 2**bits - 1
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    scales = (high - low) / most
    scales[scales == 0] = 1
    zeros = (-low / scales).round()
    rounded = (blocks / scales[..., None] + zeros[..., None]).round().clamp(0, most)
    packed, zeros = _packed(rounded.to(torch.uint8), bits), _packed(zeros.to(torch.uint8), bits)
    return packed.numpy(), scales.numpy(), zeros.numpy()


def _packed(integers: Tensor, bits: int) -> Tensor:
    from torch.nn.functional import pad

    if bits == 8:
        return integers
    if integers.shape[-1] % 2:
        integers = pad(integers, (0, 1))
    return integers[..., 0::2] | integers[..., 1::2] << 4

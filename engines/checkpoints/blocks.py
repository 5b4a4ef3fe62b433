"""A weight as 4- or 8-bit integers, in blocks with a scale and a zero point each: the layout of MatMulNBits."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BLOCK = 32
"""Weights that share a scale and a zero point."""
OUTER_BITS = 8
"""Of a weight of the embedding and of the output, where 4 would cost more than they save."""
ROUNDED_AT_ONCE = 2**22
"""Weights that are rounded at once: bounds what that takes beside them, about 16 bytes for each."""


def integers(
    weight: Tensor,
    bits: int,
    device: torch.device | str | None = None,
    arranged: Callable[[Tensor], Tensor] = lambda some: some,
) -> tuple[Tensor, Tensor, Tensor]:
    """A weight [rows, columns] in integers on `device`: weight = scale * (integer - zero), of each BLOCK of a row.

    `arranged` may put the columns of some rows in another order before.

    -> integers [rows, columns / 32, 4 * bits] and zeros [rows, columns / 32 * bits / 8], uint8, with two of 4 bits in a
    byte, the first in its lower half; scales [rows, columns / 32], float32.
    """
    import torch

    pieces = weight.split(max(1, ROUNDED_AT_ONCE // weight.shape[1]))
    parts = [_rounded(arranged(piece.to(device or weight.device).float()), bits) for piece in pieces]
    packed, scales, zeros = (torch.cat(part) for part in zip(*parts, strict=True))
    return packed, scales, zeros


def whole(packed: Tensor, scales: Tensor, zeros: Tensor, bits: int) -> Tensor:
    """The weight [rows, columns] again, in the type of its scales."""
    zeros = _unpacked(zeros, bits)[:, : scales.shape[1], None]
    return _unpacked(packed, bits).to(scales.dtype).sub_(zeros).mul_(scales[..., None]).flatten(1)


def _rounded(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    import torch

    blocks = weight.unflatten(1, (-1, BLOCK))
    most = 2**bits - 1
    low, high = blocks.amin(-1).clamp(max=0), blocks.amax(-1).clamp(min=0)
    scales = (high - low) / most
    scales[scales == 0] = 1
    zeros = (-low / scales).round()
    rounded = (blocks / scales[..., None] + zeros[..., None]).round().clamp(0, most)
    return _packed(rounded.to(torch.uint8), bits), scales, _packed(zeros.to(torch.uint8), bits)


def _unpacked(packed: Tensor, bits: int) -> Tensor:
    import torch

    return packed if bits == 8 else torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def _packed(integers: Tensor, bits: int) -> Tensor:
    from torch.nn.functional import pad

    if bits == 8:
        return integers
    if integers.shape[-1] % 2:
        integers = pad(integers, (0, 1))
    return integers[..., 0::2] | integers[..., 1::2] << 4

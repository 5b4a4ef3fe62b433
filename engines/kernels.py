"""A step's kernels in Triton: what torch does in twenty small ones a layer, done in seven.

A step for one token reads every weight once, and each small kernel costs the card a pause of some microseconds. These
read a weight as fast as memory gives it and do what goes before and after it on the way. Sums are in float32.
Needs Triton, which comes with torch for CUDA on Linux, and a C compiler, which it starts once; the result is kept.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl

from engines.block_linear import BlockLinear


@triton.jit
def _finish(
    first, second, squares, out, rows, eps,
    WIDTH: tl.constexpr, NORMED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """What goes behind a product whose sums are in `first`, of the gated half in `second`, and x's in `squares`."""
    total = tl.sum(first, 1)
    gate = tl.sum(second, 1)
    if NORMED:
        size = tl.rsqrt(tl.sum(squares, 0) / WIDTH + eps)
        total *= size
        gate *= size
    if GATED:
        total = total * tl.sigmoid(total) * gate
    if ADDED:
        total += tl.load(out + rows).to(tl.float32)
    tl.store(out + rows, total.to(out.dtype.element_ty))


@triton.jit
def _linear(
    x, norm, weight, out, eps,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, ROWS: tl.constexpr, COUNT: tl.constexpr,
    NORMED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """out [COUNT] = weight [COUNT or twice that, WIDTH] times x [WIDTH], ROWS a program.

    NORMED: of x after its RMS norm. GATED: silu of the first half's times the second half's. ADDED: added to out.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, BLOCK)
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    squares = tl.zeros([BLOCK], tl.float32)
    for start in range(0, WIDTH, BLOCK):
        at = rows[:, None] * WIDTH + start + columns[None, :]
        part = tl.load(weight + at)
        if GATED:
            other = tl.load(weight + COUNT * WIDTH + at)
        value = tl.load(x + start + columns).to(tl.float32)
        if NORMED:
            squares += value * value
            value *= tl.load(norm + start + columns).to(tl.float32)
        first += part.to(tl.float32) * value[None, :]
        if GATED:
            second += other.to(tl.float32) * value[None, :]
    _finish(first, second, squares, out, rows, eps, WIDTH, NORMED, GATED, ADDED)


@triton.jit
def _dots(integers, zeros, scales, rows, blocks, half, other, BLOCKS_IN_ROW: tl.constexpr, BITS: tl.constexpr):
    """[rows, blocks]: what each block of 32 integers adds to its row's product with values, given as two halves.

    Of 4 bits, two lie in a byte, and the halves are the even places and the odd ones; of 8, the first 16 and the last.
    """
    at = rows[:, None] * BLOCKS_IN_ROW + blocks[None, :]
    byte = at[:, :, None] * (4 * BITS) + tl.arange(0, 16)[None, None, :]
    if BITS == 4:
        pair = tl.load(integers + byte)
        one, two = pair & 15, pair >> 4
        zero = tl.load(zeros + rows[:, None] * ((BLOCKS_IN_ROW + 1) // 2) + (blocks // 2)[None, :])
        zero = (zero >> (blocks % 2 * 4)[None, :].to(tl.uint8)) & 15
    else:
        one, two = tl.load(integers + byte), tl.load(integers + byte + 16)
        zero = tl.load(zeros + at)
    products = one.to(tl.float32) * half[None, :, :] + two.to(tl.float32) * other[None, :, :]
    sums = tl.sum(half + other, 1)
    return tl.load(scales + at).to(tl.float32) * (tl.sum(products, 2) - zero.to(tl.float32) * sums[None, :])


@triton.jit
def _block_linear(
    x, norm, integers, zeros, scales, out, eps,
    WIDTH: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COUNT: tl.constexpr, BITS: tl.constexpr,
    NORMED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """What _linear does, with a weight as engines.block_linear holds it, BLOCKS of a row at a time."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first = tl.zeros([ROWS, BLOCKS], tl.float32)
    second = tl.zeros([ROWS, BLOCKS], tl.float32)
    squares = tl.zeros([BLOCKS], tl.float32)
    place = tl.arange(0, 16)
    for start in range(0, WIDTH // 32, BLOCKS):
        blocks = start + tl.arange(0, BLOCKS)
        if BITS == 4:
            at = blocks[:, None] * 32 + place[None, :] * 2
            beyond = at + 1
        else:
            at = blocks[:, None] * 32 + place[None, :]
            beyond = at + 16
        half = tl.load(x + at).to(tl.float32)
        other = tl.load(x + beyond).to(tl.float32)
        if NORMED:
            squares += tl.sum(half * half + other * other, 1)
            half *= tl.load(norm + at).to(tl.float32)
            other *= tl.load(norm + beyond).to(tl.float32)
        first += _dots(integers, zeros, scales, rows, blocks, half, other, WIDTH // 32, BITS)
        if GATED:
            second += _dots(integers, zeros, scales, rows + COUNT, blocks, half, other, WIDTH // 32, BITS)
    _finish(first, second, squares, out, rows, eps, WIDTH, NORMED, GATED, ADDED)


@triton.jit
def _turn(qkv, rotary, position, query, keys, values, capacity, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
          SIZE: tl.constexpr):  # fmt: skip
    """Rotates queries and keys of one token; the keys and values go to its place in the cache. A head a program."""
    head = tl.program_id(0)
    at = tl.load(position)
    each = tl.arange(0, SIZE)
    own = tl.load(qkv + head * SIZE + each)
    other = tl.load(qkv + head * SIZE + (each + SIZE // 2) % SIZE).to(tl.float32)
    cos = tl.load(rotary + at * 2 * SIZE + each).to(tl.float32)
    sin = tl.load(rotary + at * 2 * SIZE + SIZE + each).to(tl.float32)
    turned = (own.to(tl.float32) * cos + other * sin).to(own.dtype)
    if head < HEADS:
        tl.store(query + head * SIZE + each, turned)
    elif head < HEADS + KV_HEADS:
        tl.store(keys + ((head - HEADS).to(tl.int64) * capacity + at) * SIZE + each, turned)
    else:
        tl.store(values + ((head - HEADS - KV_HEADS).to(tl.int64) * capacity + at) * SIZE + each, own)


@triton.jit
def _attend(query, keys, values, position, sums, tops, weights, capacity, scale, GROUP: tl.constexpr,
            PADDED: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, PARTS: tl.constexpr):  # fmt: skip
    """What the queries that share a key head see in one of PARTS parts of the cache, to be put together.

    sums [kv heads, PARTS, GROUP, SIZE] are weighted by exp(score - top); tops and weights are [kv heads, PARTS, GROUP].
    """
    head, part = tl.program_id(0), tl.program_id(1)
    length = tl.load(position) + 1
    share = tl.cdiv(tl.cdiv(length, BLOCK), PARTS) * BLOCK
    rows, each, some = tl.arange(0, PADDED), tl.arange(0, SIZE), tl.arange(0, BLOCK)
    inside = (rows < GROUP)[:, None]
    asked = tl.load(query + (head * GROUP + rows[:, None]) * SIZE + each[None, :], mask=inside, other=0.0)
    top = tl.full([PADDED], -1e30, tl.float32)
    weight = tl.zeros([PADDED], tl.float32)
    total = tl.zeros([PADDED, SIZE], tl.float32)
    base = head.to(tl.int64) * capacity
    for start in range(part * share, tl.minimum((part + 1) * share, length), BLOCK):
        places = start + some
        there = (places < length)[:, None]
        at = (base + places)[:, None] * SIZE + each[None, :]
        key = tl.load(keys + at, mask=there, other=0.0)
        value = tl.load(values + at, mask=there, other=0.0)
        scores = tl.dot(asked, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where((places < length)[None, :], scores, float("-inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrunk = tl.exp(top - higher)
        odds = tl.exp(scores - higher[:, None])
        weight = weight * shrunk + tl.sum(odds, 1)
        total = total * shrunk[:, None] + tl.dot(odds.to(value.dtype), value, input_precision="ieee")
        top = higher
    at = (head * PARTS + part) * GROUP + rows
    tl.store(tops + at, top, mask=rows < GROUP)
    tl.store(weights + at, weight, mask=rows < GROUP)
    tl.store(sums + at[:, None] * SIZE + each[None, :], total, mask=inside)


@triton.jit
def _combine(sums, tops, weights, seen, GROUP: tl.constexpr, SIZE: tl.constexpr, PARTS: tl.constexpr):
    """Puts the parts of one query head together: seen [heads, SIZE]."""
    head = tl.program_id(0)
    parts, each = tl.arange(0, PARTS), tl.arange(0, SIZE)
    at = (head // GROUP * PARTS + parts) * GROUP + head % GROUP
    tops = tl.load(tops + at)
    shrunk = tl.exp(tops - tl.max(tops, 0))
    weight = tl.sum(tl.load(weights + at) * shrunk, 0)
    total = tl.sum(tl.load(sums + at[:, None] * SIZE + each[None, :]) * shrunk[:, None], 0)
    tl.store(seen + head * SIZE + each, (total / weight).to(seen.dtype.element_ty))


PARTS = 16
"""Of the cache, for each key head: enough programs for a large card."""
BLOCK = 32
"""Places of the cache that a program looks at at once."""


class Kernels:
    """The kernels with their buffers for one model's sizes. Raises ValueError for sizes that they do not fit."""

    def __init__(self, like: Any, heads: int, kv_heads: int, size: int) -> None:
        """`like` is a tensor of the model's type on its device."""
        if size & (size - 1) or heads // kv_heads > 16:
            raise ValueError(f"{heads} heads of {size}, {kv_heads} of keys")
        self._heads, self._kv_heads, self._size, self._group = heads, kv_heads, size, heads // kv_heads
        self._query = like.new_empty(heads, size)
        self._seen = like.new_empty(heads * size)
        self._sums = like.new_empty(kv_heads, PARTS, self._group, size).float()
        self._tops, self._weights = (like.new_empty(kv_heads, PARTS, self._group).float() for _ in range(2))

    def linear(
        self,
        x: Any,
        layer: Any,
        out: Any,
        norm: Any = None,
        eps: float = 0.0,
        gated: bool = False,
        added: bool = False,
    ) -> Any:
        """`out` [count]: the layer's weight [count, width] times x [width]; see _linear for what may go with it."""
        whole = not isinstance(layer, BlockLinear)
        total, width = layer.weight.shape if whole else (layer.rows, layer.columns)
        count = total // 2 if gated else total
        rows, pieces = min(4, count & -count), width & -width  # the largest power of two that divides each
        if pieces < 32:
            raise ValueError(f"rows of {width}")
        norm_or_any = norm if norm is not None else x
        flags = {"NORMED": norm is not None, "GATED": gated, "ADDED": added}
        if whole:
            _linear[(count // rows,)](
                x, norm_or_any, layer.weight, out, eps, WIDTH=width, BLOCK=min(1024, pieces), ROWS=rows, COUNT=count,
                **flags, num_warps=4,
            )  # fmt: skip
        else:
            _block_linear[(count // rows,)](
                x, norm_or_any, layer.integers, layer.zeros, layer.scales, out, eps, WIDTH=width,
                BLOCKS=min(32, pieces // 32), ROWS=rows, COUNT=count, BITS=layer.bits, **flags, num_warps=4,
            )  # fmt: skip
        return out

    def attention(self, qkv: Any, rotary: Any, position: Any, keys: Any, values: Any, scale: float) -> Any:
        """What a token sees, [heads * size], when its own key and value are in their place. See Step for the shapes."""
        capacity, size = keys.shape[1], self._size
        _turn[(self._heads + 2 * self._kv_heads,)](
            qkv, rotary, position, self._query, keys, values, capacity, self._heads, self._kv_heads, size, num_warps=1
        )
        _attend[(self._kv_heads, PARTS)](
            self._query, keys, values, position, self._sums, self._tops, self._weights, capacity, scale,
            self._group, 16, size, BLOCK, PARTS, num_warps=4,
        )  # fmt: skip
        _combine[(self._heads,)](
            self._sums, self._tops, self._weights, self._seen, self._group, size, PARTS, num_warps=4
        )
        return self._seen

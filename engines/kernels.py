"""A step's kernels in Triton: what torch does in twenty small ones a layer, done in seven. Two serve prompts, too.

A step for one token reads every weight once, and each small kernel costs the card a pause of some microseconds. These
read a weight as fast as memory gives it and do what goes before and after it on the way. Sums are in float32.
Needs Triton, which comes with torch for CUDA on Linux, and a C compiler, which it starts once; the result is kept.
"""

from __future__ import annotations

from typing import Any

import torch
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
def _at_place(words, PLACE: tl.constexpr, BITS: tl.constexpr):
    """The integers of BITS that begin at bit PLACE of each word, in float32.

    At its own place in a float whose bits are worth what an integer's are there, it needs no conversion: that is slow.
    """
    LOW: tl.constexpr = PLACE % 16
    integers = (words >> (PLACE - LOW)) & ((2**BITS - 1) << LOW)
    return (integers | ((150 - LOW) << 23)).to(tl.float32, bitcast=True) - 2.0 ** (23 - LOW)


@triton.jit
def _scaled(products, sums, zeros, scales, rows, blocks, BLOCKS_IN_ROW: tl.constexpr, BITS: tl.constexpr):
    """[rows, blocks]: what the products of each block's integers with x come to, of which it adds up to `sums`."""
    at = rows[:, None] * BLOCKS_IN_ROW + blocks[None, :]
    if BITS == 4:
        pair = tl.load(zeros + rows[:, None] * ((BLOCKS_IN_ROW + 1) // 2) + (blocks // 2)[None, :]).to(tl.int32)
        zero = (pair >> (blocks % 2 * 4)[None, :]) & 15
    else:
        zero = tl.load(zeros + at)
    return tl.load(scales + at).to(tl.float32) * (tl.sum(products, 2) - zero.to(tl.float32) * sums[None, :])


@triton.jit
def _block_linear(
    x, norm, words, zeros, scales, out, eps,
    WIDTH: tl.constexpr, BLOCKS: tl.constexpr, ROWS: tl.constexpr, COUNT: tl.constexpr, BITS: tl.constexpr,
    NORMED: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
):  # fmt: skip
    """What _linear does, with a weight as engines.block_linear holds it, BLOCKS of a row at a time.

    A block is BITS words; a round takes as many neighbours of x, and the integers that lie at one place of the words.
    """
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    each = tl.arange(0, BITS)
    first = tl.zeros([ROWS, BLOCKS], tl.float32)
    second = tl.zeros([ROWS, BLOCKS], tl.float32)
    squares = tl.zeros([BLOCKS], tl.float32)
    for start in range(0, WIDTH // 32, BLOCKS):
        blocks = start + tl.arange(0, BLOCKS)
        at = (rows[:, None] * (WIDTH // 32) + blocks[None, :])[:, :, None] * BITS + each[None, None, :]
        one = tl.load(words + at)
        products = tl.zeros([ROWS, BLOCKS, BITS], tl.float32)
        if GATED:
            two = tl.load(words + COUNT * (WIDTH // 32) * BITS + at)
            others = tl.zeros([ROWS, BLOCKS, BITS], tl.float32)
        sums = tl.zeros([BLOCKS, BITS], tl.float32)
        for place in tl.static_range(0, 32, BITS):
            where = blocks[:, None] * 32 + place + each[None, :]
            value = tl.load(x + where).to(tl.float32)
            if NORMED:
                squares += tl.sum(value * value, 1)
                value *= tl.load(norm + where).to(tl.float32)
            sums += value
            products += _at_place(one, place, BITS) * value[None, :, :]
            if GATED:
                others += _at_place(two, place, BITS) * value[None, :, :]
        total = tl.sum(sums, 1)
        first += _scaled(products, total, zeros, scales, rows, blocks, WIDTH // 32, BITS)
        if GATED:
            second += _scaled(others, total, zeros, scales, rows + COUNT, blocks, WIDTH // 32, BITS)
    _finish(first, second, squares, out, rows, eps, WIDTH, NORMED, GATED, ADDED)


@triton.jit
def _turn(qkv, rotary, position, query, keys, values, capacity, HEADS: tl.constexpr, KV_HEADS: tl.constexpr,
          SIZE: tl.constexpr):  # fmt: skip
    """Rotates queries and keys of tokens; the keys and values go to their places in the cache. One head a program."""
    head, token = tl.program_id(0), tl.program_id(1).to(tl.int64)
    at = tl.load(position + token)
    each = tl.arange(0, SIZE)
    base = qkv + (token * (HEADS + 2 * KV_HEADS) + head) * SIZE
    own = tl.load(base + each)
    other = tl.load(base + (each + SIZE // 2) % SIZE).to(tl.float32)
    cos = tl.load(rotary + at * 2 * SIZE + each).to(tl.float32)
    sin = tl.load(rotary + at * 2 * SIZE + SIZE + each).to(tl.float32)
    turned = (own.to(tl.float32) * cos + other * sin).to(own.dtype)
    if head < HEADS:
        tl.store(query + (token * HEADS + head) * SIZE + each, turned)
    elif head < HEADS + KV_HEADS:
        tl.store(keys + ((head - HEADS).to(tl.int64) * capacity + at) * SIZE + each, turned)
    else:
        tl.store(values + ((head - HEADS - KV_HEADS).to(tl.int64) * capacity + at) * SIZE + each, own)


@triton.jit
def _gate(both, out, COUNT: tl.constexpr, BLOCK: tl.constexpr):
    """out [n, COUNT]: silu of the first half of both [n, 2 * COUNT] times the second half."""
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < COUNT
    gate = tl.load(both + row * 2 * COUNT + column, mask=inside).to(tl.float32)
    up = tl.load(both + (row * 2 + 1) * COUNT + column, mask=inside).to(tl.float32)
    tl.store(out + row * COUNT + column, (gate * tl.sigmoid(gate) * up).to(out.dtype.element_ty), mask=inside)


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


TILES = {0: (4, 1024), 4: (4, 4096), 8: (8, 1024)}
"""By the bits of a weight, 0 for whole ones: the rows and columns of a product that a program does at once, at most.
Those that were fastest on an H200."""


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
        pieces = width & -width  # the largest power of two that divides it
        if pieces < 32:
            raise ValueError(f"rows of {width}")
        norm_or_any = norm if norm is not None else x
        most, block = TILES[0 if whole else layer.bits]
        rows, block = min(most, count & -count), min(block, pieces)
        flags = {"NORMED": norm is not None, "GATED": gated, "ADDED": added}
        if whole:
            _linear[(count // rows,)](
                x, norm_or_any, layer.weight, out, eps, WIDTH=width, BLOCK=block, ROWS=rows, COUNT=count, **flags,
                num_warps=4,
            )  # fmt: skip
        else:
            _block_linear[(count // rows,)](
                x, norm_or_any, layer.integers.view(torch.int32), layer.zeros, layer.scales, out, eps, WIDTH=width,
                BLOCKS=block // 32, ROWS=rows, COUNT=count, BITS=layer.bits, **flags, num_warps=max(1, block // 1024),
            )  # fmt: skip
        return out

    def turn(self, qkv: Any, rotary: Any, at: Any, query: Any, keys: Any, values: Any) -> None:
        """Of qkv [n, heads and twice kv heads, size]: rotated queries into `query`, the others to the places at [n]."""
        _turn[(self._heads + 2 * self._kv_heads, len(at))](
            qkv, rotary, at, query, keys, values, keys.shape[1], self._heads, self._kv_heads, self._size, num_warps=1
        )

    def gate(self, both: Any) -> Any:
        """[n, count]: silu of the first half of both [n, 2 * count] times the second half."""
        count = both.shape[1] // 2
        out = both.new_empty(len(both), count)
        _gate[(len(both), triton.cdiv(count, 1024))](both, out, COUNT=count, BLOCK=1024, num_warps=4)
        return out

    def attention(self, qkv: Any, rotary: Any, position: Any, keys: Any, values: Any, scale: float) -> Any:
        """What a token sees, [heads * size], when its own key and value are in their place. See Step for the shapes."""
        capacity, size = keys.shape[1], self._size
        self.turn(qkv, rotary, position, self._query, keys, values)
        _attend[(self._kv_heads, PARTS)](
            self._query, keys, values, position, self._sums, self._tops, self._weights, capacity, scale,
            self._group, 16, size, BLOCK, PARTS, num_warps=4,
        )  # fmt: skip
        _combine[(self._heads,)](
            self._sums, self._tops, self._weights, self._seen, self._group, size, PARTS, num_warps=4
        )
        return self._seen

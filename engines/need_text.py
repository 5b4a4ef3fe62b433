"""What a load of a text model takes: onnxruntime's on a CPU, transformers' on a card. Pure arithmetic.

Constants were measured on an H100 and an H200 (docs/gpu-verification.md) and on an EPYC (docs/benchmarks.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from configs.schema import DTYPE_BYTES, ModelSpec
from engines.checkpoints.blocks import BLOCK, OUTER_BITS
from engines.memory import GIB, MIB, PREFILL_CHUNK, Choice, Kind, LoadSettings, Need, Wishes
from engines.step import doubling

CONTEXT_LADDER = (32768, 16384, 8192, 4096, 2048, 1024)
COMFORTABLE = 4000
"""Tokens of a real conversation, or of an image in full detail and an answer."""

CUDA_CONTEXT = 688 * MIB
"""Driver context, kernels and cuBLAS workspace of one torch process: 678 MiB on an H100, less on smaller cards."""
ALLOCATOR_SLACK = 96 * MIB
"""What torch's allocator holds in pieces too small to use, as measured; docs/gpu-verification.md."""
CPU_CONTEXT = 420 * MIB
"""A worker process with torch and transformers imported, before any weight."""
ONNX_CONTEXT = 120 * MIB
"""A worker process with onnxruntime and the tokenizer imported, before any weight."""
ONNX_PACKED = 118
"""Hundredths of the file that weights take: onnxruntime keeps them in an order of its own, some of them twice."""
ONNX_CHUNK = 128
"""Tokens of a prefill at once: bounds the attention's scores, which are whole there, and how long a cancel waits."""

GRAPHS = (256 * MIB, 8 * MIB)
"""What engines/graphs.py takes: so much, and so much for each length it has a graph for. On an H200 so
much was held beyond the rest of the plan that 128 MiB were too few by 102."""

STEPS = 104 * MIB
"""What the same takes without graphs: its buffers, and Triton's kernels. On H200s 53 to 109 MiB were held beyond the
rest of the plan."""

WHOLE_AT_ONCE = 2**23
"""Weights in integers that are made whole at once for a product: with what that leaves behind, thrice their size."""

LARGE_CHUNK = 4096
"""Tokens of a prefill at once on a card with memory to spare: less of it is waiting for the host to start kernels."""

BESIDE_BATCH = 6 * GIB
"""Memory is to spare if so much is left free: room for another model at its side, as there is without it."""

CORE_BYTES = 10e9
"""Bytes of weights a second that one core of a server's CPU gets through, as measured with both text models; for an
estimate. Memory has no more for many cores than for CORES_OF_USE."""
CORES_OF_USE = 4


def texts(spec: ModelSpec, kind: Kind, wishes: Wishes) -> Iterator[Choice]:
    """The ways to load one, the best first: memory is for the context, then for graphs, then for speed at the start.

    On a card a smaller context goes before weights in integers, which cost the answers something.
    """
    rounded = bool(spec.integer_bits) and wishes.weights != "full"
    if kind == "cpu":
        if rounded and wishes.without != "onnxruntime" and wishes.backend != "native":
            yield from (_quantized(spec, kind, context) for context in _contexts(spec, wishes))
        else:
            yield from (_text(spec, kind, context) for context in _contexts(spec, wishes))
        return
    rounded = rounded and wishes.without != "transformers"  # which has failed, and may have by that
    if not rounded or wishes.weights != "quantized":
        yield from _whole(spec, wishes)
    if rounded:
        # A smaller context goes before graphs, too: without them the host starts each of many kernels.
        for graphs in (True, False) if wishes.below is None else (False,):
            yield from (_text(spec, kind, one, spec.integer_bits, graphs=graphs) for one in _contexts(spec, wishes))


def _whole(spec: ModelSpec, wishes: Wishes) -> Iterator[Choice]:
    last = []
    for context in _contexts(spec, wishes):
        plain, graphs = (_text(spec, "cuda", context, graphs=graphs) for graphs in (False, True))
        if wishes.below is None:
            yield _text(spec, "cuda", context, large=True, graphs=True)
            yield graphs
        # What failed with graphs may have failed by them, or for want of more memory than they take: that comes first.
        if graphs.need.total == wishes.below:
            last.append(plain)
        else:
            yield plain
    yield from last


def _text(
    spec: ModelSpec, kind: Kind, context: int, bits: int = 0, large: bool = False, graphs: bool = False
) -> Choice:
    """`large`: with large pieces of a prompt, where nothing else has a use for the memory."""
    dtype = spec.dtype if kind == "cuda" else spec.cpu_dtype
    chunk = min(LARGE_CHUNK, context) if large else PREFILL_CHUNK
    settings = LoadSettings("transformers", kind, dtype, context, chunk, weight_bits=bits, graphs=graphs)
    need = need_of(spec, kind, context, chunk, bits)
    fixed, each = GRAPHS if graphs else (STEPS if bits else 0, 0)
    need = replace(need, workspace=need.workspace + fixed + each * len(doubling(context)))
    shape = spec.shape
    # Before they are rounded, query, key and value are taken apart on the host where a checkpoint has them in one.
    qkv = shape.layers * shape.hidden * shape.head_dim * (shape.heads + 2 * shape.kv_heads)
    host = DTYPE_BYTES[dtype] * qkv if bits else 0
    return Choice(settings, need, context >= COMFORTABLE, BESIDE_BATCH if large else 0, host)


def _quantized(spec: ModelSpec, kind: Kind, context: int) -> Choice:
    """onnxruntime on a CPU: integer weights, all else in float32, each head's keys and values once."""
    shape = spec.shape
    widest = (3 * shape.intermediate + 4 * shape.hidden) * 4 * ONNX_CHUNK
    need = Need(
        weights=ONNX_PACKED * quantized_bytes(spec) // 100,
        kv_cache=token_bytes(spec, 32) * context,
        vision=0,
        workspace=widest + 2 * shape.heads * ONNX_CHUNK * 4 * context + 40 * shape.vocab,
        context=ONNX_CONTEXT,
    )
    settings = LoadSettings("onnxruntime", kind, "float32", context, ONNX_CHUNK, weight_bits=spec.integer_bits)
    return Choice(settings, need, context >= COMFORTABLE)


def quantized_bytes(spec: ModelSpec) -> int:
    """A decoder's weights as onnxruntime's engine has them, embedding and output too (checkpoints/onnx_graph.py)."""
    outer = 2 * spec.shape.vocab * spec.shape.hidden
    return integer_bytes(linear_weights(spec), spec.integer_bits, 32) + integer_bytes(outer, OUTER_BITS, 32)


def integer_bytes(weights: int, bits: int, scale_bits: int) -> int:
    """Weights in integers, with a scale and a zero point for each block (checkpoints/blocks.py)."""
    return weights * ((BLOCK + 1) * bits + scale_bits) // (8 * BLOCK)


def linear_weights(spec: ModelSpec) -> int:
    """How many weights a decoder's layers multiply with, embedding and output not counted."""
    shape = spec.shape
    attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
    return shape.layers * (attention + 3 * shape.hidden * shape.intermediate)


def cpu_speed(spec: ModelSpec, cores: int) -> float:
    """About how many tokens a second onnxruntime makes on a CPU: it reads every weight once for each."""
    row = quantized_bytes(spec) - spec.shape.vocab * spec.shape.hidden * 37 // 32  # of the embedding it reads one row
    return CORE_BYTES * min(cores, CORES_OF_USE) / row


def _contexts(spec: ModelSpec, wishes: Wishes) -> list[int]:
    if wishes.context is not None:
        return [min(wishes.context, spec.window)]
    most = min(wishes.usual_context, spec.window)
    return [most, *(step for step in CONTEXT_LADDER if step < most)]


def need_of(spec: ModelSpec, kind: Kind, context: int, chunk: int = PREFILL_CHUNK, bits: int = 0) -> Need:
    """The peak of a text model with `context` tokens of KV cache, `chunk` of a prompt at once.

    With `bits`, weights are as engines/block_linear.py holds them; the embedding stays as it is. Workspace is one
    prefill chunk through the widest layer, its attention mask and the keys and values of one layer repeated to all
    heads, and the sampler's copies of one row of logits. Keys and values are repeated when no weight is whole.
    """
    shape = spec.shape
    size = DTYPE_BYTES[spec.dtype if kind == "cuda" else spec.cpu_dtype]
    widest = (3 * shape.intermediate + 4 * shape.hidden) * size * chunk
    repeated = 2 * shape.heads * shape.head_dim * size * context
    mask = (1 + size) * chunk * context
    logits = 40 * shape.vocab
    weights, made_whole = shape.parameters * size, 0
    if bits:
        outer = shape.vocab * shape.hidden
        weights = integer_bytes(linear_weights(spec), bits, 16) + integer_bytes(outer, OUTER_BITS, 16) + outer * size
        made_whole = 3 * WHOLE_AT_ONCE * size
    return Need(
        weights=weights,
        kv_cache=token_bytes(spec, 8 * size) * context,
        vision=0,
        workspace=widest + mask + max(repeated, made_whole) + logits + (ALLOCATOR_SLACK if kind == "cuda" else 0),
        context=CUDA_CONTEXT if kind == "cuda" else CPU_CONTEXT,
    )


def token_bytes(spec: ModelSpec, bits: int = 16) -> int:
    """One token's keys and values in all layers; quantized ones have a scale and a zero for each head, 16 bits each."""
    shape = spec.shape
    scales = 4 if bits < 16 else 0
    return 2 * shape.layers * shape.kv_heads * (shape.head_dim * bits // 8 + scales)

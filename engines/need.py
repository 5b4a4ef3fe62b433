"""What a load takes of a device, for every way there is to load a model. Pure arithmetic from the catalogue's numbers.

Constants were measured on an H100 and an H200 (docs/gpu-verification.md); smaller cards need less for kernels.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from configs.schema import DTYPE_BYTES, ModelSpec
from engines.memory import MIB, PREFILL_CHUNK, Backend, Choice, Kind, LoadSettings, Need, Wishes
from engines.need_text import BESIDE_BATCH, COMFORTABLE, CUDA_CONTEXT, linear_weights, need_of, texts, token_bytes
from engines.prompt import KEPT
from engines.tiling import with_thumbnail

CUDA_HOST = 1536 * MIB
"""Host memory of a worker whose model lives on a GPU; weights stream through the page cache."""

TURBOMIND_CONTEXT = 864 * MIB
"""torch's context and TurboMind's own, with its kernels' workspaces: 862 MiB on an H100."""
TURBOMIND_LOADING = {"none": 108 * MIB, "awq": 816 * MIB}
"""What TurboMind's allocator takes while it converts weights, and neither gives back nor uses again."""
TURBOMIND_BUFFERS = (120 * MIB, 21 * 1024)
"""Its buffers: so much, and so much for each token of a prefill."""
TILE_BYTES = {"turbomind": 16 * MIB, "pytorch": 20 * MIB}
"""The vision tower's activations for one tile; LMDeploy runs all tiles of an image at once."""
PYTORCH_BUFFERS = {"none": (320 * MIB, 88 * 1024), "awq": (224 * MIB, 96 * 1024)}
"""The same of LMDeploy's PyTorch engine, with what a prefill a little smaller left in torch's allocator of no use."""
KV_PAGE = 32 * MIB
KV_BLOCK = 64
"""TurboMind hands out its KV cache in pages, and both engines tokens in blocks of so many."""

BATCHES = (8, 4, 2)
"""Questions that LMDeploy's engines may answer at once, where there is memory to spare; one can be everywhere."""
ANSWER_BYTES = {"turbomind": 8 * MIB, "pytorch": 24 * MIB}
"""Of each answer more than one, beside its KV cache: logits and their sorting, and a CUDA graph of PyTorch's."""
NATIVE_CHUNK = 64
"""Tokens of a prefill on a CPU at once: a cancel waits for no more than that."""
CORE_FLOPS = 35e9
"""What one core of a server's CPU does in bfloat16 or float32, as measured with this model; for an estimate."""

Room = tuple[int, int, int]
"""Tokens of context, tiles of one image, bits of a key or value."""

TURBOMIND_LADDER: tuple[Room, ...] = (
    (8064, 12, 16), (6720, 12, 16), (5376, 12, 16), (4032, 12, 16), (4480, 12, 8),
    (2688, 6, 16), (2560, 6, 8), (1920, 3, 8), (1280, 1, 8),
)  # fmt: skip
LADDER: tuple[Room, ...] = (
    (8192, 12, 16), (6144, 12, 16), (4096, 12, 16), (4096, 6, 16), (2560, 6, 16), (1536, 3, 16), (1024, 1, 16)
)  # fmt: skip


def choices(spec: ModelSpec, kind: Kind, wishes: Wishes) -> list[Choice]:
    """The ways to load a model on such a device, the best first; none if it cannot be loaded there at all."""
    if spec.vision is None:
        found = [*texts(spec, kind, wishes)]
    else:
        found = [one for backend in _backends(kind, wishes) for one in _vision(spec, kind, backend, wishes)]
    corrected = [_as_measured(one, wishes) for one in found]
    return [one for one in corrected if wishes.below is None or one.need.total < wishes.below]


def weight_bytes(spec: ModelSpec, size: int) -> int:
    """A vision model's weights with `size` bytes each, but for AWQ's: 4 bits, and 4 bytes for each group of 128."""
    assert spec.vision is not None  # noqa: S101
    shape = spec.shape
    whole = (shape.parameters + spec.vision.parameters) * size
    if spec.quantization == "none":
        return whole
    linear = linear_weights(spec)
    return whole - linear * size + linear // 2 + linear // 128 * 4


def kv_slab(block: int) -> tuple[int, int]:
    """Bytes of one slab of TurboMind's KV cache, and the blocks of `block` bytes in it.

    A slab is doubled until blocks fill 95 % of it, and only whole slabs are of use: with too few for its own warm-up
    TurboMind waits for ever. Source: SlabAllocator in LMDeploy's src/turbomind/memory/slab.h and object.cc.
    """
    slab = max(KV_PAGE, 1 << (block - 1).bit_length())
    while slab // block * block < 0.95 * slab:
        slab *= 2
    return slab, slab // block


def _backends(kind: Kind, wishes: Wishes) -> tuple[Backend, ...]:
    """Which may run an image model: LMDeploy's engines on a card, transformers without one or where they are not."""
    able = tuple(one for one in wishes.backends if one not in ("native", wishes.without))
    lmdeploy = able if kind == "cuda" else ()
    if wishes.backend is None:
        return lmdeploy or ("native",)
    return (wishes.backend,) if wishes.backend in (*lmdeploy, "native") else ()


def _vision(spec: ModelSpec, kind: Kind, backend: Backend, wishes: Wishes) -> Iterator[Choice]:
    if backend == "native" and spec.quantization != "none":
        return  # transformers has no kernels of its own for AWQ
    ladder = TURBOMIND_LADDER if backend == "turbomind" else LADDER
    if wishes.context is not None:
        least = min(context for context, tiles, _ in ladder if tiles == 1)
        context = min(max(wishes.context, least), spec.window)
        prompt = context * (KEPT - 1) // KEPT
        # Each step's tiles, with the context that was asked for if they leave room for an answer in it.
        steps = dict.fromkeys((tiles, bits) for _, tiles, bits in ladder if tiles == 1 or prefill_of(tiles) <= prompt)
        ladder = tuple((context, tiles, bits) for tiles, bits in steps)
    most = max(wishes.usual_context, wishes.context or 0, ladder[-1][0])
    rooms = [room for room in ladder if room[0] <= most]
    if backend == "native":
        yield from (_native(spec, kind, room) for room in rooms)
        return
    make = _turbomind if backend == "turbomind" else _pytorch
    # A batch is the last thing that memory is used for: with the best there is for every one of its answers, or not.
    yield from (make(spec, kind, rooms[0], batch) for batch in BATCHES if batch <= wishes.max_batch)
    yield from (make(spec, kind, room) for room in rooms)


def prefill_of(tiles: int) -> int:
    """Tokens of a prefill that holds an image of so many tiles, and a question."""
    return 256 * with_thumbnail(tiles) + 256


def _turbomind(spec: ModelSpec, kind: Kind, room: Room, batch: int = 1) -> Choice:
    """In the order in which it takes memory: contexts, weights, KV cache, buffers, the first image."""
    context, tiles, bits = room
    slab, blocks = kv_slab(token_bytes(spec, bits) * KV_BLOCK)
    slabs = -(-context // (blocks * KV_BLOCK))
    prefill, (fixed, each) = prefill_of(tiles), TURBOMIND_BUFFERS
    loading = TURBOMIND_LOADING[spec.quantization]
    need = Need(
        weights=weight_bytes(spec, 2),
        kv_cache=batch * slabs * slab + KV_PAGE,  # the region begins within a page, which is lost
        vision=with_thumbnail(tiles) * TILE_BYTES["turbomind"],
        workspace=loading + fixed + each * prefill + (batch - 1) * ANSWER_BYTES["turbomind"],
        context=TURBOMIND_CONTEXT,
    )
    settings = LoadSettings(
        "turbomind", kind, spec.dtype, min(slabs * blocks * KV_BLOCK, spec.window), prefill, tiles,
        max_batch=batch, quantization=spec.quantization, kv_bits=bits, kv_bytes=need.kv_cache,
        before_kv=need.context + need.weights + loading,
    )  # fmt: skip
    return Choice(settings, need, context >= COMFORTABLE, BESIDE_BATCH if batch > 1 else 0)


def _pytorch(spec: ModelSpec, kind: Kind, room: Room, batch: int = 1) -> Choice:
    context, tiles, _ = room
    prefill, (fixed, each) = prefill_of(tiles), PYTORCH_BUFFERS[spec.quantization]
    need = Need(
        weights=weight_bytes(spec, 2),
        kv_cache=batch * token_bytes(spec) * context,
        vision=with_thumbnail(tiles) * TILE_BYTES["pytorch"],
        workspace=fixed + each * prefill + (batch - 1) * ANSWER_BYTES["pytorch"],
        context=CUDA_CONTEXT,
    )
    settings = LoadSettings(
        "pytorch", kind, spec.dtype, context, prefill, tiles, max_batch=batch,
        quantization=spec.quantization, kv_bytes=need.kv_cache, before_kv=need.context + need.weights,
    )  # fmt: skip
    return Choice(settings, need, context >= COMFORTABLE, BESIDE_BATCH if batch > 1 else 0)


def _native(spec: ModelSpec, kind: Kind, room: Room) -> Choice:
    """transformers' own classes, which look at one tile at a time."""
    context, tiles, _ = room
    assert spec.vision is not None  # noqa: S101
    dtype = spec.dtype if kind == "cuda" else spec.cpu_dtype
    size = DTYPE_BYTES[dtype]
    tower = spec.vision
    features = with_thumbnail(tiles) * tower.tokens_per_tile * spec.shape.hidden * size
    tile = tower.patches_per_tile * (2 * tower.intermediate + 6 * tower.hidden) * size
    base = need_of(spec, kind, context)
    need = replace(base, weights=weight_bytes(spec, size), vision=features + tile)
    chunk = PREFILL_CHUNK if kind == "cuda" else NATIVE_CHUNK
    # What memory allows would take minutes on a CPU; who wants it asks for it.
    auto = 1 if kind == "cpu" else 0
    settings = LoadSettings("native", kind, dtype, context, chunk, tiles, auto)
    return Choice(settings, need, context >= COMFORTABLE)


def look_seconds(spec: ModelSpec, tiles: int, cores: int) -> float:
    """About how long a CPU takes to the first word about an image in one or in `tiles` tiles.

    Two operations for each weight and token: the tower's for every patch, the decoder's for every token it makes.
    """
    tower = spec.vision
    assert tower is not None  # noqa: S101
    each = tower.patches_per_tile * tower.parameters + tower.tokens_per_tile * spec.shape.parameters
    return 2 * with_thumbnail(tiles) * each / (CORE_FLOPS * cores)


def _as_measured(choice: Choice, wishes: Wishes) -> Choice:
    """The choice with its context as this machine showed it, where the model was loaded with this backend before.

    Of LMDeploy's engines alone, which take all they will ever take at the start: what the others hold grows with use.
    """
    backend = choice.settings.backend
    seen = wishes.measured.get(backend) if backend in ("turbomind", "pytorch") else None
    if seen is None:
        return choice
    usual = choice.need.context  # what another program took meanwhile must not count for good
    context = min(max(usual // 4, seen.context), usual * 5 // 4)
    moved = context - choice.need.context
    settings = replace(choice.settings, before_kv=max(0, choice.settings.before_kv + moved))
    return replace(choice, need=replace(choice.need, context=context), settings=settings)

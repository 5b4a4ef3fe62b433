"""Triton's kernels on a CPU, by Triton's interpreter. test_kernels.py runs this in a process of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from engines.block_linear import BlockLinear, quantize
from engines.checkpoints import load_model
from engines.kernels import Kernels
from engines.kv import KVCache
from engines.step import FusedStep
from tests.checkpoints import make_internlm2


@pytest.mark.parametrize(("width", "count"), [(96, 6), (128, 8), (192, 4)])
@pytest.mark.parametrize("bits", [0, 4, 8])
def test_products_with_what_goes_before_and_after(bits: int, width: int, count: int) -> None:
    torch.manual_seed(bits)
    kernels = Kernels(torch.empty(1), 4, 2, 16)
    norm, x, before = torch.rand(width) + 0.5, torch.randn(width), torch.randn(count)
    for gated, normed, added in ((False, True, False), (False, False, True), (True, True, False)):
        layer: nn.Module = nn.Linear(width, count * (2 if gated else 1), bias=False).requires_grad_(False)
        if bits:
            layer = BlockLinear.of(layer, bits, "cpu")
        wanted = layer(nn.functional.rms_norm(x, (width,), norm, 1e-5) if normed else x)
        if gated:
            gate, up = wanted.chunk(2)
            wanted = nn.functional.silu(gate) * up
        out = before.clone()
        kernels.linear(x, layer, out, norm if normed else None, 1e-5, gated=gated, added=added)
        assert torch.allclose(out, wanted + before if added else wanted, atol=1e-4, rtol=1e-4)


def test_gates_of_several_tokens() -> None:
    both = torch.randn(3, 2 * 1500)
    gate, up = both.chunk(2, 1)
    assert torch.allclose(Kernels(torch.empty(1), 4, 2, 16).gate(both), nn.functional.silu(gate) * up, atol=1e-5)


@pytest.mark.parametrize("bits", [0, 4])
def test_a_step_computes_what_the_model_does(tmp_path: Path, bits: int) -> None:
    folder = make_internlm2(tmp_path, heads=4, kv_heads=2, layers=1)
    model, kv = load_model(folder, dtype="float32"), KVCache(80)
    if bits:
        quantize(model, bits, "cpu")
    ids = torch.arange(3, 83)[None]
    with torch.inference_mode():
        wanted = model(ids).logits[0]
        model(ids, past_key_values=kv.cache)
        step = FusedStep(model, kv, 80)
        assert torch.allclose(step(ids[0, 70:71], torch.tensor([70]), 80), wanted[70], atol=1e-4, rtol=1e-4)
        for keys, values in kv.buffers:
            keys.zero_()
            values.zero_()
        for start, end in ((0, 33), (33, 34), (34, 75)):
            step.read(ids[0, start:end], start)
        assert torch.allclose(step(ids[0, 75:76], torch.tensor([75]), 80), wanted[75], atol=1e-4, rtol=1e-4)

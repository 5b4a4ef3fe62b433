"""One token through a Llama model of transformers, as a function of tensors whose shapes never change; and a prompt.

The model's own forward asks the device for values and makes tensors of new sizes, which a CUDA graph cannot hold; and
it runs many kernels where few would do. This computes the same from the same weights and the same KV cache.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

from engines.kv import KVCache


class NotLlama(Exception):
    """A model that is not computed here, and what of it is in the way."""


SHORTEST = 1024


def doubling(context: int) -> list[int]:
    """1024 places, and twice as many again and again, up to the context."""
    doublings = max(0, math.ceil(math.log2(context / SHORTEST)))
    return [SHORTEST << n for n in range(doublings)] + [context]


class Step:
    """The step of one model over the filled buffers of `kv`, in torch's own kernels. Call in inference mode.

    Weights that are multiplied with the same values are made neighbours, so that one product does for all of them; the
    model's own modules hold them there from then on. At most one layer's lie in memory twice while that is done.
    Raises NotLlama.
    """

    lengths: Callable[[int], list[int]] = staticmethod(doubling)
    """How many places attention may read at once, for a context."""

    def __init__(self, model: Any, kv: KVCache, context: int) -> None:
        import torch
        from transformers import LlamaForCausalLM

        if type(model) is not LlamaForCausalLM:
            raise NotLlama(type(model).__name__)
        self._torch, self._model, config = torch, model, model.config
        rope = config.rope_parameters["rope_type"]
        if rope not in ("default", "linear", "llama3", "dynamic"):
            raise NotLlama(rope)
        if rope == "dynamic" and context > config.max_position_embeddings:
            raise NotLlama("its rotary frequencies change within the context")
        self._heads, self._kv_heads, self._size = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        weight = model.model.embed_tokens.weight
        self._slots = torch.arange(context, device=weight.device)
        self._rotary = self._rotations(weight)
        self._layers = []
        for layer, (keys, values) in zip(model.model.layers, kv.buffers, strict=True):
            if weight.is_cuda:
                torch.cuda.empty_cache()  # or the memory of the layer before would stay taken beside its new one
            qkv, gate_up = _neighbours(layer)
            self._layers.append((layer, qkv, gate_up, keys, values))
            # What is masked must be a number all the same: 0 times anything that memory held before may not be.
            length = kv.length
            keys[:, length:] = 0
            values[:, length:] = 0
        if weight.is_cuda:
            torch.cuda.empty_cache()

    def __call__(self, token: Any, position: Any, bucket: int) -> Any:
        """Logits [vocab] of what follows `token` [1], which is put into the cache at `position` [1] < `bucket`.

        Attention reads the first `bucket` places of the cache, and counts those up to `position`.
        """
        torch, model = self._torch, self._model.model
        x = model.embed_tokens(token)
        beyond = self._slots[:bucket] > position
        mask = torch.zeros(bucket, dtype=x.dtype, device=x.device).masked_fill(beyond, float("-inf"))
        places = self._places(position)
        for layer, qkv, gate_up, keys, values in self._layers:
            query = self._placed(layer, qkv, x, places, keys, values)[0]
            seen = self._attend(query, keys[:, :bucket], values[:, :bucket], mask, layer.self_attn.scaling)
            x = self._past_the_rest(layer, gate_up, x, seen)
        return self._model.lm_head(_normed(model.norm, x))[0]

    def read(self, ids: Any, start: int) -> None:
        """Puts tokens [n], of any number, into the cache from `start` on, behind what it holds: a piece of a prompt."""
        model, end = self._model.model, start + len(ids)
        # Places of their own, since Triton compiles a kernel anew for a tensor that begins at an odd place of another.
        x, places = model.embed_tokens(ids), self._places(self._torch.arange(start, end, device=ids.device))
        for layer, qkv, gate_up, keys, values in self._layers:
            query = self._placed(layer, qkv, x, places, keys, values)
            if layer is model.layers[-1]:
                return  # nobody asks what follows
            seen = self._look_back(query, keys[:, :end], values[:, :end], layer.self_attn.scaling)
            x = self._past_the_rest(layer, gate_up, x, seen)

    @property
    def reads(self) -> bool:
        """Whether `read` needs no more memory than the model's own forward does: where attention is torch's flash
        attention, which takes the heads that share a key as they are. On a CPU it is for tests.
        """
        from torch.backends.cuda import SDPAParams, can_use_flash_attention

        keys = self._layers[0][3][None, :, :1]
        query = keys.new_empty(1, self._heads, 1, self._size)
        return not keys.is_cuda or can_use_flash_attention(SDPAParams(query, keys, keys, None, 0.0, True, True))

    def _places(self, at: Any) -> Any:
        """What `_placed` wants to know of places [n] in the cache: here they and their cosines and sines."""
        return at, *self._rotary.index_select(0, at)[:, :, None].unbind(1)

    def _placed(self, layer: Any, qkv: Any, x: Any, places: Any, keys: Any, values: Any) -> Any:
        """Rotated queries [n, heads, size] of x [n, hidden], whose keys and values go to their places."""
        at, cos, sin = places
        heads = qkv(_normed(layer.input_layernorm, x)).view(len(x), -1, self._size)
        heads, value = heads.split([self._heads + self._kv_heads, self._kv_heads], 1)
        turned = self._torch.addcmul(heads * cos, heads.roll(self._size // 2, 2), sin)
        query, key = turned.split([self._heads, self._kv_heads], 1)
        keys.index_copy_(1, at, key.transpose(0, 1))
        values.index_copy_(1, at, value.transpose(0, 1))
        return query

    def _past_the_rest(self, layer: Any, gate_up: Any, x: Any, seen: Any) -> Any:
        """x behind a layer whose attention has seen `seen`, in the place of x."""
        x = _onto(x, layer.self_attn.o_proj, seen)
        both = gate_up(_normed(layer.post_attention_layernorm, x))
        return _onto(x, layer.mlp.down_proj, self._gate(layer, both))

    def _gate(self, layer: Any, both: Any) -> Any:
        """[n, intermediate] of gates and what they let through, [n, 2 * intermediate]."""
        gate, up = both.chunk(2, 1)
        return layer.mlp.act_fn(gate).mul_(up)

    def _look_back(self, query: Any, keys: Any, values: Any, scale: float) -> Any:
        """[n, heads * size] of queries [n, heads, size], the last of which sees all of the cache."""
        from torch.nn.attention.bias import causal_lower_right

        mask = causal_lower_right(len(query), keys.shape[1])
        seen = self._torch.nn.functional.scaled_dot_product_attention(
            query.transpose(0, 1)[None], keys[None], values[None], mask, scale=scale, enable_gqa=True
        )
        return seen[0].transpose(0, 1).reshape(len(query), -1)

    def _attend(self, query: Any, keys: Any, values: Any, mask: Any, scale: float) -> Any:
        """[1, heads * size] of queries [heads, size], with the heads that share a key in one product."""
        torch = self._torch
        query = query.view(self._kv_heads, -1, self._size)
        scores = torch.baddbmm(mask, query, keys.transpose(1, 2), alpha=scale)
        return torch.bmm(scores.softmax(2), values).view(1, -1)

    def _rotations(self, weight: Any) -> Any:
        """Cosines and sines of every position, [context, 2, size]; the sine's sign makes a roll of Llama's rotation."""
        torch, half = self._torch, self._size // 2
        cos, sin = self._model.model.rotary_emb(weight[:1], self._slots[None])
        sign = torch.ones(self._size, dtype=sin.dtype, device=sin.device)
        sign[:half] = -1
        return torch.stack([cos[0], sin[0] * sign], 1)


class FusedStep(Step):
    """The same in Triton's kernels, which read of the cache what is in use and no more.

    Raises ImportError where there is no Triton, and NotLlama or ValueError for what its kernels do not do.
    """

    lengths = staticmethod(lambda context: [context])

    def __init__(self, model: Any, kv: KVCache, context: int) -> None:
        from engines.kernels import Kernels

        config = model.config
        if config.attention_bias or config.mlp_bias or config.hidden_act != "silu":
            raise NotLlama("a bias, or another activation than silu")
        super().__init__(model, kv, context)
        weight = model.model.embed_tokens.weight
        self._kernels = Kernels(weight, self._heads, self._kv_heads, self._size)
        self._qkv = weight.new_empty((self._heads + 2 * self._kv_heads) * self._size)
        self._gated = weight.new_empty(config.intermediate_size)
        self._out = weight.new_empty(config.vocab_size)

    def __call__(self, token: Any, position: Any, bucket: int) -> Any:
        model, linear = self._model.model, self._kernels.linear
        x = model.embed_tokens(token)[0]
        for layer, qkv, gate_up, keys, values in self._layers:
            attention, norm = layer.self_attn, layer.input_layernorm
            linear(x, qkv, self._qkv, norm.weight, norm.variance_epsilon)
            seen = self._kernels.attention(self._qkv, self._rotary, position, keys, values, attention.scaling)
            linear(seen, attention.o_proj, x, added=True)
            norm = layer.post_attention_layernorm
            linear(x, gate_up, self._gated, norm.weight, norm.variance_epsilon, gated=True)
            linear(self._gated, layer.mlp.down_proj, x, added=True)
        norm = model.norm
        return linear(x, self._model.lm_head, self._out, norm.weight, norm.variance_epsilon)

    def _places(self, at: Any) -> Any:
        return at  # the kernel looks up what goes with it

    def _placed(self, layer: Any, qkv: Any, x: Any, places: Any, keys: Any, values: Any) -> Any:
        query = x.new_empty(len(x), self._heads, self._size)
        self._kernels.turn(qkv(_normed(layer.input_layernorm, x)), self._rotary, places, query, keys, values)
        return query

    def _gate(self, layer: Any, both: Any) -> Any:
        return self._kernels.gate(both)


def _neighbours(layer: Any) -> tuple[Any, Any]:
    """A layer's query, key and value in one linear layer, and its gate and up in one, without memory of their own.

    All its large weights move into one piece of memory: what they leave behind is whole pieces, too, and can be freed.
    """
    import torch
    from torch.nn import Linear, Parameter

    from engines.block_linear import BlockLinear

    attention, mlp = layer.self_attn, layer.mlp
    parts = [attention.q_proj, attention.k_proj, attention.v_proj, mlp.gate_proj, mlp.up_proj]
    parts += [attention.o_proj, mlp.down_proj]

    def joined(first: int, last: int) -> Any:
        biases = [part.bias for part in parts[first:last] if part.bias is not None]
        bias = Parameter(torch.cat(biases), requires_grad=False) if biases else None
        if isinstance(parts[0], BlockLinear):
            integers, scales, zeros = (rows(first, last) for rows in together)
            return BlockLinear(integers, scales, zeros, bias)
        (weight,) = (rows(first, last) for rows in together)
        one = Linear(weight.shape[1], weight.shape[0], bias=bool(biases), device="meta")
        one.weight, one.bias = Parameter(weight, requires_grad=False), bias
        return one

    names = ("integers", "scales", "zeros") if isinstance(parts[0], BlockLinear) else ("weight",)
    together = [_together(parts, name) for name in names]
    return joined(0, 3), joined(3, 5)


def _together(parts: Sequence[Any], name: str) -> Callable[[int, int], Any]:
    """Moves a tensor of each part into one piece of memory, in their order. -> the rows of some neighbours, in one."""
    import torch
    from torch.nn import Parameter

    old = [getattr(part, name) for part in parts]
    ends = [0, *accumulate(one.numel() for one in old)]
    whole = torch.cat([one.flatten() for one in old])
    for part, before, start, end in zip(parts, old, ends, ends[1:], strict=False):
        piece = whole[start:end].view_as(before)
        setattr(part, name, Parameter(piece, requires_grad=False) if isinstance(before, Parameter) else piece)
    return lambda first, last: whole[ends[first] : ends[last]].view(-1, *old[first].shape[1:])


def _normed(norm: Any, x: Any) -> Any:
    import torch

    return torch.nn.functional.rms_norm(x, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _onto(x: Any, linear: Any, y: Any) -> Any:
    """x + linear(y), in the place of x."""
    from engines.block_linear import BlockLinear

    if isinstance(linear, BlockLinear):
        return x.add_(linear(y))
    x = x.addmm_(y, linear.weight.t())
    return x if linear.bias is None else x.add_(linear.bias)

"""A KV cache in buffers of a fixed capacity, for transformers' models: what is planned is what is held.

transformers' own DynamicCache copies itself at every token to grow by one, and leaves the allocator with pieces of all
sizes; its StaticCache attends over its whole capacity at every token.
"""

from __future__ import annotations

from typing import Any


class KVCache:
    """The keys and values of one sequence of up to `capacity` tokens; `cache` is for transformers' models."""

    def __init__(self, capacity: int) -> None:
        from transformers.cache_utils import Cache

        self.cache = Cache(layer_class_to_replicate=_layer_class(capacity))

    @property
    def length(self) -> int:
        """Tokens held."""
        return int(self.cache.get_seq_length())

    @property
    def buffers(self) -> list[tuple[Any, Any]]:
        """Keys and values of every layer, each [heads, capacity, head size]; there are none before the first token."""
        return [(layer._keys[0], layer._values[0]) for layer in self.cache.layers]

    def cut(self, length: int) -> None:
        """Keeps the first `length` tokens of every layer; more than it has if they were put into the buffers."""
        for layer in self.cache.layers:
            layer.hold(length)


def _layer_class(capacity: int) -> Any:
    from transformers.cache_utils import DynamicLayer

    class BufferLayer(DynamicLayer):
        """One layer: buffers of [1, heads, capacity, head size], of which `keys` and `values` are the part in use."""

        def lazy_initialization(self, key_states: Any, value_states: Any) -> None:
            self.dtype, self.device = key_states.dtype, key_states.device
            self._keys, self._values = (
                states.new_empty(*states.shape[:2], capacity, states.shape[3]) for states in (key_states, value_states)
            )
            self.is_initialized = True
            self.hold(0)

        def update(self, key_states: Any, value_states: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            begin = self.keys.shape[2]
            end = begin + key_states.shape[2]
            self._keys[:, :, begin:end] = key_states
            self._values[:, :, begin:end] = value_states
            self.hold(end)
            return self.keys, self.values

        def crop(self, tokens_to_remove: int) -> None:
            if self.is_initialized:
                self.hold(self.keys.shape[2] - abs(tokens_to_remove))

        def hold(self, length: int) -> None:
            self.keys, self.values = self._keys[:, :, :length], self._values[:, :, :length]

    return BufferLayer

"""A KV cache with preallocated memory."""

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class PreallocatedCacheLayer(DynamicLayer):
    """A cache layer that appends new keys and values to a buffer, which doubles when it is full; `DynamicLayer` copies
    all of them at every step. With gradients enabled this layer copies too."""

    MIN_FREE_TOKENS = 64  # a new buffer has room for at least this many further tokens
    keys: Any
    values: Any
    key_buffer: Tensor
    value_buffer: Tensor

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Appends key_states, value_states: (batch, heads, new tokens, head_dim) and returns all keys and values."""
        if torch.is_grad_enabled() and key_states.requires_grad:
            return super().update(key_states, value_states, *args, **kwargs)
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if not self.has_room(end):
            self.key_buffer = grow(self.keys if start else None, key_states, end)
            self.value_buffer = grow(self.values if start else None, value_states, end)
        self.key_buffer.narrow(-2, start, end - start).copy_(key_states)
        self.value_buffer.narrow(-2, start, end - start).copy_(value_states)
        self.keys, self.values = self.key_buffer.narrow(-2, 0, end), self.value_buffer.narrow(-2, 0, end)
        return self.keys, self.values

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Initializes the layer like the first keys and values, with empty buffers."""
        super().lazy_initialization(key_states, value_states)
        self.key_buffer = self.value_buffer = self.keys

    def has_room(self, end: int) -> bool:
        """Returns whether the keys are still in the buffer (they may have left it when the cache was reordered or
        cropped) and it holds `end` tokens."""
        buffer, keys = self.key_buffer, self.keys
        in_place = buffer.ndim == 4 and keys.data_ptr() == buffer.data_ptr() and keys.size(0) == buffer.size(0)
        return in_place and end <= buffer.shape[-2]


def grow(old: Tensor | None, new: Tensor, end: int) -> Tensor:
    """Returns a buffer, (batch, heads, tokens, head_dim), for at least twice `end` tokens that begins with the old
    ones, shaped like `new`."""
    buffer = new.new_empty(*new.shape[:-2], max(2 * end, end + PreallocatedCacheLayer.MIN_FREE_TOKENS), new.shape[-1])
    if old is not None:
        buffer[..., : old.shape[-2], :] = old
    return buffer

"""Packing: computes a batch without its padding, the real tokens of all rows in one sequence.

Rows are ordered by length, so that every group of rows of one length is one contiguous block of the packed sequence,
which attention views as a rectangular batch without a copy.
"""

from functools import cache
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .attention import find_attention_function


class Packing(NamedTuple):
    """The positions of a padded batch's real tokens.

    indices: (tokens,) positions in the flattened (batch * length) grid, rows ordered by length; lengths: the rows'
    token counts in that order; ends: (batch + 1,) int32, offsets at which each row begins and the last one ends, on the
    tokens' device; shape: (batch, length) of the grid.
    """

    indices: Tensor
    lengths: list[int]
    ends: Tensor
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """Packs x: (batch or 1, length, ...) to (1, tokens, ...)."""
        return x.expand(self.shape[0], *x.shape[1:]).flatten(0, 1).index_select(0, self.indices)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """Unpacks x: (1, tokens, width) to (batch, length, width), with zeros at the padding."""
        batch, length = self.shape
        return x.new_zeros(batch * length, x.shape[-1]).index_copy(0, self.indices, x[0]).unflatten(0, (batch, length))

    def build_mask(self) -> Tensor:
        """Builds the mask of the padded batch, (batch, length), True for a real token."""
        grid = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool, device=self.indices.device)
        return grid.index_fill(0, self.indices, True).view(self.shape)


class PackedMask(NamedTuple):
    """The packings of queries and keys, which `packed_attention` takes as its mask, and the attention implementation
    that computes each group."""

    queries: Packing
    keys: Packing
    implementation: str | None

    def find_groups(self) -> list[tuple[int, int, int]]:
        """Groups consecutive rows of equal lengths: (rows, query length, key length) for each group."""
        pairs = zip(self.queries.lengths, self.keys.lengths, strict=True)
        return [(len(list(run)), *lengths) for lengths, run in groupby(pairs)]


def pack_rows(mask: Tensor, context_mask: Tensor | None = None) -> tuple[Packing, Packing | None]:
    """Builds the packings of a batch and of its context (None without `context_mask`), with rows in the same order.

    mask: (batch, length), True for a token; context_mask: (batch, tokens) likewise. Reads the lengths on the host: one
    synchronization per call on a GPU.
    """
    masks = [mask.bool()] + ([] if context_mask is None else [context_mask.bool()])
    lengths = torch.stack([m.sum(1) for m in masks], dim=1).tolist()
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    rows = torch.tensor(order, device=mask.device)
    packings = []
    for number, m in enumerate(masks):
        row, column = m[rows].nonzero(as_tuple=True)
        indices = rows[row] * m.shape[1] + column
        counts = [lengths[r][number] for r in order]
        ends = torch.tensor([0, *accumulate(counts)], dtype=torch.int32, device=mask.device)
        packings.append(Packing(indices, counts, ends, (m.shape[0], m.shape[1])))
    return packings[0], packings[1] if context_mask is not None else None


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, **kwargs: Any
) -> tuple[Tensor, None]:
    """Computes attention over packed rows: query (1, heads, tokens, head_dim) to (1, tokens, heads, head_dim).

    On a GPU one variable-length kernel computes the whole batch in half precision; for what it does not support
    (float32, head sizes above 256 or no multiple of 8, GPUs older than Ampere) it is one call over the padded grid. On
    a CPU each group of equal lengths is one rectangular call. A row without keys gets zeros.
    """
    attend = attend_by_group
    if query.is_cuda:
        query, key, value = (cast_for_autocast(x) for x in (query, key, value))
        attend = attend_variable_length if has_varlen_kernel(query) else attend_padded
    return attend(module, query, key, value, mask, kwargs), None


def attend_by_group(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, options: dict[str, Any]
) -> Tensor:
    """Computes `packed_attention` by one rectangular call for each group of rows of equal lengths."""
    query, key, value = (x.transpose(1, 2)[0] for x in (query, key, value))  # (tokens, heads, head_dim)
    attend = find_attention_function(mask.implementation)
    start, key_start, parts = 0, 0, []
    for rows, length, keys in mask.find_groups():
        end, key_end = start + rows * length, key_start + rows * keys
        if length and keys:
            group = [
                _unpack_group(x, rows) for x in (query[start:end], key[key_start:key_end], value[key_start:key_end])
            ]
            triangle = _build_causal_mask(module, mask.implementation, query, length)
            parts.append(attend(module, *group, triangle, **options)[0].flatten(0, 1))
        elif length:
            parts.append(torch.zeros_like(query[start:end]))
        start, key_start = end, key_end
    return torch.cat(parts)[None]


def _unpack_group(x: Tensor, rows: int) -> Tensor:
    """Reshapes (rows * length, heads, head_dim) to (rows, heads, length, head_dim)."""
    return x.unflatten(0, (rows, -1)).transpose(1, 2)


def _build_causal_mask(module: nn.Module, implementation: str | None, query: Tensor, length: int) -> Tensor | None:
    """Builds the causal mask, (1, 1, length, length), for eager attention; SDPA reads `module.is_causal` instead."""
    if not module.is_causal or implementation != "eager":
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]


def cast_for_autocast(x: Tensor) -> Tensor:
    """Casts to autocast's dtype on a GPU: a norm or rotary positions may have returned another one."""
    return x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x


def has_varlen_kernel(query: Tensor) -> bool:
    """Returns whether the variable-length kernel supports the query's dtype, head size and device."""
    size, half = query.shape[-1], query.dtype in (torch.float16, torch.bfloat16)
    return half and size % 8 == 0 and size <= 256 and has_flash_attention(query.device)


@cache
def has_flash_attention(device: torch.device) -> bool:
    """Returns whether the GPU runs FlashAttention-2: compute capability 8.0 (Ampere) or later."""
    return torch.cuda.get_device_capability(device) >= (8, 0)


def attend_variable_length(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, options: dict[str, Any]
) -> Tensor:
    """Computes `packed_attention` by one variable-length kernel (Dao 2023, FlashAttention-2,
    https://arxiv.org/abs/2307.08691).

    The kernel is called directly: `torch.nn.attention.varlen_attn` around it has no dropout and takes longer than the
    kernel itself.
    """
    packings = (mask.queries, mask.keys)
    rows = (x.transpose(1, 2)[0] for x in (query, key, value))  # (tokens, heads, head_dim)
    ends, lengths = (p.ends for p in packings), (max(p.lengths) for p in packings)
    dropout, debug = options.get("dropout", 0.0), False
    attended, *_ = torch.ops.aten._flash_attention_forward(
        *rows, *ends, *lengths, dropout, module.is_causal, debug, scale=options["scaling"]
    )
    return attended[None]


def attend_padded(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, options: dict[str, Any]
) -> Tensor:
    """Computes `packed_attention` by one masked call over the padded grid."""
    size = query.shape[-1]
    query = _unpack_heads(query, mask.queries, size)
    key, value = (_unpack_heads(x, mask.keys, size) for x in (key, value))
    allowed = mask.keys.build_mask()[:, None, None]
    if module.is_causal:
        allowed = allowed & torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    allowed = allowed | ~allowed.any(-1, keepdim=True)  # a row without keys attends to the grid's zeros
    attended, _ = find_attention_function(mask.implementation)(module, query, key, value, allowed, **options)
    return mask.queries.pack(attended.flatten(2)).unflatten(-1, (-1, size))


def _unpack_heads(x: Tensor, packing: Packing, size: int) -> Tensor:
    """Unpacks (1, heads, tokens, head_dim) to (batch, heads, length, head_dim)."""
    return packing.unpack(x.transpose(1, 2).flatten(2)).unflatten(-1, (-1, size)).transpose(1, 2)

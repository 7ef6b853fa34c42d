"""Padding-free computation: real tokens side by side, attention per group of equal lengths.

Rows are ordered by length, so that every group of equal rows is one contiguous block of the packed sequence and can be
viewed as a rectangular batch without a copy.
"""

from functools import cache
from itertools import accumulate, groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .attention import find_attention_function


class Packing(NamedTuple):
    """Where the real tokens of a padded batch stand.

    indices: (tokens,) positions in the flattened (batch * length) grid, rows ordered by length; lengths: the rows'
    token counts in that order; ends: (batch + 1,) int32, where each row begins and the last one ends, on the tokens'
    device; shape: (batch, length) of the grid.
    """

    indices: Tensor
    lengths: list[int]
    ends: Tensor
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """(batch or 1, length, ...) to (1, tokens, ...)."""
        return x.expand(self.shape[0], *x.shape[1:]).flatten(0, 1).index_select(0, self.indices)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(1, tokens, width) to (batch, length, width), zeros where there is no token."""
        batch, length = self.shape
        return x.new_zeros(batch * length, x.shape[-1]).index_copy(0, self.indices, x[0]).unflatten(0, (batch, length))

    def build_mask(self) -> Tensor:
        """(batch, length), True where there is a token."""
        grid = torch.zeros(self.shape[0] * self.shape[1], dtype=torch.bool, device=self.indices.device)
        return grid.index_fill(0, self.indices, True).view(self.shape)


class PackedMask(NamedTuple):
    """What stands in the place of a mask when queries and keys are packed."""

    queries: Packing
    keys: Packing
    implementation: str | None

    def find_groups(self) -> list[tuple[int, int, int]]:
        """Runs of rows with equal lengths: (rows, query length, key length)."""
        pairs = zip(self.queries.lengths, self.keys.lengths, strict=True)
        return [(len(list(run)), *lengths) for lengths, run in groupby(pairs)]


def pack_rows(mask: Tensor, context_mask: Tensor | None = None) -> tuple[Packing, Packing | None]:
    """The packing of a batch and of its context, rows in one common order.

    mask: (batch, length), True where there is a token; context_mask: (batch, tokens) likewise. Reads the lengths on the
    host: one synchronisation a call on a GPU.
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
    """Attention over packed rows: query (1, heads, tokens, head_dim) to (1, tokens, heads, head_dim).

    On a GPU one variable-length kernel serves the whole batch in half precision; where that kernel does not serve
    (float32, odd head sizes, cards before Ampere), one call over the padded grid does. On a CPU each group of equal
    lengths is one rectangular call. A row without keys gets zeros.
    """
    attend = attend_by_group
    if query.is_cuda:
        query, key, value = (cast_for_autocast(x) for x in (query, key, value))
        attend = attend_variable_length if has_varlen_kernel(query) else attend_padded
    return attend(module, query, key, value, mask, kwargs), None


def attend_by_group(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, options: dict[str, Any]
) -> Tensor:
    """One rectangular call for each group of equal lengths."""
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
    """(rows * length, heads, head_dim) to (rows, heads, length, head_dim)."""
    return x.unflatten(0, (rows, -1)).transpose(1, 2)


def _build_causal_mask(module: nn.Module, implementation: str | None, query: Tensor, length: int) -> Tensor | None:
    """Eager attention wants the causal mask spelt out; SDPA knows it from `module.is_causal`."""
    if not module.is_causal or implementation != "eager":
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]


def cast_for_autocast(x: Tensor) -> Tensor:
    """The type in which autocast would have attention computed (a norm or rotary positions may have left it)."""
    return x.to(torch.get_autocast_dtype("cuda")) if torch.is_autocast_enabled("cuda") else x


def has_varlen_kernel(query: Tensor) -> bool:
    """Whether the variable-length kernel computes this."""
    size, half = query.shape[-1], query.dtype in (torch.float16, torch.bfloat16)
    return half and size % 8 == 0 and size <= 256 and has_flash_attention(query.device)


@cache
def has_flash_attention(device: torch.device) -> bool:
    return torch.cuda.get_device_capability(device) >= (8, 0)


def attend_variable_length(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, options: dict[str, Any]
) -> Tensor:
    """One kernel for all rows, each between its ends (Dao 2023, FlashAttention-2, https://arxiv.org/abs/2307.08691).

    Called below `torch.nn.attention.varlen_attn`, which has no dropout and costs more time than the kernel itself.
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
    """Attention alone is computed with its padding, by one masked call."""
    size = query.shape[-1]
    query = _unpack_heads(query, mask.queries, size)
    key, value = (_unpack_heads(x, mask.keys, size) for x in (key, value))
    allowed = mask.keys.build_mask()[:, None, None]
    if module.is_causal:
        allowed = allowed & torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=query.device).tril()
    allowed = allowed | ~allowed.any(-1, keepdim=True)  # a row without keys reads the grid's zeros
    attended, _ = find_attention_function(mask.implementation)(module, query, key, value, allowed, **options)
    return mask.queries.pack(attended.flatten(2)).unflatten(-1, (-1, size))


def _unpack_heads(x: Tensor, packing: Packing, size: int) -> Tensor:
    """(1, heads, tokens, head_dim) to (batch, heads, length, head_dim)."""
    return packing.unpack(x.transpose(1, 2).flatten(2)).unflatten(-1, (-1, size)).transpose(1, 2)

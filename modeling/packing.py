"""Padding-free computation: real tokens side by side, attention per group of equal lengths.

Rows are ordered by length, so that every group of equal rows is one contiguous block of the packed sequence and can be
viewed as a rectangular batch without a copy.
"""

from itertools import accumulate, groupby
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from .attention import attention_function


class Packing(NamedTuple):
    """Where the real tokens of a padded batch stand.

    indices: (tokens,) positions in the flattened (batch * length) grid, rows ordered by length; lengths: the rows'
    token counts in that order; shape: (batch, length) of the grid.
    """

    indices: Tensor
    lengths: list[int]
    shape: tuple[int, int]

    def pack(self, x: Tensor) -> Tensor:
        """(batch or 1, length, ...) to (1, tokens, ...)."""
        return x.expand(self.shape[0], *x.shape[1:]).flatten(0, 1).index_select(0, self.indices)[None]

    def unpack(self, x: Tensor) -> Tensor:
        """(1, tokens, width) to (batch, length, width), zeros where there is no token."""
        batch, length = self.shape
        return x.new_zeros(batch * length, x.shape[-1]).index_copy(0, self.indices, x[0]).unflatten(0, (batch, length))


class PackedMask(NamedTuple):
    """What stands in the place of a mask when queries and keys are packed."""

    queries: Packing
    keys: Packing
    implementation: str | None

    def groups(self) -> list[tuple[int, int, int]]:
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
        packings.append(Packing(indices, [lengths[r][number] for r in order], (m.shape[0], m.shape[1])))
    return packings[0], packings[1] if context_mask is not None else None


def packed_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, **kwargs: Any
) -> tuple[Tensor, None]:
    """Attention over packed rows: query (1, heads, tokens, head_dim) to (1, tokens, heads, head_dim).

    On a GPU in half precision one variable-length kernel serves the whole batch, elsewhere each group of equal lengths
    is one rectangular call. A row without keys gets zeros.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    if query.is_cuda and half and not kwargs.get("dropout"):
        return _variable_length(module, query, key, value, mask, kwargs["scaling"]), None
    query, key, value = (x.transpose(1, 2)[0] for x in (query, key, value))  # (tokens, heads, head_dim)
    return torch.cat(_by_group(module, query, key, value, mask, kwargs))[None], None


def _by_group(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, options: dict[str, Any]
) -> list[Tensor]:
    attend = attention_function(mask.implementation)
    start, key_start, parts = 0, 0, []
    for rows, length, keys in mask.groups():
        end, key_end = start + rows * length, key_start + rows * keys
        if length and keys:
            group = [_rectangle(x, rows) for x in (query[start:end], key[key_start:key_end], value[key_start:key_end])]
            triangle = _triangle(module, mask.implementation, query, length)
            parts.append(attend(module, *group, triangle, **options)[0].flatten(0, 1))
        elif length:
            parts.append(torch.zeros_like(query[start:end]))
        start, key_start = end, key_end
    return parts


def _rectangle(x: Tensor, rows: int) -> Tensor:
    """(rows * length, heads, head_dim) to (rows, heads, length, head_dim)."""
    return x.unflatten(0, (rows, -1)).transpose(1, 2)


def _triangle(module: nn.Module, implementation: str | None, query: Tensor, length: int) -> Tensor | None:
    """Eager attention wants the causal mask spelt out; SDPA knows it from `module.is_causal`."""
    if not module.is_causal or implementation != "eager":
        return None
    return torch.ones(length, length, dtype=torch.bool, device=query.device).tril()[None, None]


def _variable_length(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: PackedMask, scaling: float
) -> Tensor:
    packings = (mask.queries, mask.keys)
    ends = [torch.tensor([0, *accumulate(p.lengths)], dtype=torch.int32, device=query.device) for p in packings]
    query_length, key_length = (max(p.lengths) for p in packings)
    query, key, value = (x.transpose(1, 2)[0] for x in (query, key, value))
    window = (-1, 0) if module.is_causal else (-1, -1)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) if groups > 1 else x for x in (key, value))
    attended = varlen_attn(
        query, key, value, ends[0], ends[1], query_length, key_length, scale=scaling, window_size=window
    )
    return cast("Tensor", attended)[None]  # a pair only where auxiliary outputs are asked for

"""Packing: a batch without its padding, and attention over it, beside plain loops over the rows."""

import math

import pytest
import torch
from torch import Tensor, nn

from plait.modeling.core.packing import PackedMask, attend_by_group, pack_rows, packed_attention

LENGTHS, KEYS, HEADS, DIM = (3, 0, 5, 3, 2, 4), (2, 4, 0, 2, 2, 1), 2, 4


def build_mask(lengths: tuple[int, ...]) -> Tensor:
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def build_module(causal: bool = False) -> nn.Module:
    module = nn.Module().eval()
    module.is_causal, module.num_key_value_groups, module.scaling = causal, 1, DIM**-0.5
    return module


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_real_tokens_are_packed_and_put_back() -> None:
    mask = build_mask(LENGTHS)
    packing, other = pack_rows(mask)
    assert other is None and sorted(packing.lengths) == sorted(LENGTHS)
    assert packing.ends.tolist() == [0, *torch.tensor(packing.lengths).cumsum(0).tolist()]
    x = draw(len(LENGTHS), 5, 3)
    packed = packing.pack(x)
    assert packed.shape == (1, sum(LENGTHS), 3)
    assert torch.equal(packing.unpack(packed), x * mask[..., None])
    assert torch.equal(packing.build_mask(), mask)


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_attention_of_rows_of_any_lengths(implementation: str) -> None:
    """Rows without queries take no place, rows without keys get zeros."""
    queries, keys = pack_rows(build_mask(LENGTHS), build_mask(KEYS))
    assert keys is not None
    query, key, value = (draw(len(LENGTHS), length, HEADS * DIM, seed=n) for n, length in enumerate((5, 4, 4)))
    packed = [
        packing.pack(x).unflatten(2, (HEADS, DIM)).transpose(1, 2)
        for packing, x in ((queries, query), (keys, key), (keys, value))
    ]
    mask = PackedMask(queries, keys, implementation)
    found = attend_by_group(build_module(), *packed, mask, {"scaling": DIM**-0.5, "dropout": 0.0})
    assert torch.equal(packed_attention(build_module(), *packed, mask, scaling=DIM**-0.5, dropout=0.0)[0], found)
    grid = queries.unpack(found.flatten(2))
    for row, (length, count) in enumerate(zip(LENGTHS, KEYS, strict=True)):
        q, k, v = (
            x[row, :end].unflatten(1, (HEADS, DIM)).transpose(0, 1)
            for x, end in ((query, length), (key, count), (value, count))
        )
        scores = (q @ k.transpose(1, 2) / math.sqrt(DIM)).softmax(dim=-1)
        expected = (scores @ v).transpose(0, 1).flatten(1) if count else torch.zeros(length, HEADS * DIM)
        torch.testing.assert_close(grid[row, :length], expected, rtol=1e-5, atol=1e-6)
        assert not grid[row, length:].any()


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_a_causal_row_looks_back_alone(implementation: str) -> None:
    packing, _ = pack_rows(build_mask(LENGTHS))
    packed = [
        packing.pack(draw(len(LENGTHS), 5, HEADS * DIM, seed=n)).unflatten(2, (HEADS, DIM)).transpose(1, 2)
        for n in range(3)
    ]
    mask, options = PackedMask(packing, packing, implementation), {"scaling": DIM**-0.5, "dropout": 0.0}
    found = attend_by_group(build_module(causal=True), *packed, mask, options)
    start = 0
    for length in packing.lengths:
        q, k, v = (x[0, :, start : start + length] for x in packed)
        scores = q @ k.transpose(1, 2) / math.sqrt(DIM)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        expected = (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v).transpose(0, 1)
        torch.testing.assert_close(found[0, start : start + length], expected, rtol=1e-5, atol=1e-6)
        start += length

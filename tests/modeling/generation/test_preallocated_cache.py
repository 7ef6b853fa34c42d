"""The cache that grows by doubling holds what transformers' own holds."""

from typing import Any

import pytest
import torch
from transformers.cache_utils import DynamicLayer

from plait.modeling.generation.cache import PreallocatedCacheLayer, grow


def draw(tokens: int, rows: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(rows, 3, tokens, 4), torch.randn(rows, 3, tokens, 4)


def check(ours: Any, theirs: Any, tokens: int, rows: int = 2) -> None:
    given = draw(tokens, rows)
    found, expected = ours.update(*given), theirs.update(*given)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


@torch.no_grad()
def test_it_holds_what_transformers_holds() -> None:
    torch.manual_seed(0)
    ours, theirs = PreallocatedCacheLayer(), DynamicLayer()
    for tokens in (5, 1, 1, 70, 1, 80, 1):
        check(ours, theirs, tokens)
    for cache in (ours, theirs):
        cache.crop(-150)
    check(ours, theirs, 2)
    for cache in (ours, theirs):
        cache.reorder_cache(torch.tensor([1, 0]))
    check(ours, theirs, 1)
    for cache in (ours, theirs):
        cache.batch_select_indices(torch.tensor([1]))
    check(ours, theirs, 1, rows=1)
    for cache in (ours, theirs):
        cache.batch_repeat_interleave(3)
    check(ours, theirs, 3, rows=3)


@torch.no_grad()
def test_memory_doubles_when_it_is_full_and_is_kept_otherwise() -> None:
    cache = PreallocatedCacheLayer()
    cache.update(*draw(5))
    assert cache.key_buffer.shape[-2] == cache.value_buffer.shape[-2] == 5 + 64
    place = cache.key_buffer.data_ptr()
    cache.update(*draw(64))
    assert cache.key_buffer.data_ptr() == place and cache.keys.shape[-2] == 69
    cache.update(*draw(1))
    assert cache.key_buffer.data_ptr() != place and cache.key_buffer.shape[-2] == 140
    assert cache.has_room(140) and not cache.has_room(141)


@pytest.mark.parametrize(("end", "size"), [(5, 69), (63, 127), (64, 128), (65, 130), (200, 400)])
def test_a_buffer_begins_with_the_old_tokens(end: int, size: int) -> None:
    old, new = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 1, 5, dtype=torch.float64)
    found = grow(old.double(), new, end)
    assert found.shape == (2, 3, size, 5) and found.dtype == torch.float64
    assert torch.equal(found[:, :, :4], old.double()) and grow(None, new, end).shape == found.shape


def test_with_gradients_it_copies_and_they_reach_every_token() -> None:
    cache = PreallocatedCacheLayer()
    parts = [tuple(part.requires_grad_() for part in draw(2)) for _ in range(2)]
    for part in parts:
        keys, values = cache.update(*part)
    (keys.sum() + 2 * values.sum()).backward()
    for key, value in parts:
        assert (key.grad == 1).all() and (value.grad == 2).all()
    plain = PreallocatedCacheLayer()
    plain.update(*draw(2))  # gradients are enabled, but these need none
    assert plain.key_buffer.shape[-2] == 66

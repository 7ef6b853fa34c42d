"""Positions counted over real tokens, and where flattened rows begin."""

import pytest
import torch
from transformers import DynamicCache

from plait.modeling.core.positions import count_positions, find_row_starts, resolve_flattened_rows
from plait.modeling.fusion.base import compute_token_positions

MASK = torch.tensor([[1, 1, 0, 1, 1], [0, 0, 1, 1, 0]])


def test_positions_are_counted_over_real_tokens() -> None:
    expected = torch.tensor([[0, 1, 2, 3], [0, 1, 0, 0]])
    counted = count_positions(MASK, 5)
    assert counted is not None
    assert torch.equal(counted[0][MASK[0].bool()], expected[0])
    assert torch.equal(counted[1][MASK[1].bool()], expected[1, :2])
    fused = compute_token_positions(MASK)
    assert torch.equal(fused, torch.tensor([[0, 1, 1, 2, 3], [0, 0, 0, 1, 1]]))


def test_padding_behind_leaves_the_index() -> None:
    assert count_positions(torch.tensor([[1, 1, 1], [1, 0, 0]]), 3) is None
    counted = count_positions(MASK, 2, past=3)
    assert counted is not None and counted[0].tolist() == [2, 3]


@pytest.mark.parametrize("mask", [None, torch.ones(1, 6, dtype=torch.long)])
@pytest.mark.parametrize(
    ("positions", "starts"),
    [([0, 1, 2, 0, 1, 2], [3]), ([0, 0, 0, 1, 2, 3], [1, 2]), ([0, 1, 2, 3, 4, 5], []), ([0, 1, 2, 3, 4, 0], [5])],
)
def test_a_row_begins_where_positions_start_again(
    positions: list[int], starts: list[int], mask: torch.Tensor | None
) -> None:
    assert find_row_starts(torch.tensor([positions]), mask)[0].nonzero()[:, 0].tolist() == starts


def test_padding_between_is_no_new_row() -> None:
    positions, mask = torch.tensor([[0, 1, 0, 0, 2, 3]]), torch.tensor([[1, 1, 0, 0, 1, 1]])
    assert not find_row_starts(positions, mask).any()
    assert find_row_starts(positions - 2 * (torch.arange(6) > 3), mask)[0].tolist() == [False] * 4 + [True, False]


def test_an_empty_cache_is_no_reason_to_mix_flattened_rows() -> None:
    positions = torch.tensor([[0, 1, 2, 0, 1]])
    inputs = {"input_ids": torch.ones(1, 5, dtype=torch.long), "position_ids": positions}
    expected = resolve_flattened_rows(inputs)
    arguments, starts = resolve_flattened_rows({**inputs, "past_key_values": DynamicCache()})
    assert starts is not None and expected[1] is not None
    assert torch.equal(starts, expected[1]) and starts.nonzero().tolist() == [[0, 3]]
    assert arguments.keys() == expected[0].keys()
    begun = DynamicCache()
    begun.update(torch.ones(1, 1, 1, 4), torch.ones(1, 1, 1, 4), 0)
    assert resolve_flattened_rows({**inputs, "past_key_values": begun})[1] is None

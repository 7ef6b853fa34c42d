"""The start token of a text to continue: before every row that lacks it, and only there."""

import pytest
import torch

from plait.modeling.tasks.conditional_generation import prepend_start_token

PAD, START = 0, 7


def test_rows_with_the_start_token_and_empty_rows_get_none() -> None:
    tokens = torch.tensor([[PAD, 3, 4], [START, 5, 6], [PAD, PAD, PAD]])
    found = prepend_start_token(tokens, (tokens != PAD).long(), START)
    assert found["decoder_input_ids"].tolist() == [[START, PAD, 3, 4], [START, START, 5, 6], [START, PAD, PAD, PAD]]
    assert found["decoder_attention_mask"].tolist() == [[1, 0, 1, 1], [0, 1, 1, 1], [0, 0, 0, 0]]


def test_rows_that_have_it_stay() -> None:
    tokens = torch.tensor([[START, 5], [START, 6]])
    found = prepend_start_token(tokens, None, START)
    assert torch.equal(found["decoder_input_ids"], tokens)


def test_each_row_may_have_its_own() -> None:
    found = prepend_start_token(torch.tensor([[8, 5], [8, 6]]), None, [8, 9])
    assert found["decoder_input_ids"].tolist() == [[8, 8, 5], [9, 8, 6]]
    assert found["decoder_attention_mask"].tolist() == [[0, 1, 1], [1, 1, 1]]


def test_without_one_it_is_an_error() -> None:
    with pytest.raises(ValueError, match="decoder_start_token_id is None"):
        prepend_start_token(torch.ones(1, 2, dtype=torch.long), None, None)

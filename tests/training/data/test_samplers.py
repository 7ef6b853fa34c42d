"""Batches that share pictures, and batches by length."""

import pytest

from plait.training.data.samplers import (
    LengthSampler,
    SharedImageSampler,
    TokenBatchSampler,
    balance_cuts,
    cut_batches,
    group_rows,
    shuffle_indices,
)

KEYS = ["a", "b", "a", None, "c", "b", None, "a", "c"]


def order(epoch: int, seed: int = 7) -> list[int]:
    return list(SharedImageSampler(KEYS, seed, lambda: epoch))


def test_every_row_comes_once() -> None:
    assert sorted(order(0)) == list(range(len(KEYS)))
    assert len(SharedImageSampler(KEYS, 0, lambda: 0)) == len(KEYS)


def test_rows_of_a_picture_stand_together() -> None:
    places = {row: place for place, row in enumerate(order(0))}
    for group in group_rows(KEYS):
        found = sorted(places[row] for row in group)
        assert found == list(range(found[0], found[0] + len(group)))


def test_rows_without_a_picture_stand_alone() -> None:
    assert [3] in group_rows(KEYS)
    assert [6] in group_rows(KEYS)


def test_order_depends_on_seed_and_epoch_alone() -> None:
    assert order(3) == order(3)
    assert len({tuple(order(epoch)) for epoch in range(5)}) > 1
    assert len({tuple(order(0, seed)) for seed in range(5)}) > 1


def test_the_epoch_is_asked_for_when_the_rows_are_walked() -> None:
    epoch = [0]
    sampler = SharedImageSampler(KEYS, 7, lambda: epoch[0])
    first = list(sampler)
    epoch[0] = 2
    assert list(sampler) == order(2)
    epoch[0] = 0
    assert list(sampler) == first


def test_shuffled_is_a_permutation() -> None:
    assert sorted(shuffle_indices(20, 1)) == list(range(20))
    assert shuffle_indices(20, 1) == shuffle_indices(20, 1)
    assert shuffle_indices(20, 1) != shuffle_indices(20, 2)


LENGTHS = [3, 9, 4, 4, 12, 5, 3, 3, 7, 30, 4, 9, 5, 5, 6, 3, 8]


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_token_batches_hold_every_row_once_and_keep_to_the_budget(processes: int) -> None:
    orders = []
    for epoch in range(3):
        parts = [
            list(TokenBatchSampler(LENGTHS, 20, seed=1, epoch=lambda e=epoch: e, processes=processes, process=rank))
            for rank in range(processes)
        ]
        assert len({len(part) for part in parts}) == 1  # no process waits for another
        batches = [batch for part in parts for batch in part]
        assert sorted(row for batch in batches for row in batch) == list(range(len(LENGTHS)))
        for batch in batches:
            assert len(batch) == 1 or len(batch) * max(LENGTHS[row] for row in batch) <= 20
        orders.append(batches)
    assert len({len(batches) for batches in orders}) == 1  # the Trainer counts the steps of one epoch
    assert orders[0] != orders[1] != orders[2]


def test_token_batches_depend_on_seed_and_epoch_alone() -> None:
    first, again = (TokenBatchSampler(LENGTHS, 20, seed=5, epoch=lambda: 2) for _ in range(2))
    assert list(first) == list(again) and len(first) == len(list(first))
    assert list(first) != list(TokenBatchSampler(LENGTHS, 20, seed=6, epoch=lambda: 2))


def test_too_few_rows_for_the_processes_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 batches of one row cannot be shared by 3"):
        TokenBatchSampler([5, 5], 5, seed=0, epoch=lambda: 0, processes=3)


def test_rows_of_like_length_stand_together() -> None:
    sampler = LengthSampler(LENGTHS, 4, seed=0, epoch=lambda: 0)
    rows = list(sampler)
    assert sorted(rows) == list(range(len(LENGTHS))) and len(sampler) == len(LENGTHS)
    batches = [rows[start : start + 4] for start in range(0, len(rows), 4)]
    spread = [max(LENGTHS[row] for row in batch) - min(LENGTHS[row] for row in batch) for batch in batches]
    assert sorted(spread)[:-1] <= [5] * (len(spread) - 1)  # but for the longest
    assert rows != list(LengthSampler(LENGTHS, 4, seed=0, epoch=lambda: 1))


@pytest.mark.parametrize(
    ("lengths", "tokens", "cuts"),
    [
        ([2, 2, 2], 6, [(0, 3)]),
        ([2, 2, 2], 5, [(0, 2), (2, 3)]),
        ([1, 1, 3], 6, [(0, 2), (2, 3)]),
        ([1, 1, 3], 9, [(0, 3)]),
        ([9, 9], 5, [(0, 1), (1, 2)]),
        ([4], 4, [(0, 1)]),
    ],
)
def test_a_batch_is_full_at_its_tokens_with_padding(
    lengths: list[int], tokens: int, cuts: list[tuple[int, int]]
) -> None:
    assert cut_batches(lengths, tokens) == cuts


def test_the_largest_batches_are_halved_until_every_process_has_as_many() -> None:
    assert balance_cuts([(0, 1), (1, 6)], 3) == [(0, 1), (1, 3), (3, 6)]
    assert balance_cuts([(0, 1), (1, 6)], 2) == [(0, 1), (1, 6)]
    assert balance_cuts([(0, 2)], 2) == [(0, 1), (1, 2)]
    with pytest.raises(ValueError, match="1 batches of one row cannot be shared by 2 processes"):
        balance_cuts([(0, 1)], 2)


def test_the_incomplete_batch_has_the_shortest_rows_and_comes_last() -> None:
    lengths = [5, 1, 4, 2, 3, 6, 7]
    rows = list(LengthSampler(lengths, 3, 0, lambda: 0))
    assert rows[6:] == [1] and sorted(rows) == list(range(7))
    assert {frozenset(lengths[row] for row in part) for part in (rows[:3], rows[3:6])} == {
        frozenset((2, 3, 4)),
        frozenset((5, 6, 7)),
    }
    assert len(LengthSampler(lengths, 3, 0, lambda: 0)) == 7

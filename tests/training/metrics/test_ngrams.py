"""Unigrams and bigrams from counts, beside plain loops over the rows."""

import math
from collections import Counter

import numpy as np
import pytest

from plait.training.metrics.ngrams import BigramModel

ROWS, SIZE = [[1, 2, 1, 2, 3], [2, 2, 1], [4]], 7


def count_by_hand() -> tuple[Counter[int], Counter[tuple[int, int]]]:
    pairs = Counter((a, b) for row in ROWS for a, b in zip(row, row[1:], strict=False))
    return Counter(token for row in ROWS for token in row), pairs


def unigram_by_hand(token: int) -> float:
    counts, _ = count_by_hand()
    return (counts[token] + 1) / (counts.total() + SIZE)


def bigram_by_hand(before: int, token: int) -> float:
    _, pairs = count_by_hand()
    after = {pair: count for pair, count in pairs.items() if pair[0] == before}
    kinds = len(after)
    if not kinds:
        return unigram_by_hand(token)
    return (pairs[before, token] + kinds * unigram_by_hand(token)) / (sum(after.values()) + kinds)


@pytest.mark.parametrize("ids", [[1, 2], [2, 1, 2, 2, 3], [3, 1], [4, 4], [6, 5, 0], [1, 3, 6, 6], [2, 6], [0, 1]])
def test_probabilities_are_those_of_plain_counts(ids: list[int]) -> None:
    """Pairs that were seen, those that were not, and tokens after which nothing was seen."""
    model, pairs = BigramModel(ROWS, SIZE), list(zip(ids, ids[1:], strict=False))
    assert model.unigram(np.array(ids)) == pytest.approx([-math.log(unigram_by_hand(b)) for _, b in pairs])
    assert model.bigram(np.array(ids)) == pytest.approx([-math.log(bigram_by_hand(a, b)) for a, b in pairs])


def test_probabilities_add_up_to_one() -> None:
    model = BigramModel(ROWS, SIZE)
    for before in range(SIZE):
        every = [np.array([before, token]) for token in range(SIZE)]
        assert sum(math.exp(-model.unigram(ids)[0]) for ids in every) == pytest.approx(1)
        assert sum(math.exp(-model.bigram(ids)[0]) for ids in every) == pytest.approx(1)


def test_every_pair_has_its_own_number() -> None:
    model = BigramModel(ROWS, SIZE)
    numbers = [int(model.number_pairs(np.array([a, b], dtype=np.int8))[0]) for a in range(SIZE) for b in range(SIZE)]
    assert numbers == list(range(SIZE * SIZE))

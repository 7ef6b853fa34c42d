"""Bootstrap intervals, beside what theory and brute force say."""

import numpy as np
import pytest

from plait.training.metrics.bootstrap import Resamples

Array = np.ndarray


def accuracy(truth: Array, answers: Array) -> float:
    return float((truth == answers).mean())


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    generator = np.random.default_rng(0)
    truth = np.zeros(1000, dtype=int)
    answers = (generator.random(1000) > 0.7).astype(int)
    interval = Resamples(np.arange(1000), 1, 2000, 0).compute_values(accuracy, truth, [answers]).interval
    half = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert interval.value == accuracy(truth, answers)
    assert interval.high - interval.low == pytest.approx(2 * half, rel=0.1)


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    """Two systems that differ in 20 of 500 rows: the difference is as certain as those rows make it."""
    generator = np.random.default_rng(1)
    truth = np.zeros(500, dtype=int)
    first = generator.integers(2, size=500)
    second = first.copy()
    wrong = np.flatnonzero(first == 1)[:20]
    second[wrong] = 0
    resamples = Resamples(np.arange(500), 1, 2000, 0)
    one, other = (resamples.compute_values(accuracy, truth, [answers]) for answers in (first, second))
    interval = other.subtract(one).interval
    assert interval.value == pytest.approx(20 / 500)
    assert 0 < interval.low < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * np.sqrt(0.04 * 0.96 / 500), rel=0.15)
    assert interval.high - interval.low < 0.5 * (one.interval.high - one.interval.low)


def test_rows_that_belong_together_are_drawn_together() -> None:
    """Ten copies of every row say no more than the row itself."""
    generator = np.random.default_rng(2)
    single = generator.integers(2, size=60)
    copies = np.repeat(single, 10)
    truth = np.zeros_like(copies)
    alone = Resamples(np.arange(600), 1, 1000, 0).compute_values(accuracy, truth, [copies]).interval
    together = Resamples(np.repeat(np.arange(60), 10), 1, 1000, 0).compute_values(accuracy, truth, [copies]).interval
    expected = 2 * 1.96 * np.sqrt(single.mean() * (1 - single.mean()) / 60)
    assert together.high - together.low == pytest.approx(expected, rel=0.1)
    assert alone.high - alone.low < 0.5 * (together.high - together.low)


def test_seeds_that_disagree_widen_the_interval() -> None:
    truth = np.zeros(2000, dtype=int)
    good, bad = np.zeros(2000, dtype=int), np.ones(2000, dtype=int)
    values = Resamples(np.arange(2000), 4, 1000, 0).compute_values(accuracy, truth, [good, bad, good, bad])
    assert values.estimate == 0.5
    assert values.interval.low <= 0.25 and values.interval.high >= 0.75  # binomial(4, 1/2) / 4
    same = Resamples(np.arange(2000), 4, 1000, 0).compute_values(accuracy, truth, [good] * 4).interval
    assert same == (1.0, 1.0, 1.0)


def test_too_few_resamples_are_an_error() -> None:
    with pytest.raises(ValueError, match="bootstrap is 10: expected at least 100"):
        Resamples(np.arange(5), 1, 10, 0)

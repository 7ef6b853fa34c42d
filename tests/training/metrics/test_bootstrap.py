"""Bootstrap intervals, beside what theory and brute force say."""

import numpy as np
import pytest

from plait.training.metrics.bootstrap import BootstrapValues, Resamples, paired_bootstrap

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


def test_resamples_are_drawn_by_their_seed_and_equal_in_every_call() -> None:
    groups = np.array([0, 0, 1, 2, 2, 2])
    first, again, other = (Resamples(groups, 3, 100, seed) for seed in (4, 4, 5))
    rows = [[drawn.tolist() for drawn in each.draw_rows()] for each in (first, first, again, other)]
    assert len(rows[0]) == 100 and rows[0] == rows[1] == rows[2] != rows[3]
    assert any(len(set(drawn)) == 6 for drawn in rows[0])
    for drawn in rows[0]:
        counts = np.bincount(drawn, minlength=6)
        assert counts[0] == counts[1] and counts[3] == counts[4] == counts[5]
        assert counts[0] + counts[2] + counts[3] == 3  # as many groups as there are
    assert first.seed_weights.shape == (100, 3)
    assert np.allclose(first.seed_weights.sum(axis=1), 1) and first.seed_weights.min() == 0
    assert np.array_equal(first.seed_weights, again.seed_weights)
    assert not np.array_equal(first.seed_weights, other.seed_weights)


def test_rows_and_seeds_are_drawn_independently() -> None:
    """By two streams of the generator: with one, the first draws of both would be the same numbers."""
    resamples = Resamples(np.arange(4), 4, 100, 0)
    by_hand = np.random.default_rng([0, 1]).multinomial(4, [0.25] * 4, size=100) / 4
    assert np.array_equal(resamples.seed_weights, by_hand)
    generator = np.random.default_rng([0, 0])
    for drawn in resamples.draw_rows():
        assert drawn.tolist() == sorted(generator.integers(4, size=4).tolist())


def test_the_interval_is_between_two_and_a_half_percent_and_the_rest() -> None:
    values = BootstrapValues(3.0, np.arange(1001.0))
    assert values.interval == (3.0, pytest.approx(25.0), pytest.approx(975.0))
    assert values.interval.as_dict() == {"value": 3.0, "low": pytest.approx(25.0), "high": pytest.approx(975.0)}
    negative = values.negate()
    assert negative.estimate == -3.0 and negative.resampled[7] == -7.0
    less = values.subtract(BootstrapValues(1.0, np.full(1001, 2.0)))
    assert less.estimate == 2.0 and less.resampled[7] == 5.0
    assert Resamples(np.arange(2), 1, 100, 0).count == 100


def test_a_paired_bootstrap_is_the_mean_of_drawn_differences() -> None:
    first, second = [True, True, False, True], [0, 1, 0, 0]
    differences, generator = np.array([1.0, 0.0, 0.0, 1.0]), np.random.default_rng(3)
    drawn = [differences[generator.integers(4, size=4)].mean() for _ in range(200)]
    found = paired_bootstrap(np.array(first), np.array(second), resamples=200, seed=3)
    assert found == (0.5, *np.percentile(drawn, [2.5, 97.5]))
    assert paired_bootstrap(np.ones(1), np.zeros(1)) == (1.0, 1.0, 1.0)
    for one, other in (([1.0], [1.0, 2.0]), ([[1.0]], [[1.0]]), ([], [])):
        with pytest.raises(ValueError, match="two"):
            paired_bootstrap(np.array(one), np.array(other))

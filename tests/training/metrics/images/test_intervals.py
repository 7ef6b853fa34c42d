"""Intervals of shares and means, against scipy and the normal distribution."""

import numpy as np
import pytest
from scipy.stats import binomtest

from plait.training.metrics.images.intervals import compute_wilson_interval, estimate_mean, estimate_share


@pytest.mark.parametrize(("successes", "count"), [(0, 1), (0, 30), (7, 30), (456, 480), (30, 30)])
def test_wilson_is_that_of_scipy(successes: int, count: int) -> None:
    expected = binomtest(successes, count).proportion_ci(method="wilson")
    found = compute_wilson_interval(successes, count)
    assert found == pytest.approx((successes / count, expected.low, expected.high), abs=1e-12)
    assert found.low <= found.value <= found.high
    assert (found.low == 0) == (successes == 0) and (found.high == 1) == (successes == count)


@pytest.mark.parametrize(("successes", "count"), [(1, 0), (-1, 5), (6, 5)])
def test_impossible_counts_are_errors(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match=f"{successes} of {count}: expected a count of at least 1"):
        compute_wilson_interval(successes, count)


def test_a_share_is_of_flags() -> None:
    assert estimate_share(np.array([True, False, True, True])) == compute_wilson_interval(3, 4)
    with pytest.raises(TypeError, match="right is int64: expected booleans"):
        estimate_share(np.array([1, 0]))


def test_a_mean_has_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3, 2, 900)
    found = estimate_mean(values, resamples=4000)
    half = 1.96 * values.std() / 30
    assert found == pytest.approx((values.mean(), values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_rows_of_a_group_count_once() -> None:
    values = np.random.default_rng(1).normal(size=50)
    copies, groups = np.repeat(values, 20), np.repeat(np.arange(50), 20)
    alone, together = estimate_mean(copies), estimate_mean(copies, groups)
    assert together == pytest.approx(estimate_mean(values), abs=1e-12)
    assert alone.high - alone.low < 0.4 * (together.high - together.low)


@pytest.mark.parametrize(
    ("values", "groups", "resamples", "message"),
    [
        (np.zeros(0), None, 100, "expected .rows,. finite numbers, at least one"),
        (np.array([1.0, np.nan]), None, 100, "expected .rows,. finite numbers"),
        (np.ones(4), np.zeros(4, dtype=int), 100, "all rows are in one group"),
        (np.ones(4), np.zeros(3, dtype=int), 100, "groups have shape .3,.: expected .4,."),
        (np.ones(4), None, 99, "resamples is 99: expected at least 100"),
    ],
)
def test_bad_values_are_errors(values: np.ndarray, groups: np.ndarray, resamples: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_mean(values, groups, resamples)


def test_the_fewest_groups_and_resamples() -> None:
    found = estimate_mean(np.array([1.0, 1.0, 4.0]), np.array([7, 7, 2]), 100)
    assert found == (2, 1, 4)  # one group alone has the mean 1 or 4

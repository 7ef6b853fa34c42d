"""Rank correlation, areas under curves and boxes."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from plait.training.explanations.checking.ranks import compute_area, correlate_ranks, cover_boxes, points_at


def test_rank_correlation_is_spearmans() -> None:
    generator = np.random.default_rng(0)
    for ties in (100, 3):
        one, other = generator.integers(0, ties, (2, 40)).astype(float)
        assert correlate_ranks(one, other) == pytest.approx(spearmanr(one, other).statistic)
    assert correlate_ranks(one, one) == pytest.approx(1) and correlate_ranks(one, -one) == pytest.approx(-1)
    assert np.isnan(correlate_ranks(one, np.ones(40))) and np.isnan(correlate_ranks(one[:2], other[:2]))
    with pytest.raises(ValueError, match="arrays of one shape"):
        correlate_ranks(one, other[:3])


def test_area_is_that_of_trapezoids() -> None:
    assert compute_area(np.array([[0.0, 1.0], [1.0, 1.0]])).tolist() == [0.5, 1.0]
    assert compute_area(np.array([0.0, 1.0, 0.0])) == pytest.approx(0.5)


def test_a_map_points_at_the_box_that_holds_its_largest_value() -> None:
    values = np.zeros((8, 8))
    values[5, 2] = 1
    assert points_at(values, [(2, 5, 3, 6)]) and points_at(values, [(6, 6, 8, 8), (0, 4, 4, 8)])
    assert points_at(values, [(4, 5, 6, 6)], tolerance=1.5) and not points_at(values, [(4, 5, 6, 6)], tolerance=1)
    assert not points_at(values, [(5, 2, 6, 3)]) and not points_at(-values, [(2, 5, 3, 6)])
    assert np.argwhere(cover_boxes(8, 8, [(2, 5, 3, 6)])).tolist() == [[5, 2]]

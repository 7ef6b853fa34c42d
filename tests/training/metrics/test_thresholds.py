"""Thresholds of several labels: none gives a larger F1."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score

from plait.training.metrics.thresholds import choose_thresholds

ROWS = st.lists(st.tuples(st.sampled_from([0, 1, 1, -100]), st.sampled_from([0.1, 0.3, 0.5, 0.50001, 0.9])), min_size=1)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS)
def test_no_threshold_has_a_larger_f1(rows: list[tuple[int, float]]) -> None:
    labels, scores = np.array([row[0] for row in rows]), np.array([row[1] for row in rows])
    (found,) = choose_thresholds(labels[:, None], scores[:, None])
    known = labels >= 0
    assert 0 <= found.threshold <= 1
    if not (labels == 1).any():
        assert found.threshold == 0.5
        return

    def measure(threshold: float) -> float:
        return f1_score(labels[known], scores[known] > threshold, zero_division=0)

    assert found.score == pytest.approx(measure(found.threshold))
    assert found.default_score == pytest.approx(measure(0.5))
    for other in (0.0, 0.2, 0.4, 0.5, 0.500005, 0.7, 0.95):
        assert measure(other) <= found.score + 1e-9
    assert min(abs(found.threshold - scores[known])) > 1e-7 or found.threshold == 0.5  # between scores


def test_labels_are_chosen_for_alone() -> None:
    labels, scores = np.array([[1, 0], [0, 1], [1, 1]]), np.array([[0.2, 0.9], [0.1, 0.8], [0.3, 0.95]])
    low, high = choose_thresholds(labels, scores)
    assert 0.1 < low.threshold < 0.2 and low.score == 1 and low.default_score == 0
    assert high.threshold == 0.5 and high.score == high.default_score

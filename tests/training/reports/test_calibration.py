"""Calibration by its definition, and two models compared over rows and seeds."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.training.data.labels import SINGLE
from plait.training.metrics.per_row import RowScore
from plait.training.recipes.errors import RecipeError
from plait.training.reports.answers import OTHER, Answers
from plait.training.reports.calibration import compute_calibration, count_confusion
from plait.training.reports.comparison import compare_answers


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 200), st.integers(0, 2**32 - 1))
def test_calibration_is_that_of_guo(count: int, seed: int) -> None:
    """Equations 2 and 3 bin by bin, with the bins ((m - 1) / M, m / M]."""
    drawing = np.random.default_rng(seed)
    confidence, right = drawing.random(count), drawing.random(count) < 0.6
    found = compute_calibration(confidence, right, 10)
    expected = 0.0
    for place in range(10):
        inside = (confidence > place / 10) & (confidence <= (place + 1) / 10)
        assert found.counts[place] == inside.sum()
        if inside.any():
            expected += inside.sum() / count * abs(right[inside].mean() - confidence[inside].mean())
    assert found.error == pytest.approx(expected)


def test_certain_answers_that_are_right_are_calibrated() -> None:
    assert compute_calibration(np.ones(5), np.ones(5)).error == 0
    assert compute_calibration(np.ones(5), np.zeros(5)).error == 1
    for confidence, right in ((np.ones(0), np.ones(0)), (np.ones(2), np.ones(3)), (np.array([1.2]), np.ones(1))):
        with pytest.raises(ValueError, match="calibration needs|outside"):
            compute_calibration(confidence, right)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4))))
def test_a_confusion_matrix_sums_to_the_rows(pairs: list[tuple[int, int]]) -> None:
    truth, chosen = np.array(pairs, dtype=int).reshape(-1, 2).T
    counts = count_confusion(truth, chosen, 5)
    assert counts.sum() == len(pairs)
    assert np.trace(counts) == sum(a == b for a, b in pairs)
    assert counts.sum(axis=1).tolist() == np.bincount(truth, minlength=5).tolist()


def answers_with(right: float, seed: int, count: int = 300) -> Answers:
    """Answers of two classes, of which a share is right."""
    truth = np.arange(count) % 2
    wrong = np.random.default_rng(seed).random(count) >= right
    return Answers(SINGLE, count, ["accuracy"], {"truth": truth, "chosen": np.where(wrong, 1 - truth, truth)})


def test_models_are_compared_over_rows_and_seeds() -> None:
    """A model differs from itself by nothing; a better one by more than its interval; seeds widen the interval."""
    good, poor = answers_with(0.9, 0), answers_with(0.6, 1)
    same = compare_answers([good], [good])[0]
    assert same.difference == (0, 0, 0)
    better = compare_answers([good], [poor])[0]
    assert better.difference.low > 0.15 and better.rows == 300
    assert better.difference.value == pytest.approx(better.first.value - better.second.value)
    one = compare_answers([answers_with(0.7, 2)], [poor])[0].difference
    seeds = compare_answers([answers_with(0.7, 2), answers_with(0.5, 3)], [poor, answers_with(0.9, 4)])[0].difference
    assert seeds.high - seeds.low > 1.5 * (one.high - one.low)


def test_other_rows_are_not_compared() -> None:
    with pytest.raises(RecipeError, match="rows"):
        compare_answers([answers_with(0.9, 0)], [answers_with(0.9, 0, count=200)])
    other = answers_with(0.9, 0)
    other.arrays["truth"] = 1 - other.arrays["truth"]
    with pytest.raises(RecipeError, match="other rows"):
        compare_answers([answers_with(0.9, 0)], [other])
    scores = [Answers(OTHER, 4, scores={name: RowScore(np.ones(4), np.ones(4))}) for name in ("bleu", "chrf")]
    with pytest.raises(RecipeError, match="no metric in common"):
        compare_answers(scores[:1], scores[1:])

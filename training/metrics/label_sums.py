"""Metrics of labels and values from sums over the rows, so that thousands of resamples cost little: each is equal to
that of scikit-learn (scipy) of the same name. Of one class a row they are in `class_counts`."""

from collections.abc import Callable
from functools import partial

import numpy as np

from ...modeling.losses.labels import IGNORE_INDEX
from ..data.labels import MULTI, REGRESSION, MetricProblemType
from .class_counts import AVERAGED, ClassCounts, average_scores
from .per_row import RowSums

Sums = np.ndarray  # (..., sums of the columns of RowSums.totals)


def build_row_sums(
    name: str, problem_type: MetricProblemType, references: np.ndarray, chosen: np.ndarray
) -> RowSums | None:
    """Builds what a metric is computed from, row by row; None for a metric that is no function of sums.

    references: 0 and 1 (rows, labels), or values (rows,); -100 or NaN where not known; chosen: the predicted ones.
    """
    if problem_type == REGRESSION and references.ndim == 1 and name in VALUE_METRICS:
        return sum_values(references, chosen, VALUE_METRICS[name])
    if problem_type != MULTI:
        return None
    if name == "accuracy":
        return sum_hits(references, chosen)
    score, _, average = name.partition("_")
    if (score, average) not in AVERAGED:
        return None
    measure = partial(average_sums, score=score, average=average)
    return RowSums(references, count_outcomes(references, chosen), measure)


def sum_hits(references: np.ndarray, chosen: np.ndarray) -> RowSums:
    """Builds the sums of the accuracy: rows whose known labels are all right, and rows with a known label."""
    known = references != IGNORE_INDEX
    right = (references == chosen) | ~known
    flat = known.reshape(len(known), -1).any(1)
    return RowSums(references, np.stack([right.reshape(len(known), -1).all(1) & flat, flat], 1).astype(float), divide)


def divide(sums: Sums) -> np.ndarray:
    """Computes the first sum over the second."""
    return sums[..., 0] / sums[..., 1]


def count_outcomes(references: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Counts hits, predictions and references of each label, row by row: (rows, 3 * labels)."""
    known = references != IGNORE_INDEX
    truth, predicted = (references == 1) & known, chosen.astype(bool) & known
    return np.concatenate([truth & predicted, predicted, truth], axis=1).astype(float)


def average_sums(sums: Sums, score: str, average: str) -> np.ndarray:
    """Computes F1, precision or recall from the sums of `count_outcomes`, averaged over the labels (see
    `average_scores`)."""
    hits, predicted, truth = np.split(sums, 3, axis=-1)
    return average_scores(ClassCounts(hits, predicted, truth), score, average)


def sum_values(references: np.ndarray, values: np.ndarray, measure: Callable[[Sums], np.ndarray]) -> RowSums:
    """Builds the sums of values: of rows, absolute and squared errors, and moments about the means of all rows."""
    known = ~np.isnan(references)
    truth, found = np.where(known, references, 0.0).astype(float), np.where(known, values, 0.0).astype(float)
    truth, found = (part - part[known].mean() if known.any() else part for part in (truth, found))
    errors = np.where(known, np.nan_to_num(references) - values, 0.0).astype(float)
    moments = (np.abs(errors), errors**2, truth, found, truth**2, found**2, truth * found)
    return RowSums(references, np.stack([known.astype(float), *(part * known for part in moments)], 1), measure)


def measure_correlation(sums: Sums) -> np.ndarray:
    """Computes Pearson's correlation."""
    count, _, _, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return (count * xy - x * y) / np.sqrt((count * xx - x**2) * (count * yy - y**2))


def measure_explained(sums: Sums) -> np.ndarray:
    """Computes the coefficient of determination."""
    count, _, squares, x, _, xx, _, _ = np.moveaxis(sums, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - squares / (xx - x**2 / count)


VALUE_METRICS: dict[str, Callable[[Sums], np.ndarray]] = {
    "mae": lambda sums: sums[..., 1] / sums[..., 0],
    "mse": lambda sums: sums[..., 2] / sums[..., 0],
    "rmse": lambda sums: np.sqrt(sums[..., 2] / sums[..., 0]),
    "r2": measure_explained,
    "pearson": measure_correlation,
}

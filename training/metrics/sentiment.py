"""Sentiment metrics of the CMU-MOSI and CMU-MOSEI literature, for numbers from -3 (very negative) to 3.

References and predictions are (rows,) numbers. The binary metrics follow both conventions of the literature: negative
against not negative over all rows (Zadeh et al. 2017, https://arxiv.org/abs/1707.07250), and, `_nonzero`, negative
against positive over the rows that are not neutral (Tsai et al. 2019, https://arxiv.org/abs/1906.00295). Pearson's
correlation and the mean absolute error are the metrics `pearson` and `mae`.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

MetricFunction = Callable[[np.ndarray, np.ndarray], float]


def build_class_accuracy(limit: int) -> MetricFunction:
    """Builds the accuracy in 2 * limit + 1 classes: both numbers are clipped to -limit .. limit and rounded."""

    def compute(references: np.ndarray, predictions: np.ndarray) -> float:
        known, found = (np.round(np.clip(values, -limit, limit)) for values in (references, predictions))
        return float((known == found).mean())

    return compute


def build_not_negative_score(score: MetricFunction) -> MetricFunction:
    """Builds a score of two classes: below 0, and at least 0."""
    return lambda references, predictions: score(references >= 0, predictions >= 0)


def build_positive_score(score: MetricFunction) -> MetricFunction:
    """Builds a score of two classes, above 0 and at most 0, over the rows whose reference is not 0; NaN if there are
    none."""

    def compute(references: np.ndarray, predictions: np.ndarray) -> float:
        known = references != 0
        return score(references[known] > 0, predictions[known] > 0) if known.any() else float("nan")

    return compute


def accuracy(references: np.ndarray, predictions: np.ndarray) -> float:
    """Computes the share, 0..1, of the rows whose prediction equals the reference."""
    return float((references == predictions).mean())


def weighted_f1(references: np.ndarray, predictions: np.ndarray) -> float:
    """Computes the mean F1, 0..1, of the classes, weighted by their number of reference rows."""
    from sklearn import metrics

    score: Any = metrics.f1_score  # its zero_division is typed as a string, but takes a number
    return float(score(references, predictions, average="weighted", zero_division=0))


SENTIMENT_METRICS: dict[str, MetricFunction] = {
    "acc_2": build_not_negative_score(accuracy),
    "acc_2_nonzero": build_positive_score(accuracy),
    "f1_2": build_not_negative_score(weighted_f1),
    "f1_2_nonzero": build_positive_score(weighted_f1),
    "acc_5": build_class_accuracy(2),
    "acc_7": build_class_accuracy(3),
}

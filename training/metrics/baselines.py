"""Predictions without a model: the majority, and blind ones."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from ..data.labels import MULTI, SINGLE, MetricProblemType


def predict_majority(train: np.ndarray, count: int, problem_type: MetricProblemType) -> np.ndarray:
    """What never looking predicts for `count` rows: the most frequent training label (multi-label: each one's more
    frequent value; regression: the mean)."""
    return np.repeat(_find_central_label(train, problem_type)[None], count, axis=0)


def predict_blind(
    train: tuple[Sequence[Hashable], np.ndarray], texts: Sequence[Hashable], problem_type: MetricProblemType
) -> np.ndarray:
    """What the text alone allows at best: for each text the most frequent answer that it had in training.

    A text that training did not hold gets the majority. `train` is (texts, labels).
    """
    rows = defaultdict(list)
    for row, text in enumerate(train[0]):
        rows[text].append(row)
    answers = {text: _find_central_label(train[1][members], problem_type) for text, members in rows.items()}
    fallback = _find_central_label(train[1], problem_type)
    return np.stack([answers.get(text, fallback) for text in texts])


def _find_central_label(labels: np.ndarray, problem_type: MetricProblemType) -> np.ndarray:
    if problem_type == SINGLE:
        return np.asarray(Counter(labels.tolist()).most_common(1)[0][0])
    mean = labels.mean(axis=0)
    return np.asarray(mean > 0.5) if problem_type == MULTI else np.asarray(mean)

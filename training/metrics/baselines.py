"""Baseline predictions without a model: the majority, and the best that the text alone allows (blind)."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ...modeling.losses.labels import IGNORE_INDEX
from ..data.labels import MULTI, REGRESSION, SINGLE, MetricProblemType


def predict_majority(train: np.ndarray, count: int, problem_type: MetricProblemType) -> np.ndarray:
    """Predicts the most frequent training label for each of `count` rows (multi-label: the more frequent value of every
    label; regression: the mean)."""
    return np.repeat(_find_central_label(train, problem_type)[None], count, axis=0)


def predict_blind(
    train: tuple[Sequence[Hashable], np.ndarray], texts: Sequence[Hashable], problem_type: MetricProblemType
) -> np.ndarray:
    """Predicts for each text the most frequent label that the same text has in training: the best that the text alone
    allows.

    A text that is not in training gets the majority label. `train` is (texts, labels).
    """
    rows = defaultdict(list)
    for row, text in enumerate(train[0]):
        rows[text].append(row)
    answers = {text: _find_central_label(train[1][members], problem_type) for text, members in rows.items()}
    fallback = _find_central_label(train[1], problem_type)
    return np.stack([fallback if answers.get(text) is None else answers[text] for text in texts])


def _find_central_label(labels: np.ndarray, problem_type: MetricProblemType) -> Any:
    """Returns the most frequent or mean label of those that are known; None if none is."""
    known = ~np.isnan(labels) if problem_type == REGRESSION else labels != IGNORE_INDEX
    if not known.any():
        return None
    if problem_type == SINGLE:
        return np.asarray(Counter(labels[known].tolist()).most_common(1)[0][0])
    if labels.ndim == 1:
        mean = labels[known].mean()
    else:
        mean = np.where(known, labels, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    return np.asarray(mean > 0.5) if problem_type == MULTI else np.asarray(mean)

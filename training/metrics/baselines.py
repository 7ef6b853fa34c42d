"""Predictions without a model: the majority, and blind ones."""

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from ..data.labels import MULTI, SINGLE, ProblemType


def majority_predictions(train: np.ndarray, count: int, problem_type: ProblemType) -> np.ndarray:
    """What never looking predicts for `count` rows: the most frequent training label (multi-label: each one's more
    frequent value; regression: the mean)."""
    return np.repeat(_central(train, problem_type)[None], count, axis=0)


def blind_predictions(
    train: tuple[Sequence[Hashable], np.ndarray], texts: Sequence[Hashable], problem_type: ProblemType
) -> np.ndarray:
    """What the text alone allows at best: for each text the most frequent answer that it had in training.

    A text that training did not hold gets the majority. `train` is (texts, labels).
    """
    rows = defaultdict(list)
    for row, text in enumerate(train[0]):
        rows[text].append(row)
    answers = {text: _central(train[1][members], problem_type) for text, members in rows.items()}
    fallback = _central(train[1], problem_type)
    return np.stack([answers.get(text, fallback) for text in texts])


def _central(labels: np.ndarray, problem_type: ProblemType) -> np.ndarray:
    if problem_type == SINGLE:
        return np.asarray(Counter(labels.tolist()).most_common(1)[0][0])
    mean = labels.mean(axis=0)
    return np.asarray(mean > 0.5) if problem_type == MULTI else np.asarray(mean)

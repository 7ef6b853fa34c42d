"""Chooses the probability above which each of several labels is predicted."""

from typing import NamedTuple

import numpy as np

from ...modeling.losses.labels import IGNORE_INDEX

EVEN = 0.5


class ChosenThreshold(NamedTuple):
    """The threshold of a label, 0..1, its F1 with it and its F1 with 0.5, on the rows it was chosen on."""

    threshold: float
    score: float
    default_score: float


def choose_thresholds(references: np.ndarray, probabilities: np.ndarray) -> list[ChosenThreshold]:
    """Chooses for each label the threshold with the largest F1 (the macro F1 is then the largest too; Lipton et al.
    2014, https://arxiv.org/abs/1402.1892): of equal ones that nearest to 0.5, and 0.5 for a label without a positive
    row.

    references: (rows, labels) of 0, 1 and -100 where not known; probabilities: (rows, labels), 0..1.
    """
    columns = zip(references.T, probabilities.T, strict=True)
    return [choose_threshold(*(values[labels != IGNORE_INDEX] for values in (labels, scores)))
            for labels, scores in columns]  # fmt: skip


def choose_threshold(labels: np.ndarray, scores: np.ndarray) -> ChosenThreshold:
    """Chooses the threshold of one label; it lies midway between two scores, so that neither is near it."""
    usual = compute_f1(labels, scores > EVEN)
    if not (labels == 1).any():
        return ChosenThreshold(EVEN, usual, usual)
    levels = np.unique(scores)
    between = (levels[1:] + levels[:-1]) / 2
    candidates = np.concatenate([[levels[0] / 2, EVEN], between])
    order = np.argsort(scores)
    positives = np.concatenate([[0], np.cumsum(labels[order] == 1)])
    below = np.searchsorted(scores[order], candidates, side="right")
    hits = positives[-1] - positives[below]
    found = 2 * hits / (len(scores) - below + positives[-1])
    best = min(np.flatnonzero(np.isclose(found, found.max())), key=lambda at: abs(candidates[at] - EVEN))
    return ChosenThreshold(float(candidates[best]), float(found[best]), usual)


def compute_f1(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Computes F1, 0..1, of one label; 0 without a positive row or prediction."""
    total = (labels == 1).sum() + predicted.sum()
    return float(2 * ((labels == 1) & predicted).sum() / total) if total else 0.0

"""Metrics of one class a row from what each class counts: time and memory grow with the rows and the classes, and no
table of both stands. Each is equal to that of scikit-learn of the same name."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ...modeling.losses.labels import IGNORE_INDEX

AVERAGED = {(score, average) for score in ("f1", "precision", "recall") for average in ("macro", "weighted", "micro")}


class ClassCounts(NamedTuple):
    """Rows that have a class and are given it (`hits`), that are given it (`predicted`), and that have it (`truth`);
    each (..., classes)."""

    hits: np.ndarray
    predicted: np.ndarray
    truth: np.ndarray


def count_class_rows(references: np.ndarray, chosen: np.ndarray) -> ClassCounts:
    """Counts the rows of each class, of many classes only of those that occur.

    references: (rows,) class ids from 0, IGNORE_INDEX where not known; such rows are left out; chosen: the predicted
    ones.
    """
    known = references != IGNORE_INDEX
    truth, given = references[known], chosen[known]
    classes = int(max(truth.max(initial=0), given.max(initial=0))) + 1
    if classes > 4 * len(truth):  # few of them occur: the others count nothing
        occurring, numbers = np.unique(np.concatenate([truth, given]), return_inverse=True)
        classes, (truth, given) = len(occurring), np.split(numbers, 2)
    found = (truth[truth == given], given, truth)
    return ClassCounts(*(np.bincount(ids, minlength=classes).astype(float) for ids in found))


def average_scores(counts: ClassCounts, score: str, average: str, drops_absent: bool = False) -> np.ndarray:
    """Computes F1, precision or recall, averaged over the classes ("macro", "weighted" by their rows, or "micro"). A
    class that nothing is divided by scores 0; with `drops_absent` one without any row is left out."""
    hits, predicted, truth = counts
    if average == "micro":
        hits, predicted, truth = (part.sum(axis=-1, keepdims=True) for part in counts)
    below = {"f1": (predicted + truth) / 2, "precision": predicted}.get(score, truth)
    scores = np.divide(hits, below, out=np.zeros_like(hits), where=below > 0)
    if average == "micro":
        return scores[..., 0]
    weights = truth if average == "weighted" else predicted + truth > 0 if drops_absent else np.ones_like(truth)
    total = weights.sum(axis=-1)
    return np.divide((scores * weights).sum(axis=-1), total, out=np.zeros_like(scores[..., 0]), where=total > 0)


def compute_accuracy(counts: ClassCounts) -> float:
    """Computes the share of rows that are given their class."""
    return float(counts.hits.sum() / counts.truth.sum())


def compute_balanced_accuracy(counts: ClassCounts) -> float:
    """Computes the mean recall of the classes that have rows."""
    held = counts.truth > 0
    return float((counts.hits[held] / counts.truth[held]).mean())


def compute_matthews(counts: ClassCounts) -> float:
    """Computes the correlation coefficient of Matthews for any number of classes, 0 where it is not defined (Gorodkin
    2004, https://doi.org/10.1016/j.compbiolchem.2004.09.006)."""
    rows, hits = counts.truth.sum(), counts.hits.sum()
    both = hits * rows - counts.truth @ counts.predicted
    spread = [rows**2 - part @ part for part in (counts.predicted, counts.truth)]
    return float(both / np.sqrt(spread[0] * spread[1])) if min(spread) > 0 else 0.0


def compute_kappa(counts: ClassCounts) -> float:
    """Computes the agreement of Cohen (1960, https://doi.org/10.1177/001316446002000104), NaN where chance alone agrees
    everywhere."""
    rows = counts.truth.sum()
    chance = counts.truth @ counts.predicted / rows
    return float((counts.hits.sum() - chance) / (rows - chance)) if rows > chance else float("nan")


def build_average(score: str, average: str) -> Callable[[ClassCounts], float]:
    """Builds the average of a score over the classes that occur."""
    return lambda counts: float(average_scores(counts, score, average, drops_absent=True))


COUNT_METRICS: dict[str, Callable[[ClassCounts], float]] = {
    "accuracy": compute_accuracy,
    "balanced_accuracy": compute_balanced_accuracy,
    **{f"{score}_{average}": build_average(score, average) for score, average in sorted(AVERAGED)},
    "matthews": compute_matthews,
    "cohen_kappa": compute_kappa,
}

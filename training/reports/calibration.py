"""Calibration: whether answers given with 80 % confidence are right in 80 % of the cases."""

from typing import NamedTuple

import numpy as np

BINS = 15  # as in Guo et al. 2017


class Calibration(NamedTuple):
    """counts, confidences, accuracies: (bins,) the number of answers, their mean confidence and the share of right ones
    (NaN in an empty bin); error: the expected calibration error, 0..1."""

    counts: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray
    error: float


def compute_calibration(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> Calibration:
    """Computes the reliability of answers in bins of equal width over (0, 1], and the expected calibration error
    ECE = sum_m |B_m| / n |acc(B_m) - conf(B_m)|.

    Source: Guo et al. 2017, https://arxiv.org/abs/1706.04599, equations 1 to 3.

    confidence: (answers,) the probability of each answer; right: (answers,) whether it is right.

    Raises:
        ValueError: no answers, arrays of other shapes, or a confidence outside 0..1.
    """
    confidence, right = np.asarray(confidence, dtype=float), np.asarray(right, dtype=float)
    if confidence.ndim != 1 or confidence.shape != right.shape or not confidence.size:
        raise ValueError(
            f"calibration needs two (answers,) arrays of equal length, not {confidence.shape} and {right.shape}"
        )
    if not (confidence.min() >= 0 and confidence.max() <= 1):
        raise ValueError(f"a confidence is outside 0..1: {confidence.min():.4g} to {confidence.max():.4g}")
    places = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    counts = np.bincount(places, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidences = np.bincount(places, confidence, bins) / counts
        accuracies = np.bincount(places, right, bins) / counts
    filled = counts > 0
    error = float((counts * np.abs(accuracies - confidences))[filled].sum() / confidence.size)
    return Calibration(counts, confidences, accuracies, error)


def count_confusion(truth: np.ndarray, chosen: np.ndarray, classes: int) -> np.ndarray:
    """Counts (classes, classes) how often a row of one class (first axis) was given another (second axis).

    truth, chosen: (rows,) class numbers from 0; the counts sum to the number of rows.
    """
    return np.bincount(np.asarray(truth) * classes + np.asarray(chosen), minlength=classes**2).reshape(classes, classes)

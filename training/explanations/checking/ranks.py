"""Rank correlation, the area under a curve, and whether a map points at a box."""

from collections.abc import Sequence

import numpy as np

POINTING_TOLERANCE = 15 / 224  # of the longer side
Box = tuple[float, float, float, float]  # left, top, right, bottom in pixels of the image as it was given


def rank(values: np.ndarray) -> np.ndarray:
    """Returns (values,) ranks from 0; equal values share the mean of theirs."""
    _, places, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[places.ravel()]


def correlate_ranks(one: np.ndarray, other: np.ndarray) -> float:
    """Returns Spearman's rank correlation of two arrays of one shape, -1..1; NaN if one of them is constant or has
    fewer than three values."""
    if one.shape != other.shape:
        raise ValueError(f"ranks of {one.shape} and {other.shape}: give arrays of one shape")
    if one.size < 3:
        return float("nan")
    first, second = (values - values.mean() for values in (rank(one), rank(other)))
    size = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / size) if size > 0 else float("nan")


def compute_area(curve: np.ndarray) -> np.ndarray:
    """Returns the area under curves (..., points) over an even axis from 0 to 1, by the trapezoid rule."""
    inner = curve[..., 1:-1].sum(-1) + (curve[..., 0] + curve[..., -1]) / 2
    return inner / (curve.shape[-1] - 1)


def points_at(values: np.ndarray, boxes: Sequence[Box], tolerance: float | None = None) -> bool:
    """Returns whether the largest value of a (height, width) map lies in one of the boxes, or at most `tolerance`
    pixels beside it; of equal largest values, whether their middle does.

    tolerance: None: 15 pixels of an image of 224, as in the pointing game of Zhang et al. 2016,
    https://arxiv.org/abs/1608.00507.
    """
    near = max(values.shape) * POINTING_TOLERANCE if tolerance is None else tolerance
    rows, columns = np.nonzero(values == values.max())
    row, column = rows.mean() + 0.5, columns.mean() + 0.5
    return any(
        left - near <= column <= right + near and top - near <= row <= bottom + near
        for left, top, right, bottom in boxes
    )


def cover_boxes(height: int, width: int, boxes: Sequence[Box]) -> np.ndarray:
    """Returns (height, width), 1 in the boxes and 0 elsewhere."""
    mask = np.zeros((height, width))
    for left, top, right, bottom in boxes:
        mask[max(round(top), 0) : round(bottom), max(round(left), 0) : round(right)] = 1
    return mask

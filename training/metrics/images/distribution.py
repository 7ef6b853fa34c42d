"""Distances of two distributions of images in the features of a model: KID and FID."""

import numpy as np

from ..bootstrap import Interval
from .arrays import Array, read_feature_pair
from .intervals import QUANTILE, draw_weights

ROWS_PER_BLOCK = 1024  # of the kernel's matrix at a time
IMAGES_PER_FEATURE = 10  # fewer images make FID mostly bias
ROWS_FOR_INTERVAL = 10


def compute_kid(first: Array, second: Array) -> float:
    """Computes the kernel inception distance of features (rows, width) of two sets of images.

    The unbiased estimate of the squared maximum mean discrepancy with the kernel k(x, y) = (x . y / width + 1)^3:
    mean over i != j of k(x_i, x_j) + mean over i != j of k(y_i, y_j) - 2 mean of k(x_i, y_j). About 0, and as often
    below, for two sets of one distribution, whatever their sizes.

    Source: Binkowski et al. 2018, https://arxiv.org/abs/1801.01401 (there with features of Inception v3).

    Raises:
        ValueError: fewer than 2 rows, two widths, NaN or infinity.
    """
    one, other = read_feature_pair(first, second, at_least=2)
    return float(_compute_weighted_kid(one, other, np.ones((1, len(one))), np.ones((1, len(other))))[0])


def estimate_kid(first: Array, second: Array, resamples: int = 1000, seed: int = 0) -> Interval:
    """Computes KID as `compute_kid`, with a 95 % percentile interval over bootstrap resamples of the rows of both sets.

    A row drawn twice is not paired with itself, so that the resamples are not biased. Raises as `compute_kid`, from
    fewer than 10 rows on.
    """
    one, other = read_feature_pair(first, second, at_least=ROWS_FOR_INTERVAL)
    weights = [draw_weights(len(rows), resamples, seed + number) for number, rows in enumerate((one, other))]
    low, high = np.quantile(_compute_weighted_kid(one, other, *weights), [0.025, 0.975])
    return Interval(compute_kid(one, other), float(low), float(high))


def compute_fid(first: Array, second: Array) -> float:
    """Computes the Frechet inception distance of features (rows, width) of two sets of images.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), of the means m and covariances C (divided by rows - 1).
    Source: Heusel et al. 2017, https://arxiv.org/abs/1706.08500 (there with features of Inception v3).

    The estimate is biased upwards by about width / rows (Chong & Forsyth 2020, https://arxiv.org/abs/1911.07023):
    compare only values of equal numbers of images, or use KID.

    Raises:
        ValueError: fewer rows than 10 times the width, two widths, NaN or infinity.
    """
    return _compute_frechet_distance(*_read_enough(first, second))


def estimate_fid(first: Array, second: Array, resamples: int = 100, seed: int = 0) -> Interval:
    """Computes FID as `compute_fid`, with the 95 % normal interval whose standard error is that of bootstrap resamples
    of the rows of both sets (Davison & Hinkley 1997, section 5.2). The interval does not hold the bias.

    Raises as `compute_fid`.
    """
    one, other = _read_enough(first, second)
    weights = [draw_weights(len(rows), resamples, seed + number) for number, rows in enumerate((one, other))]
    found = [
        _compute_frechet_distance(np.repeat(one, drawn, axis=0), np.repeat(other, other_drawn, axis=0))
        for drawn, other_drawn in zip(*(array.astype(int) for array in weights), strict=True)
    ]
    value, half = _compute_frechet_distance(one, other), QUANTILE * float(np.std(found, ddof=1))
    return Interval(value, max(0.0, value - half), value + half)


def _compute_weighted_kid(
    first: np.ndarray, second: np.ndarray, first_weights: np.ndarray, second_weights: np.ndarray
) -> np.ndarray:
    """Computes KID of the rows taken as often as each resample's weights (resamples, rows) say, (resamples,)."""
    within = _average_pairs(first, first_weights) + _average_pairs(second, second_weights)
    across = _sum_kernel(first, second, first_weights, second_weights)
    return within - 2 * across / (first_weights.sum(axis=1) * second_weights.sum(axis=1))


def _average_pairs(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Computes the mean of the kernel over pairs of different rows, for each row of weights."""
    own = weights**2
    diagonal = _apply_kernel((features**2).sum(axis=1), features.shape[1])
    total = _sum_kernel(features, features, weights, weights) - own @ diagonal
    return total / (weights.sum(axis=1) ** 2 - own.sum(axis=1))


def _sum_kernel(
    first: np.ndarray, second: np.ndarray, first_weights: np.ndarray, second_weights: np.ndarray
) -> np.ndarray:
    """Computes the weighted sums of the kernel over all pairs, (resamples,), in blocks of rows."""
    total = np.zeros(len(first_weights))
    for start in range(0, len(first), ROWS_PER_BLOCK):
        rows = slice(start, start + ROWS_PER_BLOCK)
        kernel = _apply_kernel(first[rows] @ second.T, first.shape[1])
        total += ((first_weights[:, rows] @ kernel) * second_weights).sum(axis=1)
    return total


def _apply_kernel(products: np.ndarray, width: int) -> np.ndarray:
    return (products / width + 1) ** 3


def _read_enough(first: Array, second: Array) -> tuple[np.ndarray, np.ndarray]:
    one, other = read_feature_pair(first, second, at_least=2)
    rows, width = min(len(one), len(other)), one.shape[1]
    if rows < IMAGES_PER_FEATURE * width:
        raise ValueError(
            f"FID of {rows} images in {width} features is mostly bias: it needs {IMAGES_PER_FEATURE * width} images in "
            "each set, 10 a feature; use KID, or a model with fewer features"
        )
    return one, other


def _compute_frechet_distance(first: np.ndarray, second: np.ndarray) -> float:
    """The square roots of the eigenvalues of C1 C2 are the singular values of R1 R2^T, where C = R^T R: no square root
    of a rounded matrix is taken, and a singular covariance is exact too."""
    roots = [_factor_covariance(rows) for rows in (first, second)]
    means = first.mean(axis=0) - second.mean(axis=0)
    traces = sum(float((root**2).sum()) for root in roots)
    return float(means @ means) + traces - 2 * float(np.linalg.svd(roots[0] @ roots[1].T, compute_uv=False).sum())


def _factor_covariance(features: np.ndarray) -> np.ndarray:
    centred = features - features.mean(axis=0)
    return np.asarray(np.linalg.qr(centred / np.sqrt(len(features) - 1), mode="r"))

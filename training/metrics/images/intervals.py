"""Intervals of shares and of means over images, also where the images of a prompt belong together."""

import numpy as np

from ..bootstrap import Interval
from .arrays import Array, read_flags, read_numbers

QUANTILE = 1.959963984540054  # of the normal distribution at 0.975, for intervals of 95 %


def compute_wilson_interval(successes: int, count: int) -> Interval:
    """Computes a share with its 95 % score interval: the shares p for which |successes - count p| is at most
    1.96 sqrt(count p (1 - p)).

    Source: Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953.

    Raises:
        ValueError: no rows, or a number of successes outside 0..count.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(f"{successes} of {count}: expected a count of at least 1 and 0 to count successes")
    share, spread = successes / count, QUANTILE**2 / count
    centre = (share + spread / 2) / (1 + spread)
    half = QUANTILE * np.sqrt(share * (1 - share) / count + spread / (4 * count)) / (1 + spread)
    # the bounds at 0 and 1 are exact, the formula rounds
    low, high = 0.0 if successes == 0 else centre - half, 1.0 if successes == count else centre + half
    return Interval(share, float(low), float(high))


def estimate_share(right: Array) -> Interval:
    """Returns the share of the flags (rows,) that are true, with its Wilson interval. Raises as `read_flags`."""
    flags = read_flags(right)
    return compute_wilson_interval(int(flags.sum()), flags.size)


def estimate_mean(values: Array, groups: Array | None = None, resamples: int = 2000, seed: int = 0) -> Interval:
    """Returns the mean of (rows,) values with its 95 % percentile bootstrap interval.

    Args:
        values: (rows,) finite numbers or flags.
        groups: (rows,) integers: rows of a group (the images of a prompt) are drawn together; None: every row by
            itself.
        resamples: number of resamples.
        seed: of the random generator.

    Source: Davison & Hinkley 1997, section 3.8.

    Raises:
        ValueError: values that are not (rows,), not finite or empty; fewer than two groups.
    """
    numbers = np.asarray(values, dtype=float)
    if numbers.ndim != 1 or not numbers.size or not np.isfinite(numbers).all():
        raise ValueError(f"values have shape {numbers.shape}: expected (rows,) finite numbers, at least one")
    known = np.arange(numbers.size) if groups is None else read_numbers(groups, numbers.size, "groups")
    numbered = np.unique(known, return_inverse=True)[1]
    sums, counts = np.bincount(numbered, weights=numbers), np.bincount(numbered)
    if groups is not None and sums.size < 2:
        raise ValueError("all rows are in one group: an interval over groups needs two, or leave groups out")
    drawn = draw_weights(sums.size, resamples, seed)
    low, high = np.quantile((drawn @ sums) / (drawn @ counts), [0.025, 0.975])
    return Interval(float(numbers.mean()), float(low), float(high))


def draw_weights(count: int, resamples: int, seed: int) -> np.ndarray:
    """Draws how often each of `count` rows occurs in each bootstrap resample, (resamples, count) float64.

    Raises:
        ValueError: fewer than 100 resamples.
    """
    if resamples < 100:
        raise ValueError(f"resamples is {resamples}: expected at least 100")
    generator = np.random.default_rng(seed)
    weights = np.empty((resamples, count))
    for row in weights:
        row[:] = np.bincount(generator.integers(count, size=count), minlength=count)
    return weights

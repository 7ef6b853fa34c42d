"""Bootstrap intervals of metrics and of their paired differences, over the test rows and the seeds.

Rows are resampled by group (the cluster bootstrap, Davison & Hinkley 1997, section 3.8): rows of a group are drawn
together. Every system is measured on the same resamples of rows and seeds, so that a difference of two systems is
paired (Efron & Tibshirani 1993, chapters 13 and 16; percentile intervals).
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

CONFIDENCE_LEVEL = 0.95
MIN_RESAMPLES = 100  # fewer give no usable interval


class Interval(NamedTuple):
    """A value and the bounds of its 95 % interval."""

    value: float
    low: float
    high: float

    def as_dict(self) -> dict[str, float]:
        """Returns `{"value": ..., "low": ..., "high": ...}`."""
        return {"value": self.value, "low": self.low, "high": self.high}


class Resamples:
    """Bootstrap resamples of rows and training seeds, the same for all systems measured on them.

    Args:
        groups: (rows,) the number of each row's group, from 0; whole groups are drawn.
        seeds: number of trainings, one a seed.
        count: number of resamples, at least 100.
        seed: of the random generator.

    Raises:
        ValueError: a count below 100.
    """

    def __init__(self, groups: np.ndarray, seeds: int, count: int, seed: int) -> None:
        if count < MIN_RESAMPLES:
            raise ValueError(f"bootstrap is {count}: expected at least {MIN_RESAMPLES} resamples")
        self.groups, self.seeds, self.count, self.seed = groups, seeds, count, seed
        self.seed_weights = self._generator(1).multinomial(seeds, np.full(seeds, 1 / seeds), size=count) / seeds

    def _generator(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    def draw_rows(self) -> Any:
        """Yields the row numbers of each resample, (rows drawn,); every call yields the same."""
        generator, number = self._generator(0), int(self.groups.max()) + 1
        for _ in range(self.count):
            drawn = np.bincount(generator.integers(number, size=number), minlength=number)
            yield np.repeat(np.arange(len(self.groups)), drawn[self.groups])

    def compute_values(
        self, measure: Callable[[np.ndarray, np.ndarray], float], truth: np.ndarray, answers: Sequence[np.ndarray]
    ) -> "BootstrapValues":
        """Computes the metric `measure(truth, answers)` of one system, whose `answers` are one (rows,) array a seed, on
        all rows and on each resample."""
        each = np.array([[measure(truth[rows], answer[rows]) for answer in answers] for rows in self.draw_rows()])
        whole = float(np.mean([measure(truth, answer) for answer in answers]))
        return BootstrapValues(whole, (each * self.seed_weights).sum(axis=1))


class BootstrapValues(NamedTuple):
    """A metric on all rows, `estimate` (the mean over the seeds), and on each resample, `resampled` (resamples,)."""

    estimate: float
    resampled: np.ndarray

    @property
    def interval(self) -> Interval:
        """The estimate with its 95 % percentile interval, over the resamples on which the metric is defined."""
        defined = self.resampled[~np.isnan(self.resampled)]
        if not len(defined):
            return Interval(self.estimate, float("nan"), float("nan"))
        low, high = np.quantile(defined, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])
        return Interval(self.estimate, float(low), float(high))

    def subtract(self, other: "BootstrapValues") -> "BootstrapValues":
        """Returns the paired difference: self minus other, on all rows and on each resample."""
        return BootstrapValues(self.estimate - other.estimate, self.resampled - other.resampled)

    def negate(self) -> "BootstrapValues":
        """Returns the same values with the opposite sign, for a metric of which less is better."""
        return BootstrapValues(-self.estimate, -self.resampled)


def paired_bootstrap(first: np.ndarray, second: np.ndarray, resamples: int = 10_000, seed: int = 0) -> Interval:
    """Returns the mean of `first - second`, (rows,) scores of two systems on the same rows, with its 95 % percentile
    interval.

    Source: Koehn 2004, https://aclanthology.org/W04-3250.

    Raises:
        ValueError: the two differ in shape, are not one-dimensional, or are empty.
    """
    first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if first.shape != second.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            f"a paired bootstrap needs two (rows,) arrays of equal length, not {first.shape} and {second.shape}"
        )
    differences = first - second
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(differences.size, size=differences.size) for _ in range(resamples))
    low, high = np.percentile([differences[rows].mean() for rows in drawn], [2.5, 97.5])
    return Interval(float(differences.mean()), float(low), float(high))

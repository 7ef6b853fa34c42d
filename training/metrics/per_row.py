"""Per-row scores of a model, their bootstrap intervals, and paired differences to other models on the same rows."""

import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from .bootstrap import BootstrapValues, Resamples
from .text import TextMetrics

RESAMPLES = 2000


class RowScore(NamedTuple):
    """The per-row scores of a metric that is sum(totals) / sum(weights), or with `exponential` e to that power; both
    are (rows,)."""

    totals: np.ndarray
    weights: np.ndarray
    exponential: bool = False

    def compute(self) -> float:
        """Computes the metric over all rows."""
        return float(self.transform(self.totals.sum() / self.weights.sum()))

    def transform(self, mean: Any) -> Any:
        """Returns the metric for a mean score (or an array of them); the exponent is capped at 700 to stay finite."""
        return np.exp(np.minimum(mean, 700.0)) if self.exponential else mean


class RowAnswers(NamedTuple):
    """What a metric that is no mean over rows is computed from: `measure(references, answers)`, arrays with a row for
    each row."""

    references: np.ndarray
    answers: np.ndarray
    measure: Callable[[np.ndarray, np.ndarray], float]

    def compute(self) -> float:
        """Computes the metric over all rows."""
        return float(self.measure(self.references, self.answers))


class RowSums(NamedTuple):
    """What a metric of sums over the rows is computed from. references: (rows, ...); totals: (rows, sums); measure:
    from the sums of any rows, (..., sums), to the metric, (...)."""

    references: np.ndarray
    totals: np.ndarray
    measure: Callable[[np.ndarray], np.ndarray]

    def compute(self) -> float:
        """Computes the metric over all rows."""
        return float(self.measure(self.totals.sum(axis=0)))


AnyScore = RowScore | RowAnswers | RowSums
RowScores = dict[str, RowScore]
RowValues = Mapping[str, AnyScore]


@runtime_checkable
class SupportsRowScores(Protocol):
    """Metrics that also give per-row scores."""

    def compute_per_row(self) -> RowValues:
        """Returns the per-row scores by metric, in the order of adding, without metrics of the whole corpus."""
        ...


def collect_text_scores(metrics: TextMetrics) -> RowScores:
    """Collects the per-row scores of those text metrics that score every row by itself."""
    return {name: RowScore(scores, np.ones_like(scores)) for name, scores in metrics.compute_per_row().items()}


def build_perplexity_scores(losses: Sequence[float], tokens: Sequence[int]) -> RowScores:
    """Builds the per-row scores of the perplexity from each row's summed loss and number of tokens."""
    return {"perplexity": RowScore(np.array(losses, dtype=float), np.array(tokens, dtype=float), exponential=True)}


def compare_rows(
    own: RowValues, others: Mapping[str, RowValues], groups: Sequence[Hashable] | None = None
) -> dict[str, dict]:
    """Returns `{metric: {value, low, high, minus: {other: {value, low, high}}}}`: the metrics with 95 % percentile
    intervals over the rows, and under `minus` their paired differences to each other system.

    Args:
        own, others: scores of the same rows, in the same order.
        groups: the group of each row; rows of a group are resampled together (default: every row by itself).

    Raises:
        ValueError: a system scores other rows, or its perplexity counts other tokens (of another tokenizer).
    """
    count = count_scored_rows(next(iter(own.values())))
    known: dict[Hashable, int] = {}
    numbers = [known.setdefault(group, len(known)) for group in (range(count) if groups is None else groups)]
    resamples = Resamples(np.array(numbers), 1, RESAMPLES, seed=0)
    found: dict[str, dict] = {}
    for name, score in own.items():
        values = resample_metric(resamples, score)
        found[name] = {**values.interval.as_dict(), "minus": {}}
        for other, rows in others.items():
            if name in rows:
                check_pairing(name, score, other, rows[name])
                found[name]["minus"][other] = values.subtract(resample_metric(resamples, rows[name])).interval.as_dict()
    return found


def count_scored_rows(score: AnyScore) -> int:
    """Returns the number of rows of a score."""
    return len(score.answers if isinstance(score, RowAnswers) else score.totals)


def check_pairing(metric: str, own: AnyScore, other: str, theirs: AnyScore) -> None:
    """Raises ValueError if two scores are not of the same rows, or not of the same tokens in these rows."""
    counts = count_scored_rows(theirs), count_scored_rows(own)
    if counts[0] != counts[1]:
        raise ValueError(f"{other} has {counts[0]} rows in {metric}, not {counts[1]}: evaluate both on the same rows")
    if isinstance(own, RowScore) and isinstance(theirs, RowScore):
        if not np.array_equal(theirs.weights, own.weights):
            sums = f"{theirs.weights.sum():.0f} in all, not {own.weights.sum():.0f}"
            raise ValueError(
                f"{other} counts other tokens in {metric} ({sums}): compare models with the same tokenizer"
            )
        return
    first, second = (getattr(score, "references", np.zeros(0)) for score in (own, theirs))
    if not np.array_equal(first, second, equal_nan=first.dtype.kind == second.dtype.kind == "f"):
        raise ValueError(f"{other} has other references in {metric}: evaluate both on the same rows and labels")


def resample_metric(resamples: Resamples, score: AnyScore) -> BootstrapValues:
    """Computes a metric on all rows and on each resample of them; NaN on a resample on which it is not defined."""
    if isinstance(score, RowAnswers):
        return resamples.compute_values(ignore_undefined(score.measure), score.references, [score.answers])
    if isinstance(score, RowSums):
        sums = np.stack([score.totals[rows].sum(axis=0) for rows in resamples.draw_rows()])
        return BootstrapValues(score.compute(), score.measure(sums))
    values = resamples.compute_values(
        lambda weights, totals: totals.sum() / weights.sum(), score.weights, [score.totals]
    )
    return values._replace(
        estimate=float(score.transform(values.estimate)), resampled=score.transform(values.resampled)
    )


def ignore_undefined(measure: Callable[[np.ndarray, np.ndarray], float]) -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns a metric that is NaN where it is not defined, as the area under the curve of a single class."""

    def compute(references: np.ndarray, answers: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return float(measure(references, answers))
            except ValueError:
                return float("nan")

    return compute


def format_intervals(intervals: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the intervals of `compare_rows` as text: one line for each metric, and one for each difference."""
    shown = []
    for name, found in intervals.items():
        shown.append(f"{name}={found['value']:.4f} [{found['low']:.4f}, {found['high']:.4f}]")
        for other, minus in found["minus"].items():
            bounds = f"[{minus['low']:+.4f}, {minus['high']:+.4f}]"
            shown.append(f"  {other}={found['value'] - minus['value']:.4f}, difference {minus['value']:+.4f} {bounds}")
    return "\n".join(shown)

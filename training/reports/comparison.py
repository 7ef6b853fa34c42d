"""Compares two models, each trained once or with several seeds, on the answers that they gave for the same rows."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.labels import REGRESSION
from ..metrics.bootstrap import BootstrapValues, Interval, Resamples
from ..metrics.classification import Metrics, find_known_rows
from ..metrics.direction import is_greater_better
from ..recipes.errors import RecipeError
from .answers import CLASS_KINDS, Answers

REPORT_RESAMPLES = 1000


class MetricComparison(NamedTuple):
    """A metric of two models with 95 % intervals, the paired difference first minus second, and the number of rows."""

    name: str
    first: Interval
    second: Interval
    difference: Interval
    rows: int
    lower_is_better: bool


def compare_answers(first: Sequence[Answers], second: Sequence[Answers]) -> list[MetricComparison]:
    """Compares two models on the same rows by every metric that both have: resampled rows (in their groups), and the
    trainings of each where there are several, are drawn anew REPORT_RESAMPLES times (see `Resamples`).

    first, second: the answers of the trainings of each model.

    Raises:
        RecipeError: answers for other rows, or no metric in common.
    """
    check_same_rows([*first, *second])
    kind = first[0].kind
    names = [name for name in list_names(first[0]) if all(name in list_names(other) for other in (*first, *second))]
    if not names:
        raise RecipeError("the two runs have no metric in common that can be compared by row")
    return [compare_metric(name, kind, first, second) for name in names]


def list_names(answers: Answers) -> list[str]:
    """Returns the metrics that can be computed from the answers of some rows."""
    return answers.metrics if answers.kind in CLASS_KINDS else list(answers.scores)


def check_same_rows(answers: Sequence[Answers]) -> None:
    """Raises RecipeError unless all answers are for the same rows, by their number and their truth."""
    first = answers[0]
    for other in answers[1:]:
        if other.kind != first.kind or other.count != first.count:
            raise RecipeError(
                f"the runs have other tasks or rows ({first.count:,} and {other.count:,} rows): compare runs of one "
                "task on the same test data"
            )
        truth, theirs = first.arrays.get("truth"), other.arrays.get("truth")
        if truth is not None and (
            theirs is None or not np.array_equal(truth, theirs, equal_nan=first.kind == REGRESSION)
        ):
            raise RecipeError(
                "the runs were measured on other rows or in another order: give both the same test data, such as a "
                "file for data.source.test, and the same seed if rows are split off at random"
            )
        for name in first.scores.keys() & other.scores.keys():
            if len(first.scores[name].totals) != len(other.scores[name].totals):
                raise RecipeError(f"the runs scored other rows by {name}: give both the same test data")


def compare_metric(name: str, kind: str, first: Sequence[Answers], second: Sequence[Answers]) -> MetricComparison:
    """Compares two models by one metric."""
    own, other = resample_answers(name, kind, first), resample_answers(name, kind, second)
    rows = first[0].count if kind in CLASS_KINDS else len(first[0].scores[name].totals)
    difference = own.subtract(other).interval
    return MetricComparison(name, own.interval, other.interval, difference, rows, not is_greater_better(name))


def resample_answers(name: str, kind: str, answers: Sequence[Answers]) -> BootstrapValues:
    """Computes a metric of a model on all rows and on each resample of rows and trainings."""
    if kind not in CLASS_KINDS:
        scores = [one.scores[name] for one in answers]
        numbers = answers[0].arrays.get("groups", np.arange(len(scores[0].totals)))
        numbers = numbers if len(numbers) == len(scores[0].totals) else np.arange(len(scores[0].totals))
        resamples = Resamples(numbers, len(answers), REPORT_RESAMPLES, seed=0)

        def measure_scores(weights: np.ndarray, totals: np.ndarray) -> float:
            return float(scores[0].transform(totals.sum() / max(weights.sum(), 1e-12)))

        return resamples.compute_values(measure_scores, scores[0].weights, [score.totals for score in scores])
    known = find_known_rows(answers[0].arrays["truth"], kind)
    truth = answers[0].arrays["truth"][known]
    resamples = Resamples(np.arange(len(truth)), len(answers), REPORT_RESAMPLES, seed=0)
    return resamples.compute_values(build_measure(name, kind), truth, [one.arrays["chosen"][known] for one in answers])


def build_measure(name: str, kind: str) -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns the function of a metric of classes or numbers; accuracy without the cost of its library."""
    if name == "accuracy" and kind != REGRESSION:
        return lambda truth, chosen: float((truth == chosen).reshape(len(truth), -1).all(axis=1).mean())
    problem: Any = kind
    metrics = Metrics([name], problem)
    return lambda truth, chosen: metrics.compute_constant(truth, chosen)[name]


def format_comparison(found: Sequence[MetricComparison], first: str, second: str) -> list[list[str]]:
    """Returns the lines of a table, its head first."""
    lines = [["metric", first, second, f"{first} - {second}", "rows", "verdict"]]
    for one in found:
        cells = [format_bounds(one.first), format_bounds(one.second), format_bounds(one.difference, "+")]
        lines.append([one.name, *cells, f"{one.rows:,}", describe_difference(one, first, second)])
    return lines


def format_bounds(interval: Interval, sign: str = "") -> str:
    """Returns a value with its interval."""
    return f"{interval.value:{sign}.4f} [{interval.low:{sign}.4f}, {interval.high:{sign}.4f}]"


def describe_difference(found: MetricComparison, first: str, second: str) -> str:
    """Returns which model is better, if the interval of the difference leaves 0 out."""
    low, high = found.difference.low, found.difference.high
    if low <= 0 <= high:
        return "no difference shown"
    return f"{first if (low > 0) != found.lower_is_better else second} is better"

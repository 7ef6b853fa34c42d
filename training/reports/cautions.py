"""What to keep in mind of a run's metrics: a model below a baseline, and rows too few to measure on."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from ..metrics.direction import is_greater_better

FEW_MEASURED_ROWS = 200  # of a split: below, a metric may change much by chance
NORMAL_QUANTILE = 1.96  # of 95 %
SHARES = ("accuracy", "exact_match", "recall")  # in the names of metrics that are shares of rows
NO_QUALITY = ("distinct",)  # says something of the texts, but neither more nor less of it is better
ALONE = "_only"  # ends the names of the model's own metrics where only some modalities are given


def list_cautions(results: Mapping[str, Any], rows: Mapping[str, int]) -> list[str]:
    """Returns a sentence for each split on which the model is below a baseline or which has few rows.

    results: metrics by split, of the model and of the baselines; rows: number of rows of the splits.
    """
    found = []
    for split, columns in results.items():
        worse = list_worse(columns)
        if worse:
            found.append(f"on {split} the model is below a baseline: {'; '.join(worse)}")
        count = rows.get(split, 0)
        if 0 < count < FEW_MEASURED_ROWS:
            found.append(f"{split} has {count} rows{describe_uncertainty(columns, count)} small differences are chance")
    return found


def describe_uncertainty(columns: Mapping[str, Any], rows: int) -> str:
    """Returns how uncertain a split's metrics are, if one of them is a share of its rows, up to a comma."""
    if not any(share in name for name in columns["model"] for share in SHARES):
        return ", so"
    return f": a share near 0.5 of them is uncertain by {compute_half_width(rows):.2f} (95 %), so"


def list_worse(columns: Mapping[str, Any]) -> list[str]:
    """Returns the metrics by which a model is worse than its best baseline, with both values."""
    worse = []
    for name, value in columns["model"].items():
        others = {kind: scores[name] for kind, scores in columns.items() if is_baseline(kind) and name in scores}
        if not others or name in NO_QUALITY:
            continue
        sign = 1 if is_greater_better(name) else -1
        best = max(others, key=lambda kind: sign * others[kind])
        if sign * value < sign * others[best]:
            worse.append(f"{name} {value:.4f}, {best.replace('_', ' ')} {others[best]:.4f}")
    return worse


def is_baseline(kind: str) -> bool:
    """Returns whether these are the metrics of a baseline."""
    return kind != "model" and not kind.endswith(ALONE)


def compute_half_width(rows: int) -> float:
    """Computes half of the 95 % interval of a share of 0.5 among so many rows (of the normal approximation)."""
    return NORMAL_QUANTILE * 0.5 / sqrt(rows)

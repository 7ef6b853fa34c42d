"""What to keep in mind of a run's metrics: a model below a baseline, and rows too few to measure on."""

from collections.abc import Mapping
from math import sqrt
from typing import Any

from ..metrics.direction import is_greater_better

FEW_MEASURED_ROWS = 200  # of a split: below, a metric may change much by chance
NORMAL_QUANTILE = 1.96  # of 95 %
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
            found.append(
                f"{split} has {count} rows: a share near 0.5 of them is uncertain by {compute_half_width(count):.2f} "
                "(95 %), so small differences are chance"
            )
    return found


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

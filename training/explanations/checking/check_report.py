"""Which explanations can be believed: the figures of each method, its verdict, and the table of all."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...metrics.bootstrap import Interval
from ...metrics.images.intervals import estimate_mean
from ..modality_report import format_line

LARGEST_CORRELATION, SMALLEST_STABILITY, LARGEST_GAP = 0.3, 0.8, 0.05
CHECK_NOTES = (
    "Above random: the area under the insertion curve minus that under the deletion curve, in probability of the "
    "target, minus the same of random orders. Redrawn: rank correlation with the explanation of the model whose "
    "weights were all redrawn (in brackets: of sizes without signs). Gap: what the values miss of score - baseline. "
    "Stable: rank correlation under noise that cannot be seen or heard. In brackets after values: 95 % intervals over "
    "the rows."
)


@dataclass
class MethodCheck:
    """The figures of one method for one modality.

    Attributes:
        method, modality, baseline: what was checked; replacement: what the test puts in the place of removed parts.
        above_random: insertion minus deletion, minus that of random orders of the same rows.
        oracle: the same of the order that the boxes give, minus random; None without boxes.
        pointing: the share of rows whose largest value lies in a box; None without boxes.
        redrawn: by part, the rank correlation after its weights, and those of all parts above it, were redrawn.
        redrawn_sizes: the same of the values' sizes, after all were redrawn.
        gap: |score - baseline - sum of values| as a share of |score - baseline|, the median row; None for methods that
            promise no sum.
        stability: rank correlation under invisible noise; None where there is no such noise.
    """

    method: str
    modality: str
    baseline: str
    replacement: str
    above_random: Interval | None
    oracle: Interval | None
    pointing: Interval | None
    redrawn: dict[str, Interval | None] = field(default_factory=dict)
    redrawn_sizes: Interval | None = None
    gap: float | None = None
    stability: Interval | None = None

    def list_doubts(self) -> list[str]:
        """Returns why the method cannot be believed here; empty if it can."""
        last = list(self.redrawn.values())[-1] if self.redrawn else None
        doubts = []
        if self.above_random is None or self.above_random.low <= 0:
            doubts.append("no better than random")
        if last is not None and last.value > LARGEST_CORRELATION:
            doubts.append("does not depend on the weights")
        if self.gap is not None and self.gap > LARGEST_GAP:
            doubts.append("values do not add up")
        if self.stability is not None and self.stability.value < SMALLEST_STABILITY:
            doubts.append("changes with invisible noise")
        return doubts

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        found = {name: to_plain(value) for name, value in vars(self).items() if name != "redrawn"}
        redrawn = {part: to_plain(value) for part, value in self.redrawn.items()}
        return {**found, "redrawn": redrawn, "doubts": self.list_doubts()}


def to_plain(value: Any) -> Any:
    """Returns an interval as a dict, anything else unchanged."""
    return value.as_dict() if isinstance(value, Interval) else value


@dataclass
class CheckReport:
    """The checks of several methods on the same rows.

    Attributes:
        checks: one for each method and modality. rows: their number. skipped: methods that the model does not allow,
            and why.
    """

    checks: list[MethodCheck]
    rows: int
    skipped: dict[str, str] = field(default_factory=dict)

    @property
    def best(self) -> str | None:
        """The method that can be believed for every modality and is furthest above random on average, if there is
        one."""
        names = dict.fromkeys(check.method for check in self.checks)
        own = {name: [check for check in self.checks if check.method == name] for name in names}
        believed = {name: checks for name, checks in own.items() if not any(check.list_doubts() for check in checks)}
        values = {
            name: np.mean([c.above_random.value for c in checks if c.above_random]) for name, checks in believed.items()
        }
        return max(values, key=lambda name: values[name]) if values else None

    @property
    def best_arguments(self) -> dict[str, Any]:
        """The arguments of `plait.explain` that choose the best method: `method`, and a `baseline` if it was checked
        with one; empty without a best method."""
        method, _, baseline = (self.best or "").partition("/")
        return {**({"method": method} if method else {}), **({"baseline": baseline} if baseline else {})}

    def format_table(self) -> str:
        """Returns a Markdown table with a row for each method and modality, and the method that is best believed."""
        heads = [
            "method",
            "modality",
            "test puts in",
            "above random",
            "oracle",
            "points at",
            "redrawn",
            "gap",
            "stable",
        ]
        lines = [format_line([*heads, "believed"]), format_line(["---"] * (len(heads) + 1))]
        for check in self.checks:
            lines.append(format_line([*self._list_cells(check), ", ".join(check.list_doubts()) or "yes"]))
        best = (
            f"best believed: {self.best}" if self.best else "none of these methods can be believed for all modalities"
        )
        left_out = [f"{method} is left out: {reason}." for method, reason in self.skipped.items()]
        return "\n".join([*lines, "", f"{self.rows:,} rows; {best}.", *left_out, "", CHECK_NOTES])

    def _list_cells(self, check: MethodCheck) -> list[str]:
        last = list(check.redrawn.values())[-1] if check.redrawn else None
        sizes = "" if check.redrawn_sizes is None else f" ({check.redrawn_sizes.value:.2f})"
        redrawn = "-" if last is None else f"{last.value:.2f}{sizes}"
        gap = "-" if check.gap is None else f"{100 * check.gap:.1f} %"
        cells = [check.method, check.modality, check.replacement]
        cells += [format_interval_of(value) for value in (check.above_random, check.oracle, check.pointing)]
        return [*cells, redrawn, gap, "-" if check.stability is None else f"{check.stability.value:.2f}"]

    def to_dict(self) -> dict[str, Any]:
        """Returns plain values."""
        return {
            "rows": self.rows,
            "best": self.best,
            "skipped": self.skipped,
            "checks": [check.to_dict() for check in self.checks],
        }


def format_interval_of(value: Interval | None) -> str:
    """Returns "0.64 [0.57, 0.71]", or "-" without a value."""
    return "-" if value is None else f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"


def estimate_known_mean(values: Iterable[float]) -> Interval | None:
    """Returns the mean of (rows,) values with its 95 % bootstrap interval, without those that are NaN; None without
    any."""
    numbers = np.array(list(values), dtype=float)
    known = numbers[~np.isnan(numbers)]
    return estimate_mean(known) if known.size else None

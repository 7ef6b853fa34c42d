"""From the answers of all cells to one table: metrics with intervals, paired differences, and whether fusion helps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..metrics import Metrics, greater_is_better, majority_predictions
from .audit import KINDS
from .bench import Bench
from .cells import Answers, Cell, LogitMetrics, cells_of
from .intervals import Interval, Resamples, Values
from .systems import System


class Comparison(NamedTuple):
    """`content` is what compare.json holds."""

    content: dict[str, Any]


def summarise(bench: Bench, answers: Mapping[str, Answers]) -> Comparison:
    """Everything that the tables say, as plain values."""
    table = Table(bench, answers)
    singles = [system for system in bench.systems if not system.fused]
    fusions = [system for system in bench.systems if system.fused]
    best_single, best_fusion = table.best(singles), table.best(fusions)
    difference = table.gain(table.values[best_fusion.name], table.values[best_single.name])
    options = bench.recipe.compare
    content = {
        "metric": bench.metric,
        "greater_is_better": greater_is_better(bench.metric),
        "rows": len(bench.rows),
        "groups": int(bench.groups.max()) + 1,
        "folds": options.folds,
        "seeds": options.seeds,
        "bootstrap": options.bootstrap,
        "best_single": best_single.name,
        "best_fusion": best_fusion.name,
        "fusion_minus_single": difference.interval.as_dict(),
        "verdict": verdict(difference.interval),
        "majority": table.majority(),
        "systems": [table.row(system, best_single) for system in bench.systems],
        "audit": {system.name: table.audit(system) for system in fusions} if options.audit else {},
    }
    return Comparison(content)


def verdict(interval: Interval) -> str:
    """What an interval of (fusion - single) says."""
    if interval.low > 0:
        return "fusion helps"
    return "fusion harms" if interval.high < 0 else "no difference shown"


class Table:
    """The systems' answers on all test rows, measured on the same resamples."""

    def __init__(self, bench: Bench, answers: Mapping[str, Answers]) -> None:
        self.bench, self.answers = bench, answers
        self.metrics = LogitMetrics(bench.metric_names, bench.labels.problem_type)
        self.measured = Metrics([bench.metric], bench.labels.problem_type)
        options = bench.recipe.compare
        self.resamples = Resamples(bench.groups, len(options.seeds), options.bootstrap, bench.recipe.seed)
        self.values = {system.name: self.resampled(system) for system in bench.systems}

    def logits(self, system: System, variation: str = "") -> list[np.ndarray]:
        """(rows, labels) of each seed, all folds put together."""
        return [self._of_seed(system, seed, variation) for seed in self.bench.recipe.compare.seeds]

    def _of_seed(self, system: System, seed: int, variation: str) -> np.ndarray:
        parts = [self.answers[Cell(system, fold, seed).name] for fold in self.bench.fold_names]
        logits = np.concatenate([part.logits[variation] for part in parts])
        return logits[np.argsort(np.concatenate([part.rows for part in parts]))]

    def resampled(self, system: System, variation: str = "") -> Values:
        """The deciding metric."""
        answers = [self.metrics.answers(logits) for logits in self.logits(system, variation)]
        return self.resamples.values(self._measure, self.bench.truth, answers)

    def _measure(self, truth: np.ndarray, answers: np.ndarray) -> float:
        return self.measured.compute(truth, answers)[self.bench.metric]

    def gain(self, one: Values, other: Values) -> Values:
        """How much better one is than the other, paired; of an error, how much less."""
        difference = one.minus(other)
        return difference if greater_is_better(self.bench.metric) else difference.negative()

    def best(self, systems: Sequence[System]) -> System:
        sign = 1 if greater_is_better(self.bench.metric) else -1
        return max(systems, key=lambda system: sign * self.values[system.name].whole)

    def row(self, system: System, best_single: System) -> dict[str, Any]:
        """One line of the table."""
        values = self.values[system.name]
        by_seed = [self.metrics.of_logits(self.bench.truth, logits) for logits in self.logits(system)]
        facts = [self.answers[cell.name].facts for cell in cells_of(self.bench) if cell.system.name == system.name]
        return {
            "name": system.name,
            "modalities": list(system.modalities),
            "fusion": system.model.fusion,
            **values.interval.as_dict(),
            "gain": self.gain(values, self.values[best_single.name]).interval.as_dict(),
            "metrics": {name: float(np.mean([scores[name] for scores in by_seed])) for name in by_seed[0]},
            "by_seed": [scores[self.bench.metric] for scores in by_seed],
            "trainable": facts[0]["trainable"],
            "parameters": facts[0]["parameters"],
            "seconds": float(np.mean([fact["seconds"] for fact in facts])),
            "steps": facts[0]["steps"],
        }

    def audit(self, system: System) -> dict[str, Any]:
        """The metric under each variation, and what is lost by it."""
        whole = self.values[system.name]
        found = {}
        for kind in KINDS:
            for modality in system.modalities:
                values = self.resampled(system, f"{kind} {modality}")
                lost = self.gain(whole, values)
                found[f"{kind} {modality}"] = {**values.interval.as_dict(), "lost": lost.interval.as_dict()}
        return found

    def majority(self) -> float | None:
        """The metric of always answering the training rows' most frequent class (or mean)."""
        bench, truth = self.bench, self.bench.truth
        predicted = np.zeros_like(truth)
        for fold in bench.fold_names:
            test = bench.test_rows(fold)
            train = bench.train_truth(fold)
            predicted[test] = majority_predictions(train, len(test), bench.labels.problem_type)
        return self.measured.constant(truth, predicted).get(bench.metric)

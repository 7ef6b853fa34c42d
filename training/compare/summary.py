"""From the answers of all cells to one table: metrics with intervals, paired differences, and whether fusion helps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..metrics.baselines import majority_predictions
from ..metrics.bootstrap import Interval, Resamples, Values
from ..metrics.classification import Metrics, greater_is_better
from .experiment import Bench
from .modality_ablation import only, patterns
from .systems import System
from .trials import Answers, Cell, LogitMetrics, cells_of


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
        "chosen_elsewhere": table.chosen_elsewhere(singles, fusions),
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

    def chosen_elsewhere(self, singles: Sequence[System], fusions: Sequence[System]) -> dict[str, float] | None:
        """Fusion - single, where the best of each is chosen for every fold by its metric on the other folds; None
        without folds. The best of several is otherwise chosen on the rows that it is measured on."""
        if self.bench.recipe.compare.folds is None:
            return None
        one, other = (self._elsewhere(systems) for systems in (fusions, singles))
        return self.gain(one, other).interval.as_dict()

    def _elsewhere(self, systems: Sequence[System]) -> Values:
        answers = {s.name: [self.metrics.answers(logits) for logits in self.logits(s)] for s in systems}
        picked = [answer.copy() for answer in answers[systems[0].name]]
        sign = 1 if greater_is_better(self.bench.metric) else -1
        for fold in self.bench.fold_names:
            test = self.bench.test_rows(fold)
            others = np.setdiff1d(np.arange(len(self.bench.rows)), test)
            truth = self.bench.truth[others]
            scores = {
                name: sign * np.mean([self._measure(truth, answer[others]) for answer in found])
                for name, found in answers.items()
            }
            best = answers[max(scores, key=lambda name: scores[name])]
            for seed, answer in enumerate(best):
                picked[seed][test] = answer[test]
        return self.resamples.values(self._measure, self.bench.truth, picked)

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
        """The metric under each variation and what is lost by it; where modalities are left out, also what is gained
        over the best of those present that was trained alone."""
        whole, found = self.values[system.name], {}
        for present in (*patterns(system.modalities), system.modalities):
            name = only(present)
            values = whole if present == system.modalities else self.resampled(system, name)
            found[name] = self._beside(values, whole)
            singles = [other for other in self.bench.systems if not other.fused and other.modalities[0] in present]
            if singles:
                best = self.best(singles)
                found[name] |= {"single": best.name, "gain": self._gained(values, best)}
        for kind in ("shuffled", "blank"):
            for modality in system.modalities:
                found[f"{kind} {modality}"] = self._beside(self.resampled(system, f"{kind} {modality}"), whole)
        return found

    def _beside(self, values: Values, whole: Values) -> dict[str, Any]:
        return {**values.interval.as_dict(), "lost": self.gain(whole, values).interval.as_dict()}

    def _gained(self, values: Values, best: System) -> dict[str, float]:
        return self.gain(values, self.values[best.name]).interval.as_dict()

    def majority(self) -> float | None:
        """The metric of always answering the training rows' most frequent class (or mean)."""
        bench, truth = self.bench, self.bench.truth
        predicted = np.zeros_like(truth)
        for fold in bench.fold_names:
            test = bench.test_rows(fold)
            train = bench.train_truth(fold)
            predicted[test] = majority_predictions(train, len(test), bench.labels.problem_type)
        return self.measured.constant(truth, predicted).get(bench.metric)

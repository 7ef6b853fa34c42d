"""Summarizes the results of all trials: metrics with intervals, paired differences, and whether fusion helps."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..metrics.baselines import predict_majority
from ..metrics.bootstrap import BootstrapValues, Interval, Resamples
from ..metrics.classification import Metrics
from ..metrics.direction import is_greater_better
from ..trainer.modality_patterns import list_modality_patterns
from .experiment import Experiment
from .modality_ablation import format_present
from .modality_values import compute_added, shuffle_answers
from .systems import System
from .trials import LogitMetrics, Trial, TrialResult, list_trials


class Comparison(NamedTuple):
    """The summary of a comparison: `content` is what compare.json holds."""

    content: dict[str, Any]


def summarize_comparison(experiment: Experiment, answers: Mapping[str, TrialResult]) -> Comparison:
    """Computes everything that the tables show, as plain values."""
    table = ComparisonTable(experiment, answers)
    singles = [system for system in experiment.systems if not system.is_fusion]
    fusions = [system for system in experiment.systems if system.is_fusion]
    best_single, best_fusion = table.find_best(singles), table.find_best(fusions)
    difference = table.compute_gain(table.values[best_fusion.name], table.values[best_single.name])
    options = experiment.recipe.compare
    content = {
        "metric": experiment.metric,
        "greater_is_better": is_greater_better(experiment.metric),
        "rows": len(experiment.rows),
        "groups": int(experiment.groups.max()) + 1,
        "folds": options.folds,
        "seeds": options.seeds,
        "bootstrap": options.bootstrap,
        "best_single": best_single.name,
        "best_fusion": best_fusion.name,
        "fusion_minus_single": difference.interval.as_dict(),
        "verdict": judge_interval(difference.interval),
        "chosen_elsewhere": table.compute_cross_fold_gain(singles, fusions),
        "majority": table.compute_majority(),
        "systems": [table.build_row(system, best_single) for system in experiment.systems],
        "pairs": table.compare_pairs(),
        "audit": {system.name: table.measure_ablation(system) for system in fusions} if options.audit else {},
        "added": {system.name: table.measure_added(system) for system in fusions} if options.audit else {},
    }
    return Comparison(content)


def judge_interval(interval: Interval) -> str:
    """Returns the verdict on an interval of (fusion - single)."""
    if interval.low > 0:
        return "fusion helps"
    return "fusion harms" if interval.high < 0 else "no difference shown"


class ComparisonTable:
    """The systems' predictions on all test rows, measured on the same bootstrap resamples."""

    def __init__(self, experiment: Experiment, answers: Mapping[str, TrialResult]) -> None:
        self.bench, self.answers = experiment, answers
        self.metrics = LogitMetrics(experiment.metric_names, experiment.labels.problem_type)
        self.decisive_metric = Metrics([experiment.metric], experiment.labels.problem_type)
        options = experiment.recipe.compare
        self.resamples = Resamples(experiment.groups, len(options.seeds), options.bootstrap, experiment.recipe.seed)
        self.values = {system.name: self.resample(system) for system in experiment.systems}

    def collect_logits(self, system: System, variation: str = "") -> list[np.ndarray]:
        """Returns for each seed the logits, (rows, labels), of all folds put together."""
        return [self._collect_seed_logits(system, seed, variation) for seed in self.bench.recipe.compare.seeds]

    def _collect_seed_logits(self, system: System, seed: int, variation: str) -> np.ndarray:
        parts = [self.answers[Trial(system, fold, seed).name] for fold in self.bench.fold_names]
        logits = np.concatenate([part.logits[variation] for part in parts])
        return logits[np.argsort(np.concatenate([part.rows for part in parts]))]

    def resample(self, system: System, variation: str = "") -> BootstrapValues:
        """Returns the deciding metric of a system, on the test rows and on every resample."""
        answers = [self.metrics.reduce_logits(logits) for logits in self.collect_logits(system, variation)]
        return self.resamples.compute_values(self._measure, self.bench.truth, answers)

    def _measure(self, truth: np.ndarray, answers: np.ndarray) -> float:
        return self.decisive_metric.score(truth, answers)[self.bench.metric]

    def compute_gain(self, one: BootstrapValues, other: BootstrapValues) -> BootstrapValues:
        """Returns by how much `one` is better than `other`, paired; for an error, by how much it is lower."""
        difference = one.subtract(other)
        return difference if is_greater_better(self.bench.metric) else difference.negate()

    def find_best(self, systems: Sequence[System]) -> System:
        """Returns the system with the best value of the deciding metric."""
        sign = 1 if is_greater_better(self.bench.metric) else -1
        return max(systems, key=lambda system: sign * self.values[system.name].estimate)

    def compute_cross_fold_gain(self, singles: Sequence[System], fusions: Sequence[System]) -> dict[str, float] | None:
        """Returns fusion - single, where the best of each is chosen for every fold by its metric on the other folds;
        None without folds. A system chosen on the rows that it is measured on looks better than it is."""
        if self.bench.recipe.compare.folds is None:
            return None
        one, other = (self._select_on_other_folds(systems) for systems in (fusions, singles))
        return self.compute_gain(one, other).interval.as_dict()

    def _select_on_other_folds(self, systems: Sequence[System]) -> BootstrapValues:
        answers = {s.name: [self.metrics.reduce_logits(logits) for logits in self.collect_logits(s)] for s in systems}
        picked = [answer.copy() for answer in answers[systems[0].name]]
        sign = 1 if is_greater_better(self.bench.metric) else -1
        for fold in self.bench.fold_names:
            test = self.bench.find_test_rows(fold)
            others = np.setdiff1d(np.arange(len(self.bench.rows)), test)
            truth = self.bench.truth[others]
            scores = {
                name: sign * np.mean([self._measure(truth, answer[others]) for answer in found])
                for name, found in answers.items()
            }
            best = answers[max(scores, key=lambda name: scores[name])]
            for seed, answer in enumerate(best):
                picked[seed][test] = answer[test]
        return self.resamples.compute_values(self._measure, self.bench.truth, picked)

    def build_row(self, system: System, best_single: System) -> dict[str, Any]:
        """Returns a system's row of the table."""
        values = self.values[system.name]
        by_seed = [self.metrics.score(self.bench.truth, logits) for logits in self.collect_logits(system)]
        facts = [
            self.answers[trial.name].facts for trial in list_trials(self.bench) if trial.system.name == system.name
        ]
        return {
            "name": system.name,
            "modalities": list(system.modalities),
            "fusion": system.model.fusion,
            **values.interval.as_dict(),
            "gain": self.compute_gain(values, self.values[best_single.name]).interval.as_dict(),
            "metrics": {name: float(np.mean([scores[name] for scores in by_seed])) for name in by_seed[0]},
            "by_seed": [scores[self.bench.metric] for scores in by_seed],
            "trainable": facts[0]["trainable"],
            "parameters": facts[0]["parameters"],
            "seconds": float(np.mean([fact["seconds"] for fact in facts])),
            "steps": facts[0]["steps"],
        }

    def compare_pairs(self) -> dict[str, dict[str, Any]]:
        """Returns for each system by how much it is better than each other one, paired."""
        return {
            name: {
                other: self.compute_gain(values, others).interval.as_dict()
                for other, others in self.values.items()
                if other != name
            }
            for name, values in self.values.items()
        }

    def measure_ablation(self, system: System) -> dict[str, Any]:
        """Returns the metric under each variation and what is lost by it; where modalities are missing, also the gain
        over the best single modality among those present."""
        whole, found = self.values[system.name], {}
        for present in (*list_modality_patterns(system.modalities), system.modalities):
            name = format_present(present)
            values = whole if present == system.modalities else self.resample(system, name)
            found[name] = self._compare_with_all(values, whole)
            singles = [other for other in self.bench.systems if not other.is_fusion and other.modalities[0] in present]
            if singles:
                best = self.find_best(singles)
                found[name] |= {"single": best.name, "gain": self._compute_gain_interval(values, best)}
        for kind in ("shuffled", "blank"):
            for modality in system.modalities:
                found[f"{kind} {modality}"] = self._compare_with_all(self.resample(system, f"{kind} {modality}"), whole)
        return found

    def measure_added(self, system: System) -> dict[str, Any]:
        """Returns what each of two modalities adds to the metric (Shapley values with shuffled inputs), which needs no
        more predictions than the ablation; nothing for three or more."""
        if len(system.modalities) != 2:
            return {}
        one, other = system.modalities
        tested = [self.bench.find_test_rows(fold) for fold in self.bench.fold_names]
        logits = shuffle_answers(self.collect_logits(system), tested, self.bench.recipe.seed)
        answers = [self.metrics.reduce_logits(own) for own in logits]
        values = {
            frozenset(): self.resamples.compute_values(self._measure, self.bench.truth, answers),
            frozenset({one}): self.resample(system, f"shuffled {other}"),
            frozenset({other}): self.resample(system, f"shuffled {one}"),
            frozenset({one, other}): self.values[system.name],
        }
        return compute_added(system.modalities, values, 1 if is_greater_better(self.bench.metric) else -1)

    def _compare_with_all(self, values: BootstrapValues, whole: BootstrapValues) -> dict[str, Any]:
        return {**values.interval.as_dict(), "lost": self.compute_gain(whole, values).interval.as_dict()}

    def _compute_gain_interval(self, values: BootstrapValues, best: System) -> dict[str, float]:
        return self.compute_gain(values, self.values[best.name]).interval.as_dict()

    def compute_majority(self) -> float | None:
        """Returns the metric of always predicting the training rows' most frequent class or mean; None if undefined."""
        experiment, truth = self.bench, self.bench.truth
        predicted = np.zeros_like(truth)
        for fold in experiment.fold_names:
            test = experiment.find_test_rows(fold)
            train = experiment.collect_train_targets(fold)
            predicted[test] = predict_majority(train, len(test), experiment.labels.problem_type)
        return self.decisive_metric.compute_constant(truth, predicted).get(experiment.metric)

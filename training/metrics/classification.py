"""Metrics of classification, regression and masked language modeling by name, computed without keeping all logits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import EvalPrediction

from ...modeling.losses.labels import IGNORE_INDEX
from ..data.labels import MASKED_LM_PROBLEM, MULTI, REGRESSION, SINGLE, MetricProblemType
from .base import expect_known, expect_rows
from .class_counts import COUNT_METRICS, ClassCounts, count_class_rows
from .label_sums import build_row_sums
from .per_row import RowAnswers, RowScore, RowSums, RowValues
from .sentiment import SENTIMENT_METRICS


class Metric(NamedTuple):
    """A metric, `compute(references, predictions)`; with `scores` the predictions are probabilities instead of chosen
    labels. `needs_variation`: it is undefined for a constant prediction, as a correlation is. `reads_unknown`: of
    several classes it gets -100 for labels that are not known; other metrics get 0 as their label and prediction."""

    compute: Callable[[np.ndarray, np.ndarray], float]
    scores: bool = False
    lower_is_better: bool = False
    needs_variation: bool = False
    reads_unknown: bool = False


def _build_sklearn_metric(name: str, **options: Any) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(references: np.ndarray, predictions: np.ndarray) -> float:
        from sklearn import metrics

        return float(getattr(metrics, name)(references, predictions, **options))

    return compute


def _build_averaged_metric(name: str, average: str) -> Callable[[np.ndarray, np.ndarray], float]:
    return _build_sklearn_metric(name, average=average, zero_division=0)


def _measure_counts(compute: Callable[[ClassCounts], float], references: np.ndarray, predictions: np.ndarray) -> float:
    return compute(count_class_rows(references, predictions))


def _build_correlation(name: str) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(references: np.ndarray, predictions: np.ndarray) -> float:
        from scipy import stats

        return float(getattr(stats, name)(references, predictions).statistic)

    return compute


def _compute_roc_auc(references: np.ndarray, probabilities: np.ndarray) -> float:
    from sklearn.metrics import roc_auc_score

    if references.ndim == 1 and probabilities.shape[1] == 2:
        return float(roc_auc_score(references, probabilities[:, 1]))
    return float(roc_auc_score(references, probabilities, multi_class="ovr", average="macro"))


def _compute_label_roc_auc(references: np.ndarray, probabilities: np.ndarray) -> float:
    known = references != IGNORE_INDEX
    if known.all():
        return _compute_roc_auc(references, probabilities)
    from sklearn.metrics import roc_auc_score

    columns = zip(references.T, probabilities.T, known.T, strict=True)
    return float(np.mean([roc_auc_score(labels[rows], scores[rows]) for labels, scores, rows in columns]))


def _compute_hamming_loss(references: np.ndarray, predictions: np.ndarray) -> float:
    known = references != IGNORE_INDEX
    return float((references != predictions)[known].mean())


AVERAGED_METRICS = {
    f"{short}_{average}": Metric(_build_averaged_metric(name, average))
    for short, name in (("f1", "f1_score"), ("precision", "precision_score"), ("recall", "recall_score"))
    for average in ("macro", "weighted", "micro")
}
METRICS: dict[str, dict[str, Metric]] = {
    SINGLE: {
        **{name: Metric(partial(_measure_counts, compute)) for name, compute in COUNT_METRICS.items()},
        "roc_auc": Metric(_compute_roc_auc, scores=True),
    },
    MULTI: {
        "accuracy": Metric(_build_sklearn_metric("accuracy_score")),
        **AVERAGED_METRICS,
        "hamming_loss": Metric(_compute_hamming_loss, lower_is_better=True, reads_unknown=True),
        "roc_auc": Metric(_compute_label_roc_auc, scores=True, reads_unknown=True),
    },
    REGRESSION: {
        "mae": Metric(_build_sklearn_metric("mean_absolute_error"), lower_is_better=True),
        "mse": Metric(_build_sklearn_metric("mean_squared_error"), lower_is_better=True),
        "rmse": Metric(_build_sklearn_metric("root_mean_squared_error"), lower_is_better=True),
        "r2": Metric(_build_sklearn_metric("r2_score")),
        "pearson": Metric(_build_correlation("pearsonr"), needs_variation=True),
        "spearman": Metric(_build_correlation("spearmanr"), needs_variation=True),
        **{name: Metric(compute) for name, compute in SENTIMENT_METRICS.items()},
    },
    MASKED_LM_PROBLEM: {
        "accuracy": Metric(lambda _, rows: float(rows[:, 1].sum() / max(rows[:, 2].sum(), 1))),
        "perplexity": Metric(
            lambda _, rows: float(np.exp(rows[:, 0].sum() / max(rows[:, 2].sum(), 1))), lower_is_better=True
        ),
    },
}
CORRELATIONS = {"pearson", "pearsonr", "spearman", "spearmanr"}  # as the modules of `evaluate` are called
DEFAULT_METRICS = {
    SINGLE: ("accuracy", "f1_macro"),
    MULTI: ("accuracy", "f1_macro"),
    REGRESSION: ("mae", "pearson"),
    MASKED_LM_PROBLEM: ("accuracy", "perplexity"),
}


class Metrics:
    """The named metrics of one problem type (classes, values or masked tokens), for a Trainer that collects logits
    reduced by `reduce`.

    A Trainer takes it as `compute_metrics`, which resets, updates with all rows at once and computes, and its `reduce`
    as `preprocess_logits_for_metrics` (PlaitTrainer does so itself). Names are those of METRICS, or, with a slash, a
    module of the `evaluate` library (a Hub id or a local path), which gets chosen labels (regression: values).

    Raises:
        ValueError: a name that this problem type does not have, with the nearest and all valid ones.
    """

    def __init__(self, names: Sequence[str], problem_type: MetricProblemType) -> None:
        self.problem_type: MetricProblemType = problem_type
        self.metrics = {
            _shorten_name(name): find_metric(name, problem_type) for name in names or DEFAULT_METRICS[problem_type]
        }
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return list(self.metrics)

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Reduces a batch's logits to chosen labels, or to probabilities if a metric needs them.

        Masked language modeling keeps three numbers a row (see `count_masked_tokens`), regression the values.
        """
        if self.problem_type == MASKED_LM_PROBLEM:
            return count_masked_tokens(logits, labels)
        if self.problem_type == REGRESSION:
            return logits.squeeze(-1)
        single = self.problem_type == SINGLE
        if any(metric.scores for metric in self.metrics.values()):
            return logits.float().softmax(-1) if single else logits.float().sigmoid()
        return logits.argmax(-1) if single else logits > 0

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Returns `{name: value}` of all rows, as a Trainer's `compute_metrics`."""
        self.reset()
        self.update(prediction)
        return self.compute()

    def reset(self) -> None:
        """Forgets all rows."""
        self.references: list[np.ndarray] = []
        self.predictions: list[np.ndarray] = []

    def update(self, records: EvalPrediction) -> None:
        """Adds the rows of a batch, or all: `predictions` as `reduce` left them, and `label_ids`."""
        references, predictions = np.asarray(records.label_ids), np.asarray(records.predictions)
        if self.problem_type == MASKED_LM_PROBLEM:
            references = predictions[:, 2]  # the token counts: label rows of different batches differ in length
        self.references.append(references)
        self.predictions.append(predictions)

    def compute(self, references: np.ndarray | None = None, predictions: np.ndarray | None = None) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`, or of the rows given here alone (see `score`)."""
        if references is not None and predictions is not None:
            return self.score(references, predictions)
        expect_rows(len(self.references))
        return self.score(np.concatenate(self.references), np.concatenate(self.predictions))

    def score(self, references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Returns `{name: value}` of the given rows, without labels that are not known (NaN if none is); predictions
        are chosen labels, or probabilities (rows, labels)."""
        if self.problem_type == REGRESSION:
            references = references.reshape(predictions.shape)
        return self._compute(self.metrics, references, predictions, self.choose_labels(predictions))

    def compute_per_row(self) -> RowValues:
        """Returns what each metric is computed from over all rows since `reset`, for intervals over the rows."""
        expect_rows(len(self.references))
        references, predictions = np.concatenate(self.references), np.concatenate(self.predictions)
        if self.problem_type == MASKED_LM_PROBLEM:
            losses, right, tokens = predictions.T.astype(float)
            scores = {"accuracy": RowScore(right, tokens), "perplexity": RowScore(losses, tokens, exponential=True)}
            return {name: scores[name] for name in self.metrics}
        references = references.reshape(predictions.shape) if self.problem_type == REGRESSION else references
        return {
            name: RowAnswers(references, predictions, partial(self._measure, name, metric, self.choose_labels))
            for name, metric in self.metrics.items()
        }

    def score_constant_rows(self, references: np.ndarray, predictions: np.ndarray) -> RowValues:
        """Returns the same of a baseline that predicts labels, of the metrics of `compute_constant`."""
        return {
            name: self._build_row_value(name, references, predictions, lambda chosen: chosen)
            for name, metric in self.metrics.items()
            if not (metric.scores or metric.needs_variation)
        }

    def _build_row_value(
        self,
        name: str,
        references: np.ndarray,
        predictions: np.ndarray,
        select: Callable[[np.ndarray], np.ndarray],
    ) -> RowSums | RowAnswers:
        sums = build_row_sums(name, self.problem_type, references, select(predictions))
        measure = partial(self._measure, name, self.metrics[name], select)
        return RowAnswers(references, predictions, measure) if sums is None else sums

    def _measure(
        self,
        name: str,
        metric: Metric,
        select: Callable[[np.ndarray], np.ndarray],
        references: np.ndarray,
        predictions: np.ndarray,
    ) -> float:
        return self._compute({name: metric}, references, predictions, select(predictions))[name]

    def compute_constant(self, references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Computes the metrics of a baseline that predicts labels, without metrics that need probabilities or are
        undefined for constant predictions."""
        kept = {name: metric for name, metric in self.metrics.items() if not (metric.scores or metric.needs_variation)}
        return self._compute(kept, references, predictions, predictions)

    def _compute(
        self, metrics: Mapping[str, Metric], references: np.ndarray, predictions: np.ndarray, chosen: np.ndarray
    ) -> dict[str, float]:
        known = find_known_rows(references, self.problem_type)
        if not known.any():
            return dict.fromkeys(metrics, float("nan"))
        references, predictions, chosen = references[known], predictions[known], chosen[known]
        filled, agreed = references, chosen
        if self.problem_type == MULTI and (references == IGNORE_INDEX).any():
            # equal 0s are neither hits nor misses: F1, precision, recall and exact matches are those of known labels
            filled, agreed = (np.where(references == IGNORE_INDEX, 0, labels) for labels in (references, chosen))
        return {
            name: metric.compute(
                references if metric.reads_unknown else filled,
                predictions if metric.scores else chosen if metric.reads_unknown else agreed,
            )
            for name, metric in metrics.items()
        }

    def choose_labels(self, predictions: np.ndarray) -> np.ndarray:
        """Returns the chosen labels of predictions as `reduce` leaves them; regression: the values."""
        if not any(metric.scores for metric in self.metrics.values()):
            return predictions
        return predictions.argmax(-1) if self.problem_type == SINGLE else predictions > 0.5


def find_known_rows(references: np.ndarray, problem_type: MetricProblemType) -> np.ndarray:
    """Returns (rows,) whether a row has a known label; of several classes one at least, of several numbers all."""
    if problem_type == MASKED_LM_PROBLEM:
        return np.ones(len(references), dtype=bool)
    if problem_type == REGRESSION:
        return np.logical_not(np.isnan(references).reshape(len(references), -1).any(axis=1))
    return (references != IGNORE_INDEX).reshape(len(references), -1).any(axis=1)


def find_metric(name: str, problem_type: MetricProblemType) -> Metric:
    """Finds a metric by its name in METRICS, or a module of the `evaluate` library by a name with a slash.

    Raises ValueError for an unknown name, with the nearest and all valid ones.
    """
    if "/" in name:
        return _load_evaluate_module(name, problem_type)
    expect_known("metric", name, METRICS[problem_type], f" for {problem_type}")
    return METRICS[problem_type][name]


def count_masked_tokens(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Returns (batch, 3): the summed cross-entropy of the tokens with a label, how many of them are predicted right,
    and their number. logits: (batch, length, vocabulary); labels: (batch, length), -100 for none."""
    known = labels != -100
    losses = torch.nn.functional.cross_entropy(logits.float().transpose(1, 2), labels, reduction="none")
    right = (logits.argmax(-1) == labels) & known
    return torch.stack([losses.sum(1), right.sum(1).float(), known.sum(1).float()], dim=1)


def _load_evaluate_module(name: str, problem_type: MetricProblemType) -> Metric:
    if problem_type == MASKED_LM_PROBLEM:
        raise ValueError(
            f"{name!r} cannot be used for masked language modeling, which keeps no labels: use accuracy or perplexity"
        )
    import evaluate

    return Metric(partial(_run_module, evaluate.load(name)), needs_variation=_shorten_name(name) in CORRELATIONS)


def _run_module(module: Any, references: np.ndarray, predictions: np.ndarray) -> float:
    result = module.compute(references=references, predictions=predictions)
    return float(result.get(module.name, next(iter(result.values()))))


def _shorten_name(name: str) -> str:
    return Path(name).stem if "/" in name else name

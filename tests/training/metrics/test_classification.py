"""Metrics, what is kept of the logits for them, and the baselines."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics
from sklearn.metrics import f1_score, matthews_corrcoef, roc_auc_score
from transformers import EvalPrediction

from plait.training.data.labels import MASKED_LM_PROBLEM, MULTI, REGRESSION, SINGLE
from plait.training.metrics.baselines import predict_blind, predict_majority
from plait.training.metrics.classification import METRICS, Metrics
from plait.training.metrics.direction import is_greater_better

GENERATOR = np.random.default_rng(0)
LOGITS = torch.tensor(GENERATOR.normal(size=(40, 3)), dtype=torch.float)
LABELS = torch.tensor(GENERATOR.integers(0, 3, size=40))


def measured(metrics: Metrics, logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    kept = metrics.reduce(logits, labels)
    return metrics(EvalPrediction(predictions=kept.numpy(), label_ids=labels.numpy()))


def test_class_metrics_equal_scikit_learn() -> None:
    found = measured(Metrics(["accuracy", "f1_macro", "f1_weighted", "matthews"], SINGLE), LOGITS, LABELS)
    chosen = LOGITS.argmax(-1)
    assert found["accuracy"] == pytest.approx((chosen == LABELS).float().mean().item())
    assert found["f1_macro"] == pytest.approx(f1_score(LABELS, chosen, average="macro"))
    assert found["f1_weighted"] == pytest.approx(f1_score(LABELS, chosen, average="weighted"))
    assert found["matthews"] == pytest.approx(matthews_corrcoef(LABELS, chosen))


@pytest.mark.parametrize(("rows", "classes"), [(200, 2), (40, 30), (3, 50), (5, 1)])
@pytest.mark.filterwarnings("ignore")
def test_counts_of_classes_give_what_scikit_learn_computes(rows: int, classes: int) -> None:
    generator = np.random.default_rng(rows)
    for truth, chosen in zip(*generator.integers(0, classes, (2, 20, rows)), strict=True):
        found = Metrics([name for name, metric in METRICS[SINGLE].items() if not metric.scores], SINGLE).score(
            np.append(truth, -100), np.append(chosen, 0)
        )
        expected = {
            "accuracy": metrics.accuracy_score(truth, chosen),
            "balanced_accuracy": metrics.balanced_accuracy_score(truth, chosen),
            "matthews": metrics.matthews_corrcoef(truth, chosen),
            "cohen_kappa": metrics.cohen_kappa_score(truth, chosen),
        }
        for short, name in (("f1", "f1_score"), ("precision", "precision_score"), ("recall", "recall_score")):
            for average in ("macro", "weighted", "micro"):
                value = getattr(metrics, name)(truth, chosen, average=average, zero_division=0)
                expected[f"{short}_{average}"] = value
        assert found == pytest.approx(expected, nan_ok=True)


def test_a_hundred_thousand_classes_need_no_table() -> None:
    """Neither of rows and classes (for the intervals of a baseline) nor of classes and classes."""
    truth, chosen = np.random.default_rng(0).integers(0, 100_000, (2, 1000))
    every = Metrics([name for name, metric in METRICS[SINGLE].items() if not metric.scores], SINGLE)
    tracemalloc.start()
    found, rows = every.score(truth, chosen), every.score_constant_rows(truth, chosen)
    assert {name: rows[name].compute() for name in rows} == pytest.approx(found)
    assert tracemalloc.get_traced_memory()[1] < 32 * 2**20
    tracemalloc.stop()


def test_probabilities_are_kept_only_where_a_metric_needs_them() -> None:
    assert Metrics(["accuracy"], SINGLE).reduce(LOGITS, LABELS).shape == (40,)
    both = Metrics(["accuracy", "roc_auc"], SINGLE)
    assert both.reduce(LOGITS, LABELS).shape == (40, 3)
    found = measured(both, LOGITS, LABELS)
    assert found["roc_auc"] == pytest.approx(roc_auc_score(LABELS, LOGITS.softmax(-1), multi_class="ovr"))
    assert found["accuracy"] == measured(Metrics(["accuracy"], SINGLE), LOGITS, LABELS)["accuracy"]


def test_labels_of_minus_100_do_not_count() -> None:
    labels = LABELS.clone()
    labels[:10] = -100
    assert measured(Metrics([], SINGLE), LOGITS, labels) == measured(Metrics([], SINGLE), LOGITS[10:], labels[10:])


def test_regression_metrics() -> None:
    target = torch.tensor([1.0, 2.0, 4.0])
    found = measured(Metrics(["mae", "rmse", "pearson"], REGRESSION), torch.tensor([[1.0], [3.0], [4.0]]), target)
    assert found["mae"] == pytest.approx(1 / 3)
    assert found["rmse"] == pytest.approx((1 / 3) ** 0.5)
    assert found["pearson"] == pytest.approx(np.corrcoef([1, 3, 4], [1, 2, 4])[0, 1])


def test_several_labels_a_row() -> None:
    logits = torch.tensor([[2.0, -1.0], [-3.0, 1.0], [1.0, 1.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert measured(Metrics(["accuracy"], MULTI), logits, labels)["accuracy"] == pytest.approx(2 / 3)
    assert measured(Metrics(["accuracy", "roc_auc"], MULTI), logits, labels)["accuracy"] == pytest.approx(2 / 3)


def test_masked_lm_counts_tokens_and_not_batches() -> None:
    logits = torch.randn(4, 6, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.full((4, 6), -100)
    labels[0, 1], labels[0, 2], labels[0, 3], labels[3, 5] = 4, 5, 6, 7
    metrics = Metrics([], MASKED_LM_PROBLEM)
    found = measured(metrics, logits, labels)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert found["perplexity"] == pytest.approx(loss.exp().item(), rel=1e-5)
    known = labels != -100
    assert found["accuracy"] == pytest.approx((logits.argmax(-1) == labels)[known].float().mean().item())
    assert metrics.reduce(logits, labels).shape == (4, 3)


def masked_batches() -> list[EvalPrediction]:
    """Two batches of a masked language model, of other lengths."""
    generator, found = torch.Generator().manual_seed(0), []
    for length in (5, 8):
        labels = torch.randint(0, 7, (3, length), generator=generator)
        kept = Metrics([], MASKED_LM_PROBLEM).reduce(torch.randn(3, length, 7, generator=generator), labels)
        found.append(EvalPrediction(predictions=kept.numpy(), label_ids=labels.numpy()))
    return found


def class_batches(metrics: Metrics) -> list[EvalPrediction]:
    kept = metrics.reduce(LOGITS, LABELS).numpy()
    return [EvalPrediction(predictions=kept[rows], label_ids=LABELS.numpy()[rows]) for rows in (slice(7), slice(7, 40))]


def test_batches_one_by_one_are_as_all_rows_at_once() -> None:
    metrics = Metrics(["accuracy", "f1_macro", "roc_auc"], SINGLE)
    whole = measured(metrics, LOGITS, LABELS)
    for _ in range(2):
        metrics.reset()
        with pytest.raises(ValueError, match="no rows"):
            metrics.compute()
        for batch in class_batches(metrics):
            metrics.update(batch)
        assert metrics.compute() == whole


def test_masked_lm_batches_may_differ_in_length() -> None:
    metrics, batches = Metrics([], MASKED_LM_PROBLEM), masked_batches()
    for batch in batches:
        metrics.update(batch)
    counts = np.concatenate([batch.predictions for batch in batches]).sum(axis=0)
    found = metrics.compute()
    assert found["accuracy"] == pytest.approx(counts[1] / counts[2])
    assert found["perplexity"] == pytest.approx(np.exp(counts[0] / counts[2]))


@pytest.mark.parametrize("problem_type", METRICS)
def test_unknown_metric_names_the_nearest(problem_type: str) -> None:
    expected = f"no metric 'acuracy' for {problem_type}; (did you mean 'accuracy'|choose from )"
    with pytest.raises(ValueError, match=expected):
        Metrics(["acuracy"], problem_type)


def test_a_module_of_evaluate_is_loaded_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "share_right"
    folder.mkdir()
    (folder / "share_right.py").write_text(
        "import datasets\n"
        "import evaluate\n"
        "class ShareRight(evaluate.Metric):\n"
        "    def _info(self):\n"
        "        features = datasets.Features({'predictions': datasets.Value('int64'),"
        " 'references': datasets.Value('int64')})\n"
        "        return evaluate.MetricInfo(description='', citation='', inputs_description='', features=features)\n"
        "    def _compute(self, predictions, references):\n"
        "        return {'share_right': sum(p == r for p, r in zip(predictions, references)) / len(predictions)}\n"
    )
    found = measured(Metrics([str(folder), "accuracy"], SINGLE), LOGITS, LABELS)
    assert found["share_right"] == pytest.approx(found["accuracy"])


def test_majority_baseline() -> None:
    train = np.array([2, 0, 2, 1])
    assert predict_majority(train, 3, SINGLE).tolist() == [2, 2, 2]
    assert predict_majority(np.array([1.0, 4.0]), 2, REGRESSION).tolist() == [2.5, 2.5]
    assert predict_majority(np.array([[1, 0], [1, 0], [0, 1]]), 1, MULTI).tolist() == [[True, False]]


def test_blind_baseline_remembers_each_text() -> None:
    train = (["a", "a", "a", "b"], np.array([0, 1, 1, 0]))
    assert predict_blind(train, ["a", "b", "new"], SINGLE).tolist() == [1, 0, 0]


def test_baselines_leave_out_what_they_cannot_have() -> None:
    metrics = Metrics(["accuracy", "roc_auc"], SINGLE)
    assert set(metrics.compute_constant(np.array([0, 1]), np.array([1, 1]))) == {"accuracy"}
    assert set(
        Metrics(["mae", "pearson"], REGRESSION).compute_constant(np.array([0.0, 1.0]), np.array([0.5, 0.5]))
    ) == {"mae"}


def test_direction_of_metrics() -> None:
    assert is_greater_better("eval_accuracy")
    assert not is_greater_better("eval_loss")
    assert not is_greater_better("perplexity")

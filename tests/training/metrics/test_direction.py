"""The direction of every metric and loss, measured: right answers must score better than wrong ones."""

from collections.abc import Iterator

import numpy as np
import pytest

from plait import PlaitTrainingArguments
from plait.configuration.objectives import OBJECTIVES
from plait.training.data.labels import MASKED_LM_PROBLEM, MULTI, REGRESSION, SINGLE
from plait.training.metrics.classification import METRICS
from plait.training.metrics.direction import is_greater_better
from plait.training.metrics.pretraining import ObjectiveMetrics
from plait.training.metrics.retrieval import RANK_METRICS
from plait.training.metrics.text import TEXT_METRICS

CHOSEN = np.array([0, 1, 1, 0, 1, 0])
VALUES = np.array([-2.0, 1.5, 0.5, -1.0, 2.5, 3.0])
TEXTS = ["a small cat sits on the mat", "two dogs run in the park", "the sky is blue over the sea"]


def answers_of(problem_type: str, scores: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """References, right predictions and wrong ones."""
    if problem_type == REGRESSION:
        return VALUES, VALUES + 0.01, VALUES[::-1] * -2
    if problem_type == MASKED_LM_PROBLEM:  # summed loss, right tokens, tokens
        return CHOSEN, np.array([[1.0, 9.0, 10.0]]), np.array([[30.0, 1.0, 10.0]])
    if problem_type == MULTI:
        vectors = np.stack((CHOSEN, 1 - CHOSEN, CHOSEN), axis=1)
        return vectors, vectors, 1 - vectors
    right = np.stack((1 - CHOSEN, CHOSEN), axis=1) if scores else CHOSEN
    return CHOSEN, right, 1 - right


def measured() -> Iterator[tuple[str, float, float]]:
    """Every registered metric, with its value for right and for wrong answers."""
    for problem_type, metrics in METRICS.items():
        for name, metric in metrics.items():
            references, right, wrong = answers_of(problem_type, metric.scores)
            yield name, metric.compute(references, right), metric.compute(references, wrong)
    for name, metric in RANK_METRICS.items():
        yield name, metric(np.array([1, 1, 2])), metric(np.array([90, 80, 70]))
    for name, build in TEXT_METRICS.items():
        if name == "distinct":  # of repeated words there are fewer
            right, wrong = TEXTS, ["a a a a"] * 3
        else:
            right, wrong = TEXTS, ["wholly other words stand here now"] * 3
        found = []
        for texts in (right, wrong):
            metric = build()
            metric.update(texts, [[text] for text in TEXTS])
            found.append(metric.compute()[name])
        yield name, found[0], found[1]


def test_every_metric_knows_its_direction() -> None:
    names = []
    for name, right, wrong in measured():
        assert right != wrong, name
        for prefix in ("", "eval_", "eval_answers_", "test_text+image_", "image_to_text_"):
            assert is_greater_better(prefix + name) == (right > wrong), prefix + name
        names.append(name)
    every = {name for metrics in METRICS.values() for name in metrics} | {*RANK_METRICS, *TEXT_METRICS}
    assert set(names) == every
    assert set(METRICS) == {SINGLE, MULTI, REGRESSION, MASKED_LM_PROBLEM}


def test_every_loss_is_better_when_it_is_lower() -> None:
    objectives = ObjectiveMetrics([], dict.fromkeys(OBJECTIVES, 1.0)).names
    for name in (*objectives, "loss", "wer", "cer", "perplexity", "captions_perplexity", "answers_loss", "word_error"):
        lower = name != "matching_accuracy"
        assert is_greater_better(name) is is_greater_better(f"eval_{name}") is not lower, name
        assert is_greater_better(f"eval_pretrain_{name}") is not lower, name


@pytest.mark.parametrize("name", ["wer", "eval_perplexity", "contrastive", "captions_loss", "bleu", "eval_recall@1"])
def test_the_arguments_keep_the_best_checkpoint(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = str(tmp_path_factory.mktemp("run"))
    given = {"metric_for_best_model": name, "use_cpu": True}
    assert PlaitTrainingArguments(folder, **given).greater_is_better is is_greater_better(name)
    assert PlaitTrainingArguments(folder, **given, greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize("problem", METRICS)
def test_what_a_metric_says_of_itself_is_what_is_used(problem: str) -> None:
    for name, metric in METRICS[problem].items():
        assert metric.lower_is_better is not is_greater_better(name), name

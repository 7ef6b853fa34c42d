"""Intervals over rows, and the counted language models that a trained one stands beside."""

import json
import math
from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import EvalPrediction

from plait import PlaitProcessor
from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.metrics import per_row
from plait.training.metrics.base import EvaluationMetrics, StreamedMetrics
from plait.training.metrics.bootstrap import Resamples
from plait.training.metrics.classification import Metrics
from plait.training.metrics.ngrams import BigramModel
from plait.training.metrics.per_row import (
    RowScore,
    SupportsRowScores,
    build_perplexity_scores,
    compare_rows,
    format_intervals,
    resample_metric,
)
from plait.training.metrics.retrieval import RetrievalItem, RetrievalMetrics, compute_retrieval_scores
from plait.training.metrics.retrieval_rows import QueryRanks, score_direction
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.registry import TASKS

from ..text_recipes import recipe_for


def test_an_interval_is_that_of_the_mean() -> None:
    """Against the normal approximation, which many rows obey."""
    scores = np.random.default_rng(0).normal(0.3, 1.0, size=400)
    found = compare_rows({"score": RowScore(scores, np.ones(400))}, {})["score"]
    width = 1.96 * scores.std() / math.sqrt(400)
    assert found["value"] == pytest.approx(scores.mean())
    assert found["low"] == pytest.approx(scores.mean() - width, abs=0.1 * width)
    assert found["high"] == pytest.approx(scores.mean() + width, abs=0.1 * width)


def test_a_difference_is_paired() -> None:
    """Two systems that differ by the same everywhere: no width, however the rows scatter."""
    scores = np.random.default_rng(0).normal(size=50)
    one, other = (RowScore(values, np.ones(50)) for values in (scores + 0.25, scores))
    minus = compare_rows({"score": one}, {"other": {"score": other}})["score"]["minus"]["other"]
    assert list(minus.values()) == pytest.approx([0.25] * 3)


def test_rows_of_a_group_are_drawn_together() -> None:
    """Copies of a row say no more than the row: the interval of ten copies is that of one."""
    scores = np.random.default_rng(0).normal(size=30)
    once = compare_rows({"score": RowScore(scores, np.ones(30))}, {})["score"]
    copied = RowScore(np.repeat(scores, 10), np.ones(300))
    together = compare_rows({"score": copied}, {}, groups=[f"row {row // 10}" for row in range(300)])["score"]
    alone = compare_rows({"score": copied}, {})["score"]
    assert together["high"] - together["low"] == pytest.approx(once["high"] - once["low"], rel=0.15)
    assert alone["high"] - alone["low"] < 0.5 * (once["high"] - once["low"])


def test_perplexity_weighs_rows_by_their_tokens() -> None:
    rows = build_perplexity_scores([2.0, 12.0], [1, 3])
    assert rows["perplexity"].compute() == pytest.approx(math.exp(14 / 4))
    found = compare_rows(rows, {})["perplexity"]
    assert (found["low"], found["high"]) == pytest.approx((math.exp(2), math.exp(4)))
    assert "perplexity=33.1155 [7.3891, 54.5982]" in format_intervals({"perplexity": found})


def test_the_ranks_of_a_row_are_those_of_its_queries() -> None:
    """Rows without a query, and with several in any order."""
    owners, ranks = [4, 0, 4, 2, 0, 4], np.array([3, 1, 2, 9, 5, 8])
    found: Any = score_direction(QueryRanks(ranks, owners, 6), [1])["median_rank"]
    held = [found.answers[row].tolist() for row in range(6)]
    assert held == [[1, 5], [], [9], [], [3, 2, 8], []] and found.compute() == np.median(ranks)


def test_other_rows_are_an_error() -> None:
    own, other = (RowScore(np.ones(count), np.ones(count)) for count in (3, 4))
    with pytest.raises(ValueError, match="other has 4 rows in score, not 3"):
        compare_rows({"score": own}, {"other": {"score": other}})


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification", "regression"])
def test_metrics_of_labels_have_intervals_over_their_rows(problem: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The value is that of `compute`, also with unknown labels; two models that answer alike do not differ, a worse one
    does; the bounds are those of resampling the rows by hand."""
    random = np.random.default_rng(0)
    averages = [f"{score}_{kind}" for score in ("f1", "precision", "recall") for kind in ("macro", "weighted", "micro")]
    single = ["balanced_accuracy"] if problem == "single_label_classification" else []
    names = {"regression": ["mae", "mse", "rmse", "r2", "pearson"]}.get(problem, ["accuracy", *averages, *single])
    monkeypatch.setattr(per_row, "RESAMPLES", 100)
    shape = (60, 3) if problem != "regression" else (60,)
    truth = random.integers(0, 2, shape) if problem == "multi_label_classification" else random.integers(0, 3, 60)
    truth = truth.astype(float) if problem == "regression" else truth
    truth[3] = np.nan if problem == "regression" else -100
    good, bad = Metrics(names, problem), Metrics(names, problem)
    noise = random.random(shape)
    sharp = truth.clip(0) if problem != "single_label_classification" else np.eye(3)[truth.clip(0)]
    for metrics, weight in ((good, 0.6), (bad, 0.3)):
        chances = weight * np.nan_to_num(sharp) + (1 - weight) * noise
        chosen = {"regression": chances, "multi_label_classification": chances > 0.5}.get(problem, chances.argmax(-1))
        metrics.update(EvalPrediction(predictions=chosen, label_ids=truth))
    rows, worse = good.compute_per_row(), bad.compute_per_row()
    scores = bad.compute()
    found = compare_rows(rows, {"same": rows, "bad": worse})
    for name, value in good.compute().items():
        assert found[name]["value"] == pytest.approx(value) and found[name]["low"] <= value <= found[name]["high"]
        assert found[name]["minus"]["same"] == {"value": 0, "low": 0, "high": 0}
        assert found[name]["minus"]["bad"]["value"] == pytest.approx(value - scores[name])
    resamples = Resamples(np.arange(60), 1, 100, seed=0)
    drawn = [measure_rows(good, picked) for picked in islice(resamples.draw_rows(), 3)]
    for name in names:
        values = resample_metric(resamples, rows[name]).resampled[:3]
        assert values == pytest.approx([each[name] for each in drawn], abs=1e-9)
    other = Metrics(names, problem)
    other.update(EvalPrediction(predictions=good.predictions[0][::-1], label_ids=truth[::-1]))
    with pytest.raises(ValueError, match="other has other references"):
        compare_rows(rows, {"other": other.compute_per_row()})


def measure_rows(metrics: Metrics, picked: np.ndarray) -> dict[str, float]:
    """The metrics of some of the rows, as they are computed without sums."""
    return metrics.score(metrics.references[0][picked], metrics.predictions[0][picked])


def test_ranks_have_intervals_over_the_rows_that_share_no_item() -> None:
    """Every metric's value is that of `compute`; images with several texts, and rows that share one, stay together."""
    random = np.random.default_rng(0)
    metrics, pair = RetrievalMetrics([], ("text", "image")), ("text", "image")
    vectors = random.normal(size=(12, 4)).astype(np.float32)
    records = []
    for row in range(12):
        texts = [
            ("text", f"t{row}-{place}", vectors[row] + random.normal(size=4) * 0.8) for place in range(1 + row % 3)
        ]
        held = [*texts, ("image", f"i{max(row, 1)}", vectors[max(row, 1)])]  # the first two share an image
        records.append([RetrievalItem(side, key, f"r{row}", (v / np.linalg.norm(v)).astype(np.float32))
                        for side, key, v in held])  # fmt: skip
    metrics.update(records)
    rows = metrics.compute_per_row()
    expected = compute_retrieval_scores(metrics.items, pair)
    assert {name: score.compute() for name, score in rows.items()} == pytest.approx(expected)
    groups = metrics.collect_groups()
    assert groups == [0, 0, *range(1, 11)]
    found = compare_rows(rows, {"same": rows}, groups)
    for name, value in expected.items():
        assert found[name]["value"] == pytest.approx(value) and found[name]["low"] <= value <= found[name]["high"]
        assert set(found[name]["minus"]["same"].values()) == {0}


def test_bigrams_are_those_of_the_equation() -> None:
    """Witten-Bell, written out; the probabilities after any token sum to one."""
    train = [[1, 2, 3, 1, 2], [2, 3, 3, 1]]
    counts = BigramModel(train, 5)
    pairs = Counter(pair for row in train for pair in zip(row, row[1:], strict=False))
    tokens = Counter(token for row in train for token in row)
    for before in range(5):
        after = {token: times for (first, token), times in pairs.items() if first == before}
        total = 0.0
        for token in range(5):
            alone = (tokens[token] + 1) / (9 + 5)
            expected = (
                (after.get(token, 0) + len(after) * alone) / (sum(after.values()) + len(after)) if after else alone
            )
            (found,) = counts.bigram(np.array([before, token]))
            assert found == pytest.approx(-math.log(expected))
            assert counts.unigram(np.array([before, token])) == pytest.approx(-math.log(alone))
            total += math.exp(-found)
        assert total == pytest.approx(1)


def test_without_a_pair_in_training_bigrams_are_unigrams() -> None:
    counts, asked = BigramModel([[1], [2]], 4), np.array([1, 2, 3])
    np.testing.assert_array_equal(counts.bigram(asked), counts.unigram(asked))


@pytest.mark.parametrize("name", ["question_answering", "causal_lm", "dialogue", "translation"])
def test_a_model_stands_beside_its_baselines_and_another(
    tmp_path: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str], name: str
) -> None:
    content = recipe_for(name, tmp_path, pictures, max_steps=2)
    content["metrics"] = content["metrics"] or ["perplexity"]
    recipe = build_recipe(content)
    results, run = train(recipe, "plait train")["validation"], str(recipe.output_dir)
    capsys.readouterr()
    output = tmp_path / "scores.json"
    assert main(["evaluate", run, "--split", "validation", "--beside", run, "--output", str(output)]) == 0
    printed, scores = capsys.readouterr().out, json.loads(output.read_text())
    for metric, found in scores["intervals"].items():
        assert found["value"] == pytest.approx(results["model"][metric], rel=1e-4)
        assert found["low"] <= found["value"] <= found["high"]
        assert set(found["minus"]) >= {run}
        assert found["minus"].pop(run) == {"value": 0, "low": 0, "high": 0}
        for other, minus in found["minus"].items():
            assert found["value"] - minus["value"] == pytest.approx(results[other][metric], abs=1e-6)
    assert scores["intervals"] and "with 95 % intervals" in printed
    baselines = {other for found in scores["intervals"].values() for other in found["minus"]}
    assert baselines == set(results) - {"model"} and baselines


def test_intervals_are_refused_before_any_work_where_rows_have_no_score(capsys: pytest.CaptureFixture[str]) -> None:
    """Before the model or the data are looked for: here are neither."""
    given = ["--task", "pretraining", "--data.source", "nowhere.txt", "--model.text", "a", "--model.image", "b"]
    assert main(["evaluate", "nowhere", "--intervals", *given]) == 2
    assert "--intervals and --beside: the task pretraining measures batches" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(TASKS))
def test_a_task_says_whether_its_rows_have_scores(name: str, processor: PlaitProcessor) -> None:
    recipe = build_recipe({"task": name, "model": {"from_pretrained": "any"}})
    assert TASKS[name].has_row_scores == isinstance(
        TASKS[name].build_metrics([], None, processor, recipe), SupportsRowScores
    )


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_metrics_of_every_task_follow_one_protocol(name: str, processor: PlaitProcessor) -> None:
    recipe = build_recipe({"task": name, "model": {"from_pretrained": "any"}})
    metrics = TASKS[name].build_metrics([], None, processor, recipe)
    assert isinstance(metrics, EvaluationMetrics) and metrics.names
    assert isinstance(metrics, Metrics) != isinstance(metrics, StreamedMetrics)


def test_intervals_need_a_metric_of_single_rows(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(finished("question_answering"))
    assert main(["evaluate", run, "--intervals", "--split", "validation", "--metrics", "[bleu, distinct]"]) == 2
    assert "--intervals: bleu, distinct have no value for a single row" in capsys.readouterr().err


def test_perplexities_of_other_tokens_are_not_compared() -> None:
    own, theirs = (build_perplexity_scores([4.0, 6.0], tokens) for tokens in ([2, 3], [2, 4]))
    with pytest.raises(ValueError, match=r"other counts other tokens in perplexity \(6 in all, not 5\)"):
        compare_rows(own, {"other": theirs})

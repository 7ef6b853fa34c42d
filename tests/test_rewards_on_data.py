"""The benchmark of rewards on captions and translations: its folds, its BLEU of counts, and what stops a training."""

import argparse
import importlib
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from datasets import Dataset

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("rewards_on_data")


def test_every_row_is_tested_once_and_never_trained_on_by_its_fold(
    benchmark_module: ModuleType, tmp_path: Path
) -> None:
    study = benchmark_module.Captioning(argparse.Namespace(data=tmp_path, keep=tmp_path, folds=None))
    study.rows = Dataset.from_dict({"captions": [[str(row)] for row in range(503)]})
    folds = [study.select(fold) for fold in range(study.folds)]
    assert [row for fold in folds for row in fold["test"]] == list(range(503))
    for fold in folds:
        assert sorted(row for rows in fold.values() for row in rows) == list(range(503))
        assert len(fold["validation"]) == benchmark_module.CHOOSING
    some = benchmark_module.Captioning(argparse.Namespace(data=tmp_path, keep=tmp_path, folds=[1, 4]))
    some.rows = study.rows
    assert some.references == [[str(row)] for fold in (1, 4) for row in folds[fold]["test"]]


def test_bleu_of_counts_is_that_of_the_corpus(benchmark_module: ModuleType) -> None:
    sacrebleu = pytest.importorskip("sacrebleu")
    texts = ["a man rides a brown horse .", "two dogs run over the grass", "a girl in red"]
    references = ["a man rides a horse .", "two dogs are running over the green grass", "a girl in a red dress"]
    counts = benchmark_module.count_bleu([(text, [own]) for text, own in zip(texts, references, strict=True)])
    expected = sacrebleu.corpus_bleu(texts, [references]).score
    assert benchmark_module.compute_bleu(counts) == pytest.approx(expected, abs=1e-9)
    assert benchmark_module.compute_bleu(counts[[0, 0, 1]]) != pytest.approx(expected)


def test_a_difference_is_paired_over_rows_and_seeds(benchmark_module: ModuleType) -> None:
    study = SimpleNamespace(
        references=[["a"]] * 40, measure_texts=lambda texts: {"length": np.array([*map(len, texts)], float)}
    )
    rows = [{"greedy": ["x" * (row % 7) for row in range(40)]}, {"greedy": ["x" * (row % 7 + 2) for row in range(40)]}]
    parts = [[{"start": rows[0], "more": rows[0], "reward": rows[1]}] for _ in range(3)]
    found = benchmark_module.compare(study, parts, "greedy")["length"]
    assert tuple(found["difference"]) == pytest.approx((2.0, 2.0, 2.0))  # the same of every row: no doubt left
    assert tuple(found["more - start"]) == pytest.approx((0.0, 0.0, 0.0))


def test_a_training_stops_after_its_processor_time(benchmark_module: ModuleType) -> None:
    continued = importlib.import_module("continued_training")
    control = SimpleNamespace(should_training_stop=False)
    for seconds, stops in ((1000.0, False), (-1.0, True)):
        callback = continued.StopAfter(seconds)
        callback.on_train_begin()
        callback.on_step_end(None, None, control)
        assert control.should_training_stop is stops

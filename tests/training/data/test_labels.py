"""Labels of several classes in every form, and labels that are not known, from data to batches and metrics."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, List, Value
from sklearn.metrics import f1_score, hamming_loss, precision_score, roc_auc_score
from transformers import EvalPrediction

from plait.training.data.labels import MULTI, REGRESSION, SINGLE, LabelSpec
from plait.training.data.loading import DataSplits, load_data
from plait.training.metrics.baselines import predict_blind, predict_majority
from plait.training.metrics.classification import METRICS, Metrics
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import DataRecipe
from plait.training.tasks.classification import build_label_array, build_label_tensor

NAN = float("nan")
HOT = [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]


def load(folder: Path, column: Any, **options: Any) -> DataSplits:
    """Loads rows with these labels from a parquet file; an arrow array keeps its type."""
    table = pa.table({"text": [f"t{row}" for row in range(len(column))], "label": column})
    parquet.write_table(table, folder / "rows.parquet")
    return load_data(DataRecipe(source=str(folder / "rows.parquet"), **options))


def tensor(data: DataSplits) -> torch.Tensor:
    return build_label_tensor(data.labels, data.train["label"][:])["labels"]


@pytest.mark.parametrize(
    "kind",
    [
        *(pa.list_(kind()) for kind in (pa.bool_, pa.int8, pa.uint8, pa.int32, pa.int64, pa.float32, pa.float64)),
        pa.list_(pa.int64(), 4),
        pa.large_list(pa.float64()),
    ],
    ids=str,
)
def test_vectors_of_any_number_type_are_several_classes(tmp_path: Path, kind: pa.DataType) -> None:
    column = pa.array([[item == 1 for item in row] for row in HOT] if kind == pa.list_(pa.bool_()) else HOT, kind)
    data = load(tmp_path, column)
    assert data.labels == LabelSpec(("0", "1", "2", "3"), MULTI)
    assert tensor(data).tolist() == HOT
    assert build_label_array(data.train, data.labels).tolist() == HOT
    assert load(tmp_path, column, labels=list("wxyz")).labels.names == tuple("wxyz")


def test_vectors_of_arrays_in_memory_and_of_json(tmp_path: Path) -> None:
    Dataset.from_dict({"text": list("abcd"), "label": np.array(HOT)}).to_parquet(tmp_path / "rows.parquet")
    lines = [json.dumps({"text": "a", "label": row}) + "\n" for row in HOT]
    (tmp_path / "rows.jsonl").write_text("".join(lines))
    for name in ("rows.parquet", "rows.jsonl"):
        assert tensor(load_data(DataRecipe(source=str(tmp_path / name)))).tolist() == HOT


@pytest.mark.parametrize(
    ("labels", "names", "expected"),
    [
        ([["warm", "red"], ["cold"], [], ["red"]], ("cold", "red", "warm"), [[0, 1, 1], [1, 0, 0], [0] * 3, [0, 1, 0]]),
        ([[0, 2], [1], [0, 1, 2]], ("0", "1", "2"), [[1, 0, 1], [0, 1, 0], [1, 1, 1]]),
        ([[2, 10], [1, 2]], ("1", "2", "10"), [[0, 1, 1], [1, 1, 0]]),
        ([[0, 1], [1, 0], [0, 1]], ("0", "1"), [[0, 1], [1, 0], [0, 1]]),
        ([[1, -100, 0], [0, 1, 1]], ("0", "1", "2"), [[1, -100, 0], [0, 1, 1]]),
        ([[1.0, NAN, 0.0], [0.0, None, 1.0]], ("0", "1", "2"), [[1, -100, 0], [0, -100, 1]]),
        ([[1, 0, 0], None, [0, 1, 1]], ("0", "1", "2"), [[1, 0, 0], [-100] * 3, [0, 1, 1]]),
        ([["a"], None, ["b", "a"]], ("a", "b"), [[1, 0], [-100, -100], [1, 1]]),
    ],
)
def test_lists_of_labels(tmp_path: Path, labels: list, names: tuple, expected: list) -> None:
    data = load(tmp_path, labels)
    assert data.labels == LabelSpec(names, MULTI)
    assert tensor(data).tolist() == expected
    assert build_label_array(data.train, data.labels).tolist() == expected


def test_class_numbers_with_names_are_no_vectors(tmp_path: Path) -> None:
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["a", "b"]))})
    Dataset.from_dict({"text": ["x", "y"], "label": [[0, 1], [1]]}, features=features).to_parquet(
        tmp_path / "rows.parquet"
    )
    data = load_data(DataRecipe(source=str(tmp_path / "rows.parquet")))
    assert data.labels == LabelSpec(("a", "b"), MULTI)
    assert tensor(data).tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(
    ("labels", "expected", "count"),
    [
        (["a", None, "b"], [0, -100, 1], 1),
        (["a", "", "b"], [0, -100, 1], 1),
        ([3, -100, 10], [0, -100, 1], 1),
        ([0.5, None, 2.5], [0.5, NAN, 2.5], 1),
        ([0.5, NAN, -100.0], [0.5, NAN, -100.0], 1),
        ([[1, 0], [1, None], [0, 0], None], [[1, 0], [1, -100], [0, 0], [-100, -100]], 3),
    ],
)
def test_unknown_labels_are_kept_apart_and_counted(
    tmp_path: Path, labels: list, expected: list, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("plait.training.data.labels")
    logger.addHandler(caplog.handler)
    data = load(tmp_path, labels)
    logger.removeHandler(caplog.handler)
    np.testing.assert_array_equal(tensor(data).numpy(), np.array(expected))
    assert f"data: {count} of " in caplog.text and "left out of the loss and the metrics" in caplog.text


def test_class_labels_below_zero_are_unknown(tmp_path: Path) -> None:
    """The unlabelled rows of Hub data sets have -1, which is not the last class."""
    features = Features({"text": Value("string"), "label": ClassLabel(names=["a", "b"])})
    rows = {"text": ["x", "y", "z"], "label": [1, -1, 0]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "rows.parquet")
    assert load_data(DataRecipe(source=str(tmp_path / "rows.parquet"))).train["label"][:] == [1, -100, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([[1, 0, 0], [0, 2, 0]], "label of row 1 of 'train' has 2, neither 0 nor 1"),
        ([[1.0, 0.0], [0.0, 0.5]], "label of row 1 of 'train' has 0.5"),
        ([[1, 0, 0, 1], [0, 1, 0]], "label of row 1 of 'train' has 3 numbers, but there are 4 classes"),
        ([[0, 1], [0, 1]], r"every label is \[0, 1\]"),
        ([None, None], "no row of the training split has a label"),
        ([["a", None], ["b"]], "unknown label 'None' in row 0"),
        ([float("inf"), 0.5], "label in row 0 of 'train' is inf"),
    ],
)
def test_other_labels_are_errors_with_row_and_value(tmp_path: Path, labels: list, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load(tmp_path, labels)


def test_vectors_are_recognized_over_all_splits(tmp_path: Path) -> None:
    """A split whose own rows may be anything is read as the others, and a row of another length is an error."""
    for split, labels in (("train", HOT), ("test", [[0, 1, 0, 1], [1, 0, 0]])):
        parquet.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), tmp_path / f"{split}.parquet")
    with pytest.raises(RecipeError, match="label of row 1 of 'test' has 3 numbers, but there are 4 classes"):
        load_data(DataRecipe(source=str(tmp_path)))
    for split, labels in (("train", [[0, 1], [1], [0]]), ("test", [[0, 1], [0, 1]])):
        parquet.write_table(pa.table({"text": ["x"] * len(labels), "label": labels}), tmp_path / f"{split}.parquet")
    data = load_data(DataRecipe(source=str(tmp_path)))
    assert data.test["label"][:] == [[0, 1], [0, 1]]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_label_separator(tmp_path: Path, suffix: str) -> None:
    rows = [("red;warm", "a"), ("cold", "b"), (" warm ; red", "c"), (";", "d"), ("", "e")]
    file = tmp_path / f"rows.{suffix}"
    if suffix == "parquet":
        Dataset.from_list([{"text": text, "label": label} for label, text in rows]).to_parquet(file)
    elif suffix == "jsonl":
        file.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for label, text in rows))
    else:
        mark = "\t" if suffix == "tsv" else ","
        file.write_text("".join(f"{text}{mark}{label}\n" for label, text in [("label", "text"), *rows]))
    data = load_data(DataRecipe(source=str(file), label_separator=";"))
    assert data.labels == LabelSpec(("cold", "red", "warm"), MULTI)
    assert tensor(data).tolist() == [[0, 1, 1], [1, 0, 0], [0, 1, 1], [0, 0, 0], [-100] * 3]


def test_numbers_with_given_names_are_classes(tmp_path: Path) -> None:
    """Whole numbers next to an empty cell are floats in a parquet file of pandas."""
    data = load(tmp_path, [1.0, None, 2.0], labels=["1", "2"])
    assert data.labels == LabelSpec(("1", "2"), SINGLE)
    assert data.train["label"][:] == [0, -100, 1]


def measure(problem_type: str, names: list[str], references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
    return Metrics(names, problem_type)(EvalPrediction(predictions=predictions, label_ids=references))


@pytest.mark.parametrize("problem_type", [SINGLE, MULTI, REGRESSION])
def test_every_metric_ignores_rows_without_a_known_label(problem_type: str) -> None:
    random = np.random.default_rng(0)
    if problem_type == REGRESSION:
        truth, found, unknown = random.normal(size=30), random.normal(size=30), NAN
    elif problem_type == MULTI:
        truth, found, unknown = random.integers(0, 2, (30, 3)).astype(float), random.random((30, 3)), -100
    else:
        truth, found, unknown = random.integers(0, 3, 30), random.dirichlet(np.ones(3), 30), -100
    names = list(METRICS[problem_type])
    masked = truth.copy()
    masked[20:] = unknown
    assert measure(problem_type, names, masked, found) == measure(problem_type, names, truth[:20], found[:20])
    metrics, constant = Metrics(names, problem_type), predict_majority(masked, 30, problem_type)
    assert np.array_equal(constant[:20], predict_majority(truth[:20], 20, problem_type))
    assert metrics.compute_constant(masked, constant) == metrics.compute_constant(truth[:20], constant[:20])
    blind = predict_blind((["seen"] * 20 + ["unlabelled"] * 10, masked), ["unlabelled"], problem_type)
    assert np.array_equal(blind[0], constant[0])


def test_metrics_of_several_classes_are_those_of_the_known_labels() -> None:
    random = np.random.default_rng(1)
    truth, found = random.integers(0, 2, (40, 3)).astype(float), random.random((40, 3))
    known = random.random((40, 3)) < 0.7
    masked, chosen = np.where(known, truth, -100), found > 0.5
    values = measure(
        MULTI, ["f1_macro", "f1_micro", "precision_macro", "hamming_loss", "roc_auc", "accuracy"], masked, found
    )
    columns = [(truth[rows, number], chosen[rows, number], found[rows, number]) for number, rows in enumerate(known.T)]
    assert values["f1_macro"] == pytest.approx(np.mean([f1_score(a, b) for a, b, _ in columns]))
    assert values["precision_macro"] == pytest.approx(np.mean([precision_score(a, b) for a, b, _ in columns]))
    assert values["f1_micro"] == pytest.approx(f1_score(truth[known], chosen[known]))
    assert values["hamming_loss"] == pytest.approx(hamming_loss(truth[known], chosen[known]))
    assert values["roc_auc"] == pytest.approx(np.mean([roc_auc_score(a, c) for a, _, c in columns]))
    rows = known.any(1)
    assert values["accuracy"] == pytest.approx(((truth == chosen) | ~known).all(1)[rows].mean())


def test_another_separator_than_the_recipes_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,red;warm\nb,blue\n")
    columns = {"text": "text", "label": "label"}
    recipe = DataRecipe(source=str(tmp_path / "rows.csv"), columns=columns, label_separator=",")
    with pytest.raises(RecipeError, match="data.label_separator is ',', which no label has, but 1 of 2 have ';'"):
        load_data(recipe)
    assert load_data(replace(recipe, label_separator=";")).labels == LabelSpec(("blue", "red", "warm"), MULTI)


@pytest.mark.parametrize(
    ("none_label", "names", "empty", "word"),
    [
        (None, ("none", "red", "warm"), [-100] * 3, [1, 0, 0]),
        ("none", ("red", "warm"), [-100] * 2, [0, 0]),
        ("", ("none", "red", "warm"), [0, 0, 0], [1, 0, 0]),
    ],
)
def test_what_says_that_none_of_the_labels_applies(
    none_label: str | None, names: tuple[str, ...], empty: list[int], word: list[int], tmp_path: Path
) -> None:
    """In a text with a separator and in a list alike: an empty list and its text always, an empty cell and a word if
    the recipe says so."""
    (tmp_path / "rows.csv").write_text("text,label\na,red;warm\nb,[]\nc,;\nd,\ne, none\n")
    lists = [["red", "warm"], [], [], None, ["none"]]
    options = {"none_label": none_label}
    read = load_data(DataRecipe(source=str(tmp_path / "rows.csv"), label_separator=";", **options))
    for data in (read, load(tmp_path, lists, **options)):
        assert data.labels == LabelSpec(names, MULTI)
        both = [int(name in ("red", "warm")) for name in names]
        assert tensor(data).tolist() == [both, [0] * len(names), [0] * len(names), empty, word]


def test_a_none_label_beside_others_or_of_single_labels_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="row 1 of 'train' has 'none', which is data.none_label, beside other"):
        load(tmp_path, ["red;warm", "none;red"], label_separator=";", none_label="none")
    with pytest.raises(RecipeError, match="such as 'red', are one a row: name data.label_separator"):
        load(tmp_path, ["red", "none"], none_label="none")

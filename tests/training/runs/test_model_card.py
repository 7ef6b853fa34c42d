"""What a card says of results, labels and data."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from plait.training.data.labels import REGRESSION, SINGLE, LabelSpec
from plait.training.data.loading import DataSplits
from plait.training.runs.model_card import (
    _describe_data,
    _describe_labels,
    _describe_size,
    _find_source_name,
    render_results_table,
)
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.registry import find_task

MODEL = {"accuracy": 0.75, "loss": 0.33333}


def build(source: Any) -> Any:
    return build_recipe({"model": {"text": "a/model"}, "data": {"source": source}})


def test_a_row_for_each_metric_and_a_column_for_each_baseline() -> None:
    results = {"validation": {"model": MODEL, "majority": {"accuracy": 0.5}}, "test": {"model": {"accuracy": 1.0}}}
    lines = render_results_table(results).splitlines()
    assert lines[:5] == [
        "| split | metric | model | majority |",
        "|---|---|---|---|",
        "| validation | accuracy | 0.7500 | 0.5000 |",
        "| validation | loss | 0.3333 | - |",
        "| test | accuracy | 1.0000 | - |",
    ]
    assert lines[5] == "" and "majority" in lines[6].lower() and len(lines) == 7
    assert render_results_table({"test": {"model": MODEL}}).splitlines()[-1] == "| test | loss | 0.3333 |"
    assert render_results_table({}) == "No validation or test split: nothing was measured."


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, ""),
        (LabelSpec(("no", "yes"), SINGLE), "Labels: no, yes."),
        (LabelSpec((), REGRESSION), "The model predicts one number."),
    ],
)
def test_labels_are_named(labels: LabelSpec | None, said: str) -> None:
    assert _describe_labels(DataSplits({}, labels)) == said


def test_a_local_file_is_named_without_its_folder(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label")
    assert _find_source_name(build(str(tmp_path / "rows.csv"))) == "rows.csv"
    assert _find_source_name(build("some/dataset")) == "some/dataset"
    files = {"train": str(tmp_path / "rows.csv"), "test": str(tmp_path / "rows.csv")}
    assert _find_source_name(build(files)) == "local files"


def test_sizes_before_and_after_they_were_prepared_and_what_was_left_out(tmp_path: Path) -> None:
    task, rows = find_task("causal_lm"), Dataset.from_dict({"text": ["a"] * 5})
    data = DataSplits({"train": rows, "test": rows.select([0])}, None, {"train": 2}, {"train": 3, "test": 1})
    assert _describe_size(task, data, "train") == f"3 rows (5 {task.chunk_name})"
    assert _describe_size(task, data, "test") == "1 rows"
    assert _describe_size(task, data._replace(rows={}), "train") == "5 rows"
    found = _describe_data(build("some/dataset"), task, data)
    assert found.startswith("Source: some/dataset. 3 rows (5 ") and found.endswith(
        "for train, 1 rows for test. 2 unreadable rows of train left out."
    )

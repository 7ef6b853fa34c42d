"""What a card says of results, labels and data."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from huggingface_hub import ModelCard

from plait.configuration.cards import is_generated
from plait.configuration.version import VERSION
from plait.training.data.labels import REGRESSION, SINGLE, LabelSpec
from plait.training.data.loading import DataSplits
from plait.training.runs import model_card
from plait.training.runs.model_card import (
    _describe_data,
    _describe_labels,
    _describe_size,
    _find_source_name,
    render_results_table,
)
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.registry import find_task

from ...modeling.zoo import build as build_model

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


def test_the_metadata_are_those_of_the_run() -> None:
    rows = Dataset.from_dict({"text": ["a"], "image.first": ["b"], "label": [0]})
    task, results = find_task("classification"), {"test": {"model": {"accuracy": 0.12345678}, "majority": {}}}
    both, texts = (DataSplits({"train": data}, None) for data in (rows, rows.select_columns("text")))
    assert model_card._find_hub_task(task, both) == "image-text-to-text"
    assert model_card._find_hub_task(task, texts) == "text-classification"
    (result,) = model_card._build_results(build("some/dataset"), "image-text-to-text", results)
    assert (result.task_type, result.dataset_type, result.dataset_name) == ("image-text-to-text", *["some/dataset"] * 2)
    assert (result.metric_type, result.metric_value, result.dataset_split) == ("accuracy", 0.123457, "test")
    assert model_card._build_results(build("some/dataset"), "image-text-to-text", {}) == []


def test_a_card_has_results_or_a_comparison(tmp_path: Path) -> None:
    model: Any = build_model("PlaitForMaskedLM", "text")
    task, data = find_task("masked_lm"), DataSplits({"train": Dataset.from_dict({"text": ["a"]})}, None)
    results = {"test": {"model": {"accuracy": 0.5}}}
    for name, comparison in (("plain", ""), ("compared", "| a comparison |")):
        folder = tmp_path / name
        folder.mkdir()
        recipe = build("some/dataset")
        recipe.seed = 7
        model_card.write_card(folder, recipe, task, model, data, results, "plait train x", comparison)
        text = (folder / "README.md").read_text()
        assert ("| a comparison |" in text) == bool(comparison) != ("| test | accuracy | 0.5000 |" in text)
        assert f"# {name}\n\nA plait model for masked lm, trained with plait {VERSION}." in text
        assert f'AutoModelForMaskedLM.from_pretrained("{name}")' in text and "```\nplait train x\n```" in text
        assert f"```\n{model.composition()}\n```" in text and "Source: some/dataset. 1 rows for train." in text
        assert f"Seed 7; Python {platform.python_version()}, transformers {version('transformers')}, torch " in text
        data_of_card = ModelCard(text).data
        assert data_of_card.library_name == "plait" and data_of_card.pipeline_tag == "fill-mask"
        assert data_of_card.tags[:2] == ["plait", "masked_lm"] and data_of_card.model_name == name
        assert is_generated(text)
        (folder / "README.md").write_text("by hand")
        model_card.write_card(folder, recipe, task, model, data, results, "plait train x", comparison)
        assert (folder / "README.md").read_text() == "by hand"

"""The cells of texts and labels, as they are written in files of every format."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from plait.training.data.cells import NUMBER_COLUMNS, TEXT_COLUMNS
from plait.training.data.labels import REGRESSION, SINGLE, LabelSpec
from plait.training.data.loading import load_data
from plait.training.data.sources import SOURCES
from plait.training.prediction.sources import load_data_rows
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import DataRecipe
from plait.training.runs.recipe import build_recipe

# what readers of tables take for a missing cell, a number, a date or a truth value
WORDS = [
    "None",
    "NA",
    "N/A",
    "n/a",
    "null",
    "NULL",
    "nan",
    "NaN",
    "<NA>",
    "#N/A",
    "-",
    "007",
    "7",
    "1e3",
    "7.10",
    "inf",
]
WORDS += ["2020-01-01", "2020-01-01 10:00:00", "true", "False", " a cat ", 'say "a", b', "0"]
CELLS = [*WORDS, ""]
FORMATS = ["csv", "tsv", "json", "jsonl", "parquet", "source"]


def write(file: Path, columns: dict[str, list]) -> str:
    """Writes columns to a file of the suffix's format, or registers them as a source; returns the source's name."""
    rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    if file.suffix == ".parquet":
        parquet.write_table(pa.table(columns), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif file.suffix == ".source":
        SOURCES["cells of a test"] = lambda: {"train": Dataset.from_dict(columns)}
        return "cells of a test"
    else:
        with file.open("w", newline="", encoding="utf-8") as target:
            writer = csv.writer(target, delimiter="\t" if file.suffix == ".tsv" else ",")
            writer.writerows([columns, *(row.values() for row in rows)])
    return str(file)


@pytest.fixture(autouse=True)
def no_source_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "cells of a test", dict)


def expected(cells: list[str]) -> list[str | None]:
    return [cell or None for cell in cells]


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_text_is_read_as_it_is_written(tmp_path: Path, suffix: str) -> None:
    """Every role that holds a text, with every word that a reader of tables would change, all together and alone."""
    cases = dict.fromkeys(TEXT_COLUMNS, CELLS)
    data = load_data(
        DataRecipe(source=write(tmp_path / f"all.{suffix}", cases)), needs_labels=False, roles=TEXT_COLUMNS
    )
    for role in TEXT_COLUMNS:
        texts = ["" if cell == "" and role in ("text", "text_pair") else cell for cell in expected(CELLS)]
        assert data.train[role][:] == [text or None for text in texts]
    alone = {f"column {number}": [word, word] for number, word in enumerate(WORDS)}
    source = write(tmp_path / f"alone.{suffix}", alone)
    for start in range(0, len(WORDS), len(TEXT_COLUMNS)):
        mapping = dict(zip(TEXT_COLUMNS, list(alone)[start : start + len(TEXT_COLUMNS)], strict=False))
        data = load_data(DataRecipe(source=source, columns=mapping), needs_labels=False)
        assert {name: data.train[role][:] for role, name in mapping.items()} == {n: alone[n] for n in mapping.values()}


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_json_numbers_dates_and_mixed_cells_are_texts(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"rows.{suffix}"
    lines = ['{"text": 7.10, "m": 7, "d": "2020-01-01", "l": [1, 20], "b": true}', '{"text": 12, "m": "a", "l": [3]}']
    file.write_text("\n".join(lines) if suffix == "jsonl" else f"[{', '.join(lines)}]")
    columns = {"text": "text", "question": "m", "context": "d", "target": "l", "prompt": "b"}
    data = load_data(DataRecipe(source=str(file), columns=columns), needs_labels=False).train
    assert data["text"][:] == ["7.10", "12"] and data["question"][:] == ["7", "a"]
    assert data["context"][:] == ["2020-01-01", None] and data["prompt"][:] == ["true", None]
    assert data["target"][:] == [["1", "20"], ["3"]]


def test_dates_and_numbers_inside_messages_and_answers(tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": "2020-01-01"}], "answers": {"text": [42], "answer_start": [3]}},
        {"messages": [{"role": "user", "content": "2021-01-01"}], "answers": {"text": [7], "answer_start": [0]}},
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"messages": "messages", "answers": "answers"}
    data = load_data(DataRecipe(source=str(tmp_path / "rows.jsonl"), columns=columns), needs_labels=False).train
    assert [row[0]["content"] for row in data["messages"]] == ["2020-01-01", "2021-01-01"]
    assert data["answers"][:] == [{"text": ["42"], "answer_start": [3]}, {"text": ["7"], "answer_start": [0]}]


def test_typed_columns_of_numbers_and_classes_are_texts(tmp_path: Path) -> None:
    features = Features({"text": Value("int64"), "prompt": ClassLabel(names=["no", "yes"])})
    Dataset.from_dict({"text": [7, None], "prompt": [1, 0]}, features=features).to_parquet(tmp_path / "rows.parquet")
    recipe = DataRecipe(source=str(tmp_path / "rows.parquet"), columns={"text": "text", "prompt": "prompt"})
    data = load_data(recipe, needs_labels=False).train
    assert data["text"][:] == ["7", None] and data["prompt"][:] == ["yes", "no"]


@pytest.mark.parametrize("suffix", FORMATS)
def test_labels_are_read_as_they_are_written(tmp_path: Path, suffix: str) -> None:
    labels = [*WORDS, *WORDS]
    labels = [label for label in labels if label not in ("1e3", "7.10", "inf")]  # numbers: see the test below
    source = write(tmp_path / f"rows.{suffix}", {"text": labels, "label": labels})
    data = load_data(DataRecipe(source=source))
    assert data.labels == LabelSpec(tuple(sorted(set(labels))), SINGLE)
    assert [data.labels.names[number] for number in data.train["label"]] == labels


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    ("cells", "labels", "encoded"),
    [
        (["1.5", "-2", "1e3"], LabelSpec((), REGRESSION), [1.5, -2.0, 1000.0]),
        (["1", "10", "2"], LabelSpec(("1", "2", "10"), SINGLE), [0, 2, 1]),
        (["007", "7", "7"], LabelSpec(("007", "7"), SINGLE), [0, 1, 1]),
        (["1", "", "2"], LabelSpec(("1", "2"), SINGLE), [0, -100, 1]),
        (["NA", "None", ""], LabelSpec(("NA", "None"), SINGLE), [0, 1, -100]),
    ],
)
def test_numbers_and_classes_in_files_without_types(
    tmp_path: Path, suffix: str, cells: list[str], labels: LabelSpec, encoded: list
) -> None:
    data = load_data(DataRecipe(source=write(tmp_path / f"rows.{suffix}", {"text": cells, "label": cells})))
    assert data.labels == labels and data.train["label"][:] == encoded


def test_numbers_with_words_among_them_need_a_decision(tmp_path: Path) -> None:
    source = write(tmp_path / "rows.csv", {"text": ["a", "b", "c"], "label": ["1.5", "NA", "2.5"]})
    with pytest.raises(RecipeError, match="the number 1.5, that of row 1 the word 'NA': for regression"):
        load_data(DataRecipe(source=source))
    with pytest.raises(RecipeError, match="label 'NA' in row 1 of 'train' is no number"):
        load_data(DataRecipe(source=source, regression=True))
    named = load_data(DataRecipe(source=source, labels=["1.5", "2.5", "NA"]))
    assert named.labels.problem_type == SINGLE and named.train["label"][:] == [0, 2, 1]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "parquet"])
def test_columns_of_numbers_stay_numbers(tmp_path: Path, suffix: str) -> None:
    columns: dict[str, list[Any]] = {"audio": ["a.wav", "b.wav"], "sampling_rate": [16000, 8000]}
    columns |= {"answers": ["x", "y"], "answer_start": [3, 0]}
    mapping = {name: name for name in columns}
    recipe = DataRecipe(source=write(tmp_path / f"rows.{suffix}", columns), columns=mapping)
    data = load_data(recipe, needs_labels=False).train
    for name in NUMBER_COLUMNS:
        assert data[name][:] == columns[name]
    if suffix in ("csv", "tsv"):
        source = write(tmp_path / f"rows.{suffix}", columns | {"sampling_rate": ["16000", "fast"]})
        with pytest.raises(RecipeError, match="'fast' in row 1 is no number"):
            load_data(DataRecipe(source=source, columns=mapping), needs_labels=False)


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_an_empty_cell_is_no_image(tmp_path: Path, suffix: str) -> None:
    source = write(tmp_path / f"rows.{suffix}", {"image": ["None", "", "007"], "text": ["a", "b", "c"]})
    images = load_data(DataRecipe(source=source), needs_labels=False).train["image"][:]
    assert images == [str(tmp_path / "None"), None, str(tmp_path / "007")]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_predicted_rows_are_read_alike(tmp_path: Path, suffix: str) -> None:
    """The input files of `plait predict`, which have no labels or other ones."""
    source = write(tmp_path / f"rows.{suffix}", {"text": CELLS, "label": CELLS})
    recipe = build_recipe({"task": "classification", "data": {"source": source}, "model": {"text": "none"}})
    assert [row["text"] for row in load_data_rows(recipe)] == expected(CELLS)

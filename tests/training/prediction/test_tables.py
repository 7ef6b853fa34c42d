"""Tables in, tables out: every column stays, every row has its own answer, whatever the format."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from plait.training.cli import main
from plait.training.prediction import sources
from plait.training.prediction.run import Predictor, predict_file
from plait.training.prediction.sources import open_data
from plait.training.recipes.errors import RecipeError
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict

Rows = list[dict[str, str]]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pd.DataFrame(rows).assign(number=range(len(rows))).to_parquet(path)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = "".join(json.dumps({**row, "nested": {"a": [n]}}) + "\n" for n, row in enumerate(rows))
        path.write_text(lines if path.suffix == ".jsonl" else json.dumps([json.loads(x) for x in lines.splitlines()]))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text().splitlines()]
    with path.open(newline="") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


COLUMNS = {"data.columns": {"text": "said", "image": "picture"}}


def run(folder: str, source: Path, output: Path, batch_size: int = 4, **changes: Any) -> Any:
    recipe = load_model_recipe(folder, {"data.source": str(source), **COLUMNS, **changes})
    return predict_file(Predictor(folder, open_data(recipe), recipe, batch_size), output)


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet"])
def test_columns_and_rows_stay_and_answers_are_those_of_the_model(
    folder: str, given: list[dict[str, Any]], pictures: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    for path in pictures.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = write(tmp_path / f"in.{kind}", given)
    recipe = load_model_recipe(folder, {})
    plain = [{"text": row["said"], "image": str(tmp_path / row["picture"])} for row in given]
    expected = list(predict(folder, plain, recipe, batch_size=4))
    for suffix in ("csv", "tsv", "jsonl", "parquet"):
        output = tmp_path / f"out.{suffix}"
        assert run(folder, source, output).count == len(given)
        found = read(output)
        for row, line, answer in zip(given, found, expected, strict=True):
            assert {name: line[name] for name in row} == row
            assert line["predicted_label"] == answer["label"] and float(line["score"]) == answer["score"]
            chances = line.get("probabilities") or {
                name: float(line[f"probability_{name}"]) for name in answer["probabilities"]
            }
            assert chances == answer["probabilities"]
        if kind == "parquet" and suffix == "parquet":
            schema = pq.read_schema(source)
            assert [pq.read_schema(output).field(name) for name in schema.names] == list(schema)
    assert not list(tmp_path.glob(".*"))  # nothing is left of the answers' files


def test_parts_and_batches_change_nothing(
    folder: str, given: list[dict[str, Any]], pictures: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the size of a part, of a batch, nor the range of rows that a process reads."""
    for path in pictures.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    source = write(tmp_path / "in.csv", given)
    run(folder, source, tmp_path / "whole.jsonl", batch_size=100)
    whole = read(tmp_path / "whole.jsonl")
    recipe = load_model_recipe(folder, {"data.source": str(source), **COLUMNS})
    for size in (1, 2, 5):
        monkeypatch.setattr(sources, "PART_ROWS", size)
        rows = open_data(recipe)
        for first, last in ((0, 9), (2, 7), (8, 9), (4, 4)):
            parts = list(rows.read_parts(first, last))
            assert [row["id"] for part in parts for row in part.given] == [row["id"] for row in given[first:last]]
            assert [part.start for part in parts] == list(range(first, last, size))
        output = tmp_path / f"{size}.jsonl"
        run(folder, source, output, batch_size=3)
        for line, other in zip(read(output), whole, strict=True):
            assert line["score"] == pytest.approx(other["score"], abs=2e-6)
            assert line["id"] == other["id"] and line["predicted_label"] == other["predicted_label"]


def test_a_row_that_cannot_be_read(
    folder: str, given: list[dict[str, Any]], pictures: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Stops with its number and exit code 2, in evaluation too; or is left without an answer, and the others are as if
    it were not there. Nothing is written where it stops."""
    for path in pictures.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "cut.png").write_bytes(b"no image")
    bad = [dict(row) for row in given]
    bad[2]["picture"], bad[4]["picture"], bad[5]["picture"] = "cut.png", "gone.png", "https://x.org/a.png"
    bad[6]["picture"] = bad[6]["said"] = ""
    source, output = write(tmp_path / "in.csv", bad), tmp_path / "out.csv"
    columns = ["--data.columns", "{text: said, image: picture}"]
    arguments = ["--data", str(source), *columns, "--batch-size", "3"]
    for command in (["predict", folder, *arguments, "--output", str(output)],
                    ["predict", folder, *arguments, "--output", str(output), "--data.on_error", "check"]):  # fmt: skip
        assert main(command) == 2 and not output.exists()
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.count("row 2") == 1 and "BytesIO" not in said and "images, row 2: " not in said
    assert main(["predict", folder, *arguments, "--output", str(output), "--data.on_error", "skip"]) == 0
    said = capsys.readouterr().err
    assert "4 of 9 rows cannot be read: row 2: " in said and "BytesIO" not in said and "row 6 of" not in said
    found = read(output)
    assert [number for number, line in enumerate(found) if line["error"]] == [2, 4, 5, 6]
    assert "is a URL: download it first" in found[5]["error"] and "nothing to read" in found[6]["error"]
    assert not [line["error"] for line in found if re.search(r"row \d", line["error"])]
    run(folder, write(tmp_path / "good.csv", given), tmp_path / "good.csv.jsonl")
    for number, (line, other) in enumerate(zip(found, read(tmp_path / "good.csv.jsonl"), strict=True)):
        if number in (2, 4, 5, 6):
            assert line["predicted_label"] == line["score"] == ""
        else:
            assert line["predicted_label"] == other["predicted_label"]
            assert float(line["score"]) == pytest.approx(other["score"], abs=2e-6)
    assert main(["predict", folder, *arguments, "--output", str(output), "--data.on_error", "skip"]) == 2
    assert "exists: --overwrite replaces it" in capsys.readouterr().err


def test_no_readable_row_is_an_error(folder: str, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", [{"picture": "a.png", "said": ""}, {"picture": "b.png", "said": ""}])
    with pytest.raises(RecipeError, match="none of the 2 rows can be read: row 0: there is no file"):
        run(folder, source, tmp_path / "out.csv", **{"data.on_error": "skip"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.csv"]


def test_a_folder_of_images_is_a_table_of_its_files(folder: str, pictures: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    for number, path in enumerate(pictures.values()):
        (tmp_path / "in" / ("deeper" if number else "") / path.name).write_bytes(path.read_bytes())
    (tmp_path / "in" / "notes.md").write_text("no image")
    assert run(folder, tmp_path / "in", tmp_path / "out.jsonl").count == 3
    assert [line["file"] for line in read(tmp_path / "out.jsonl")] == ["deeper/blue.png", "deeper/green.png", "red.png"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("in.csv", 'said\n"a\n', "in.csv cannot be read: "),
        ("in.jsonl", '{"said": "a"}\n{"said": \n', "in.jsonl cannot be read: "),
        ("in.jsonl", '{"said": "a"}\n3\n', "row 1 is no object of columns: 3"),
        ("in.csv", "said\n", "in.csv has no rows"),
        ("in.csv", "other\na\n", "no column said"),
        ("in.parquet", "x", "in.parquet cannot be read: "),
    ],
)
def test_files_that_are_no_tables_are_named(folder: str, tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(RecipeError, match=message):
        run(folder, tmp_path / name, tmp_path / "out.csv", **{"data.columns": {"text": "said"}})


def test_texts_of_json_are_as_they_are_written_and_all_else_keeps_its_type(folder: str, tmp_path: Path) -> None:
    lines = ['{"said": 1.50, "id": 7}', '{"said": true, "id": "x", "extra": [1]}', '{"said": "007", "id": null}']
    (tmp_path / "in.jsonl").write_text("\n".join(lines))
    recipe = load_model_recipe(folder, {"data.source": str(tmp_path / "in.jsonl"), "data.columns": {"text": "said"}})
    (part,) = open_data(recipe).read_parts()
    assert [row["text"] for row in part.rows] == ["1.50", "true", "007"]
    for suffix in ("jsonl", "parquet", "csv"):
        run(folder, tmp_path / "in.jsonl", tmp_path / f"out.{suffix}", **{"data.columns": {"text": "said"}})
    assert [{name: line.get(name) for name in ("said", "id", "extra")} for line in read(tmp_path / "out.jsonl")] == [
        {"said": 1.5, "id": 7, "extra": None},
        {"said": True, "id": "x", "extra": [1]},
        {"said": "007", "id": None, "extra": None},
    ]
    assert [line["id"] for line in read(tmp_path / "out.parquet")] == ["7", "x", None]

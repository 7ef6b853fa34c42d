"""Rows from the command line, and predictions as files."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from plait.training.recipes.errors import RecipeError
from plait.training.runs.predict import build_option_rows, write_predictions
from plait.training.runs.train import format_results
from plait.training.tasks.registry import find_task

TASK = find_task("classification")
ANSWERS = [{"label": "yes", "probabilities": {"yes": 0.75}}, {"label": "no", "probabilities": {"yes": 0.25}}]


def test_a_single_value_goes_with_all_rows(tmp_path: Path) -> None:
    file = str(tmp_path / "a.png")
    Image.new("RGB", (4, 4)).save(file)
    found = build_option_rows(TASK, {"text": ["one", "two"], "image": [file], "audio": []})
    assert found == [{"text": "one", "image": file}, {"text": "two", "image": file}]
    assert build_option_rows(TASK, {"text": ["one"]}) == [{"text": "one"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": []}, "nothing to predict: give --text"),
        ({"text": ["a", "b", "c"], "image": ["x", "y"]}, "2 --image for 3 rows: give one, or one per row"),
        ({"image": ["missing.png"]}, "--image missing.png: no such file"),
        ({"audio": ["missing.wav"]}, "--audio missing.wav: no such file"),
        ({"answers": ["a"]}, "--answers: the task classification does not read it: give --text"),
    ],
)
def test_options_that_make_no_rows(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_option_rows(TASK, options)


def test_predictions_stand_beside_their_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows: Any = [{"text": "a", "image": {"path": "a.png", "bytes": b"x"}}, {"text": "bé", "image": "b.png"}]
    expected = [{"text": row["text"], "image": image, **answer} for row, image, answer in
                zip(rows, ("a.png", "b.png"), ANSWERS, strict=True)]  # fmt: skip
    assert write_predictions(rows, iter(ANSWERS), None) == 2
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == expected
    assert write_predictions(rows, iter(ANSWERS), tmp_path / "a.jsonl") == 2
    text = (tmp_path / "a.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == expected and "bé" in text
    assert write_predictions(rows, iter(ANSWERS), tmp_path / "a.csv") == 2
    assert (tmp_path / "a.csv").read_text(encoding="utf-8").splitlines() == [
        "text,image,label", "a,a.png,yes", "bé,b.png,no"
    ]  # fmt: skip
    with pytest.raises(RecipeError, match="the suffix must be .jsonl or .csv"):
        write_predictions(rows, iter(ANSWERS), tmp_path / "a.txt")


def test_a_line_for_each_metric_of_each_split() -> None:
    results = {"validation": {"model": {"accuracy": 0.75, "loss": 1.0}, "majority": {"accuracy": 0.5}}}
    assert format_results(results).splitlines() == [
        "validation accuracy=0.7500 majority=0.5000",
        "validation loss=1.0000",
    ]
    assert format_results({}) == "no validation or test split: nothing was measured"

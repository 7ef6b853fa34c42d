"""Rows from the command line."""

from pathlib import Path

import pytest
from PIL import Image

from plait.training.recipes.errors import RecipeError
from plait.training.runs.predict import build_option_rows
from plait.training.runs.train import format_results
from plait.training.tasks.registry import find_task

TASK = find_task("classification")


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
        ({"video": ["missing.mp4"]}, "--video missing.mp4: no such file"),
        ({"image": ["https://x.org/a.png"]}, "--image https://x.org/a.png is a URL: download it first"),
        ({"answers": ["a"]}, "--answers: the task classification does not read it: give --text"),
    ],
)
def test_options_that_make_no_rows(options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_option_rows(TASK, options)


def test_a_line_for_each_metric_of_each_split() -> None:
    results = {"validation": {"model": {"accuracy": 0.75, "loss": 1.0}, "majority": {"accuracy": 0.5}}}
    assert format_results(results).splitlines() == [
        "validation accuracy=0.7500 majority=0.5000",
        "validation loss=1.0000",
    ]
    assert format_results({}) == "no validation or test split: nothing was measured"

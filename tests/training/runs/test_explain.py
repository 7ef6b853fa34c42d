"""`plait explain`: from a folder and data to explanations that can be looked at, and its mistakes in one line."""

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from plait import PlaitProcessor
from plait.configuration.version import VERSION
from plait.training.cli import main
from plait.training.data.loading import DataSplits
from plait.training.explanations.results import Explanation
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import save_recipe
from plait.training.runs.model_card import write_card
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, check_card_modalities, describe_modalities
from plait.training.tasks.registry import find_task


@pytest.fixture(scope="module")
def data_file(tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]]) -> Path:
    path = tmp_path_factory.mktemp("explained") / "rows.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture
def folder(tmp_path: Path, make_model: Callable[..., Any], processor: PlaitProcessor) -> Path:
    for part in (make_model(), processor):
        part.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_folder_is_written_and_its_tables_printed(
    folder: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "explained"
    options = ["--rows", "2", "--method", "occlusion", "--check", "--modalities", "--absence", "blank"]
    assert main(["explain", str(folder), "--data", str(data_file), "--output", str(output), *options]) == 0
    printed = capsys.readouterr().out
    assert "which explanations can be believed:" in printed and "| occlusion | image | border |" in printed
    assert (
        "what each modality adds:" in printed
        and "accuracy points" in printed
        and "an absent modality is blank" in printed
    )
    assert f"2 rows explained by occlusion: {output / 'explanation.html'}" in printed
    found = Explanation.load(output)
    assert len(found) == 2 and set(found[0].attributions) == {"text", "image"}
    page = (output / "explanation.html").read_text()
    assert page.count("<section") == 2 and "what each modality adds" in page
    assert len(list((output / "images").glob("*.png"))) == 2
    assert json.loads((output / "modalities.json").read_text())["absence"] == "blank"
    assert json.loads((output / "check.json").read_text())["rows"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "oclusion"], "no method 'oclusion'"),
        (["--target", "purple"], "target 'purple' is no class"),
        (["--rows", "0"], "--rows is 0: expected at least 1"),
    ],
)
def test_mistakes_are_one_line(
    folder: Path,
    data_file: Path,
    tmp_path: Path,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "explained"
    assert main(["explain", str(folder), "--data", str(data_file), "--output", str(output), *options]) == 2
    *_, error = capsys.readouterr().err.splitlines()
    assert error.startswith("plait explain: ") and message in error
    assert not output.exists()


def test_an_existing_folder_is_not_overwritten(
    folder: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "explained").mkdir()
    (tmp_path / "explained" / "notes.txt").write_text("mine")
    arguments = ["explain", str(folder), "--data", str(data_file), "--output", str(tmp_path / "explained")]
    assert main(arguments) == 2
    assert "exists and is not overwritten" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "explained").iterdir()] == ["notes.txt"]
    assert main(["explain", str(folder), "--output", str(tmp_path / "new")]) == 2
    assert "give --data" in capsys.readouterr().err


def test_an_unreadable_row_has_its_number_in_the_data_and_can_be_left_out(
    folder: Path, data_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with data_file.open(newline="") as file:
        columns, *rows = csv.reader(file)
    rows[1][columns.index("image")] = "none.png"
    data = tmp_path / "data.csv"
    with data.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    arguments = ["explain", str(folder), "--data", str(data), "--output", str(tmp_path / "explained")]
    assert main([*arguments, "--modalities"]) == 2
    assert "images, row 1 of the data: " in capsys.readouterr().err
    assert main([*arguments, "--data.on_error", "check"]) == 2
    assert main([*arguments, "--data.on_error", "skip"]) == 0
    assert f"{len(rows) - 1} rows explained" in capsys.readouterr().out


def test_a_run_without_a_model_says_to_resume_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    save_recipe(build_recipe({"task": "classification"}), tmp_path / "run" / "recipe.yaml", VERSION)
    assert main(["predict", str(tmp_path / "run"), "--text", "a"]) == 2
    assert "the run has saved no model" in capsys.readouterr().err


def test_a_card_says_what_each_modality_adds_if_the_recipe_asks_for_it(
    make_model: Callable[..., Any], processor: PlaitProcessor, data: DataSplits, tmp_path: Path
) -> None:
    recipe = build_recipe({"model": {"text": "a/model"}, "data": {"source": "rows.csv"}, "card_modalities": 4})
    task, nothing = find_task("classification"), cast("Any", None)
    run = TrainingRun(recipe, task, tmp_path, data, make_model(), processor, nothing, nothing)
    check_card_modalities(recipe, data)
    added = describe_modalities(run)
    assert added.startswith("**text ") and "together" in added and " rows; an absent" in added
    assert "accuracy points" in added
    write_card(tmp_path, recipe, task, run.model, data, {}, "plait train", modalities=added)
    assert f"## What each modality adds\n\n{added}" in (tmp_path / "README.md").read_text()
    assert describe_modalities(replace(run, recipe=replace(recipe, card_modalities=None))) == ""
    for count, splits, problem in ((1, data, "at least 2 rows"), (4, DataSplits({}, None), "no test or validation")):
        with pytest.raises(RecipeError, match=f"card_modalities is {count}, but .*{problem}"):
            check_card_modalities(replace(recipe, card_modalities=count), splits)

"""Run folders that an earlier version filled are measured, asked, repeated and resumed as they were."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from safetensors.torch import load_file

from .comparing import check_tensors, check_values, is_same_transformers, read_json
from .tiny_runs import ASKED, predict, run_command, tiny_runs

RUNS = Path(__file__).parent / "runs"
NAMES = sorted(folder.name for folder in RUNS.iterdir())
ALONE = [name for name in NAMES if name != "several_tasks"]
TOLERANCE = 1e-4  # rounding after some steps
DIGIT = 2e-6  # answers are written with six digits


@pytest.fixture(autouse=True, scope="module")
def quiet_and_private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One thread, and the data sets' cache in the tests' own folder."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets-cache"))
        yield


@pytest.fixture
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Returns a copy of a run's folder, in which commands may write."""
    shutil.copytree(RUNS / request.param, tmp_path / request.param)
    return tmp_path / request.param


def list_model_folders(run: Path) -> list[Path]:
    """Returns the folders of a run's models: the run itself, or one a task."""
    return [run] if (run / "model.safetensors").is_file() else sorted(p.parent for p in run.glob("*/model.safetensors"))


def read_lines(file: Path) -> list[Any]:
    """Returns the values of a file of lines of JSON."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def read_losses(run: Path) -> list[Any]:
    """Returns what was logged of the losses, step by step."""
    steps = [entry for entry in read_json(run / "history.json") if "learning_rate" in entry]
    return [{name: value for name, value in entry.items() if name.startswith("loss")} for entry in steps]


def check_run(found: Path, expected: Path) -> None:
    """Asserts that two runs trained the same models, and measured and logged the same."""
    for model in list_model_folders(expected):
        file = model.relative_to(expected) / "model.safetensors"
        check_tensors(load_file(found / file), load_file(expected / file), TOLERANCE)
    check_values(read_json(found / "metrics.json"), read_json(expected / "metrics.json"), TOLERANCE)
    check_values(read_losses(found), read_losses(expected), TOLERANCE)


def test_every_recipe_has_a_run() -> None:
    assert set(NAMES) == set(tiny_runs()) and set(ASKED) <= set(NAMES)


@pytest.mark.parametrize("folder", ALONE, indirect=True)
def test_evaluate_measures_what_training_measured(folder: Path) -> None:
    run_command(folder, "evaluate", "run", "--output", "scores.json")
    expected = read_json(folder / "run" / "metrics.json")["validation"]["model"]
    scores = read_json(folder / "scores.json")
    check_values({name: scores[name] for name in expected}, expected)


@pytest.mark.parametrize("folder", ["several_tasks"], indirect=True)
def test_a_model_of_several_tasks_is_measured_by_itself(folder: Path) -> None:
    data = ("--data", "answers.jsonl", "--metrics", "[accuracy]", "--output", "scores.json")
    run_command(folder, "evaluate", "run/answers", *data)
    expected = read_json(folder / "run" / "metrics.json")["answers"]["validation"]["model"]
    scores = read_json(folder / "scores.json")
    check_values({name: scores[name] for name in expected}, expected)


@pytest.mark.parametrize("folder", NAMES, indirect=True)
def test_predict_answers_as_before(folder: Path) -> None:
    (folder / "predictions").rename(folder / "expected")
    predict(folder, folder / "predictions")
    for file in (folder / "expected").iterdir():
        found, expected = read_lines(folder / "predictions" / file.name), read_lines(file)
        assert len(found) == len(expected)
        for line, before in zip(found, expected, strict=True):
            # since then a row keeps all its columns under their own names, and an answer steps aside for them
            same = {name: line.get(f"predicted_{name}", line.get(name)) for name in before if name in line}
            check_values(same, {name: before[name] for name in same}, DIGIT)
            assert all(before[name] in line.values() for name in before.keys() - line.keys())


@pytest.mark.parametrize("folder", NAMES, indirect=True)
def test_a_run_is_repeated_from_its_recipe(folder: Path) -> None:
    """Step by step; other versions of the libraries may draw other weights at the start."""
    run_command(folder, "train", "run/recipe.yaml", "--output_dir", "again")
    model = list_model_folders(folder / "run")[0]
    if is_same_transformers(model):
        check_run(folder / "again", folder / "run")
    losses = [value for step in read_losses(folder / "again") for value in step.values()]
    assert losses and all(math.isfinite(loss) for loss in losses)


@pytest.mark.parametrize("folder", ["interrupted"], indirect=True)
def test_a_run_is_resumed_from_its_checkpoint(folder: Path) -> None:
    """With the optimizer, the schedule and the average of the weights as they were left."""
    for file in ("model.safetensors", "metrics.json", "history.json", "README.md"):
        (folder / "run" / file).unlink()
    run_command(folder, "train", "run/recipe.yaml", "--resume")
    assert read_json(folder / "run" / "history.json")[-1]["step"] == 4
    check_run(folder / "run", RUNS / "interrupted" / "run")

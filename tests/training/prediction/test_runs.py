"""Trained runs: thresholds of several labels, paired evaluation, and several processes."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.recipes.errors import RecipeError
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe

from ..conftest import TEXT
from ..module_runner import run_module

WORDS = "good bad red blue warm cold big small".split()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with texts and two runs on them, `several` with several labels a row and `one` with one."""
    place = tmp_path_factory.mktemp("runs")
    texts = [[WORDS[(n * step + n // 7) % 8] for step in (1, 3, 5)] for n in range(48)]
    with (place / "data.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "said", "tags", "mood"])
        for n, words in enumerate(texts):
            tags = ";".join(word for word in ("red", "warm") if word in words) or ";"
            writer.writerow([f"{n:02d}", " ".join(words), tags, "up" if "good" in words else "down"])
    training = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no", "max_steps": 20,
                "learning_rate": 1e-2}  # fmt: skip
    for name, label, more in (("several", "tags", {"label_separator": ";"}), ("one", "mood", {})):
        data = {"source": str(place / "data.csv"), "columns": {"text": "said", "label": label}, **more}
        recipe = {
            "model": {"text": {"config": TEXT}},
            "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
            "data": {**data, "validation_fraction": 0.4},
            "training": training,
            "output_dir": str(place / name),
        }
        train(build_recipe(recipe), "plait train")
    return place


def read_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_labels_are_predicted_above_the_thresholds_of_the_validation_split(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(folder / "several")
    saved = json.loads((folder / "several" / "thresholds.json").read_text())
    assert saved["split"] == "validation" and set(saved["thresholds"]) == {"red", "warm"}
    assert all(saved["f1"][name] >= saved["f1_at_0.5"][name] for name in saved["f1"])
    arguments = ["predict", run, "--data", str(folder / "data.csv")]
    capsys.readouterr()
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert "above these thresholds, chosen on validation: red " in said.err
    for line in read_lines(said.out):
        chosen = [name for name, chance in line["probabilities"].items() if chance > saved["thresholds"][name]]
        assert line["label"] == chosen
    for given, expected in (("0.0", {"red", "warm"}), ("1.0", set())):
        assert main([*arguments, "--settings.thresholds", given, "--top-k", "1"]) == 0
        said = capsys.readouterr()
        lines = read_lines(said.out)
        assert f"above these thresholds: {given}" in said.err and len(lines) == 48
        assert all(set(line["label"]) == expected and len(line["top_k"]) == 1 for line in lines)
    assert main([*arguments, "--settings.thresholds", "{green: 0.1}"]) == 2
    assert "settings.thresholds has no key 'green'" in capsys.readouterr().err


def test_thresholds_are_chosen_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = folder / "several" / "thresholds.json"
    before = json.loads(file.read_text())
    file.write_text("{}")
    with pytest.raises(RecipeError, match="thresholds.json is damaged: `plait evaluate"):
        load_model_recipe(str(folder / "several"), {})
    file.unlink()
    assert "thresholds" not in load_model_recipe(str(folder / "several"), {}).settings
    assert main(["evaluate", str(folder / "several"), "--tune-thresholds"]) == 0
    assert "predict uses them from now on" in capsys.readouterr().out
    again = json.loads(file.read_text())
    assert again["thresholds"] == pytest.approx(before["thresholds"], abs=1e-5)
    assert main(["evaluate", str(folder / "one"), "--tune-thresholds"]) == 2
    assert "gives one label a row" in capsys.readouterr().err


def test_a_classifier_is_paired_with_another(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, run = tmp_path / "scores.json", str(folder / "one")
    assert main(["evaluate", run, "--beside", run, "--output", str(output)]) == 0
    scores = json.loads(output.read_text())
    for name, found in scores["intervals"].items():
        assert found["value"] == pytest.approx(scores[name]) and found["low"] <= found["value"] <= found["high"]
        assert found["minus"][run] == {"value": 0, "low": 0, "high": 0} and "majority" in found["minus"]
    assert main(["evaluate", run, "--beside", str(folder / "several")]) == 2
    assert "has other labels (red, warm instead of down, up)" in capsys.readouterr().err


@pytest.mark.parametrize("workers", [0, 1])
def test_an_evaluation_ends_at_a_row_with_nothing_in_it(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], workers: int
) -> None:
    (tmp_path / "bad.csv").write_text("said,mood\ngood red,up\n,down\nbad,down\n")
    arguments = ["evaluate", str(folder / "one"), "--data", str(tmp_path / "bad.csv")]
    loading = ["--training.dataloader_num_workers", str(workers)]
    assert main([*arguments, *loading]) == 2
    assert "row 1 of the data: there is nothing to read in this row; repair" in capsys.readouterr().err
    assert main([*arguments, *loading, "--data.on_error", "skip"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["torchrun", "accelerate", "plait"])
def test_several_processes_write_what_one_writes(folder: Path, tmp_path: Path, launcher: str) -> None:
    """The same rows in the same order, none lost or twice, and no file left of theirs."""
    given = ["--data", str(folder / "data.csv"), "--batch-size", "5", "--output"]
    assert main(["predict", str(folder / "one"), *given, str(tmp_path / "one.csv")]) == 0
    start = {
        "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "3", "-m"],
        "accelerate": ["accelerate.commands.launch", "--cpu", "--num_processes", "3", "--num_machines", "1",
                       "--mixed_precision", "no", "--dynamo_backend", "no", "-m"],
        "plait": [],
    }[launcher]  # fmt: skip
    end = ["--launch", "ddp", "--processes", "2"] if launcher == "plait" else []
    run_module(*start, "plait", "predict", str(folder / "one"), *given, str(tmp_path / "several.csv"), *end)
    one, several = (list(csv.DictReader((tmp_path / name).open(newline=""))) for name in ("one.csv", "several.csv"))
    assert [row["id"] for row in several] == [row["id"] for row in one] == [f"{n:02d}" for n in range(48)]
    for row, other in zip(several, one, strict=True):
        assert row["label"] == other["label"] and float(row["score"]) == pytest.approx(float(other["score"]), abs=2e-6)
        for name in ("probability_down", "probability_up"):
            assert float(row[name]) == pytest.approx(float(other[name]), abs=2e-6)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.csv", "several.csv"]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "intervals"), [("one", True), ("several", False)])
def test_two_processes_measure_what_one_measures(folder: Path, tmp_path: Path, name: str, intervals: bool) -> None:
    """On a number of rows that no batch of both divides."""
    table = (folder / "data.csv").read_text().splitlines(keepends=True)
    (tmp_path / "data.csv").write_text("".join(table[:38]))
    given = ["evaluate", str(folder / name), "--data", str(tmp_path / "data.csv"), *(["--intervals"] * intervals)]
    given += ["--training.per_device_eval_batch_size", "4", "--output"]
    assert main([*given, str(tmp_path / "one.json")]) == 0
    run_module("plait", *given, str(tmp_path / "two.json"), "--launch", "ddp", "--processes", "2")
    one, two = (json.loads((tmp_path / f"{count}.json").read_text()) for count in ("one", "two"))
    rows = [scores.pop("intervals", {}) for scores in (one, two)]
    assert one.keys() == two.keys() and two == pytest.approx(one, abs=1e-6)
    assert rows[0].keys() == rows[1].keys() and bool(rows[0]) == intervals
    for metric, found in rows[0].items():
        assert rows[1][metric]["value"] == pytest.approx(found["value"], abs=1e-6)
        assert [rows[1][metric][end] for end in ("low", "high")] == pytest.approx(
            [found["low"], found["high"]], abs=1e-6
        )


def test_predictions_in_python_are_those_of_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folder / "several")
    (answer,) = predict(run, [{"text": "red warm"}], load_model_recipe(run, {}))
    capsys.readouterr()
    assert main(["predict", run, "--text", "red warm"]) == 0
    assert read_lines(capsys.readouterr().out) == [{"text": "red warm", **answer}]

"""What the commands print: text, one JSON object, or results alone; and the loggers of a run."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from plait.training.cli import main

from ..reports.report_runs import build_content


def write_recipe(folder: Path, name: str = "numbers", **training: Any) -> str:
    content = build_content(name, folder)
    content["metrics"] = ["mae"] if name == "numbers" else []
    del content["training"]["disable_tqdm"]
    content["training"] |= {"num_train_epochs": 1, **training}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def test_json_is_one_object_and_progress_goes_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", write_recipe(tmp_path), "--json"]) == 0
    trained = capsys.readouterr()
    results = json.loads(trained.out)
    run = tmp_path / "run"
    assert results["results"] == json.loads((run / "metrics.json").read_text())
    assert results["output_dir"] == str(run) and results["report"] is None
    assert "train_runtime" in trained.err
    assert main(["evaluate", str(run), "--json"]) == 0
    measured = json.loads(capsys.readouterr().out)
    assert measured["mae"] == pytest.approx(results["results"]["validation"]["model"]["mae"], abs=1e-6)
    (run / "history.json").write_text("[]")
    assert main(["check", str(run), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)[str(run)]
    assert len(found["problems"]) == 1 and "history.json" in found["problems"][0]


def test_quiet_prints_the_results_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["train", write_recipe(tmp_path), "--quiet"]) == 0
    printed = capfd.readouterr()
    assert [line.split("=")[0].split()[-1] for line in printed.out.splitlines()[:-1]] == ["loss", "mae"]
    assert printed.out.splitlines()[-1] == f"saved in {tmp_path / 'run'}"
    assert "'loss'" not in printed.err and "it/s" not in printed.err


@pytest.mark.parametrize(
    ("logger", "said"),
    [
        ("trackio", "pip install trackio"),
        ("tensorbord", "did you mean 'tensorboard'"),
        ("mlflow", "pip install mlflow"),
    ],
)
def test_a_logger_that_is_not_there_is_an_error_before_work(
    logger: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", write_recipe(tmp_path, report_to=[logger])]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_tensorboard_gets_losses_and_grids(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(["train", write_recipe(tmp_path, "drawings", report_to=["tensorboard"])]) == 0
    files = sorted((tmp_path / "run").rglob("events.out.tfevents.*"))
    tags: dict[str, set[str]] = {"scalars": set(), "images": set()}
    for file in files:
        read = events.EventAccumulator(str(file)).Reload().Tags()
        tags = {kind: names | set(read[kind]) for kind, names in tags.items()}
    assert {"train/loss", "eval/image_mse"} <= tags["scalars"] and tags["images"] == {"images"}

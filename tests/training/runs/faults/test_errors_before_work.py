"""What a command refuses, it refuses before any work, in a line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from plait.training.cli import main

Run = Callable[..., tuple[int, str]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", "-1"), "seed is -1: expected a whole number from 0"),
        (("--training.num_train_epochs", "-2"), "training.num_train_epochs is -2: expected at least 0"),
        (("--training.num_train_epochs", "0"), "training.num_train_epochs is 0: expected more"),
        (("--training.max_steps", "0"), "training.max_steps is 0: expected at least 1"),
        (("--training.per_device_train_batch_size", "0"), "per_device_train_batch_size is 0: expected at least 1"),
        (("--training.per_device_eval_batch_size", "0"), "per_device_eval_batch_size is 0: expected at least 1"),
        (("--training.gradient_accumulation_steps", "0"), "gradient_accumulation_steps is 0: expected at least 1"),
        (("--compare.bootstrap", "-5"), "compare.bootstrap is -5: expected at least 100"),
        (("--compare.seeds", "[0, -3]"), "compare.seeds[1] is -3: expected a whole number from 0"),
    ],
)
def test_numbers_out_of_range_are_found_before_anything_is_read(
    run: Run, tmp_path: Path, arguments: tuple[str, str], message: str
) -> None:
    code, line = run(tmp_path / "run", "--data.source", "nothing.csv", *arguments)
    assert code == 2 and message in line


def test_outputs_are_checked_before_any_work(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "answers.jsonl"
    output.write_text("old\n")
    line = ["predict", str(whole), "--text", "it is red"]
    for arguments, message in (
        (["--output", str(output)], "exists: --overwrite replaces it"),
        (["--output", str(tmp_path / "no" / "answers.jsonl")], "there is no folder"),
        (["--batch-size", "0"], "--batch-size is 0: expected at least 1"),
    ):
        assert main([*line, *arguments]) == 2 and message in capsys.readouterr().err
    assert output.read_text() == "old\n"
    assert main([*line, "--output", str(output), "--overwrite"]) == 0
    assert json.loads(output.read_text())["label"] in ("red", "blue")
    assert main(["evaluate", str(whole), "--output", str(output)]) == 2
    assert "exists: --overwrite replaces it" in capsys.readouterr().err


def test_a_traceback_is_shown_on_request(run: Run, recipe: Path, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    line = ["train", str(recipe), "--output_dir", str(tmp_path / "run"), "--data.source", "typo.csv"]
    assert main([*line, "--traceback"]) == 2
    assert "Traceback" in capfd.readouterr().err

"""`plait doctor` names every planted mistake, and says nothing against a sound recipe."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from plait.training import doctor
from plait.training.cli import main
from plait.training.diagnosis.findings import Diagnosis
from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import build_recipe

from .clinic import COLOURS, MISTAKES, Case, use_images, write_rows

FACTOR = 1.6  # between the estimate of memory and the peak
QUICK = {"shared_rows", "label_in_the_text", "label_under_another_name", "texts_that_are_cut"}
QUICK |= {"rows_without_an_input", "a_frozen_head", "the_worst_is_the_best", "an_evaluation_without_rows"}
CASES = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in MISTAKES]


def examine(content: dict[str, Any], **options: Any) -> Diagnosis:
    return doctor(build_recipe(content), show=lambda line: None, **options)


@pytest.mark.parametrize("name", CASES)
def test_a_planted_mistake_is_named(name: str, tmp_path: Path) -> None:
    case = Case()
    change, level, check, words = MISTAKES[name]
    change(case, tmp_path)
    found = examine(case.write(tmp_path))
    named = [line for line in found.findings if (line.level, line.check) == (level, check) and words in line.message]
    assert named, found.describe()
    assert level == "ok" or named[0].remedy or check == "recipe"
    assert found.is_sound == (level != "error")


@pytest.mark.parametrize("has_images", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_sound_recipe_has_no_warning_and_is_left_alone(has_images: bool, tmp_path: Path) -> None:
    case = Case()
    if has_images:
        use_images(case, tmp_path)
    content = case.write(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    found = examine(content)
    assert not found.warnings and not found.errors, found.describe()
    assert found.facts["one_batch"]["right"] == 1.0
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_prints_as_it_finds_and_ends_with_its_code(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case()
    case.content["max_length"] = 6
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(case.write(tmp_path)))
    page = tmp_path / "page"
    assert main(["doctor", str(recipe), "--output", str(page)]) == 0  # a warning is no error
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].startswith("0 errors, 1 warning in ")
    assert "cut at 6 tokens" in (page / "doctor.html").read_text() and not (tmp_path / "run").exists()
    assert main(["doctor", str(recipe), "--json", "--training.learning_rate", "0"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["errors"] == 2 and found["facts"]["tokens"]["text"]["cut"] == 1.0
    assert main(["doctor", str(recipe), "--training.learning_rte", "0"]) == 2
    assert "learning_rate" in capsys.readouterr().err


@pytest.mark.slow
def test_rows_are_shown_as_the_model_reads_them(tmp_path: Path) -> None:
    case = Case()
    use_images(case, tmp_path)
    found = examine(case.write(tmp_path), output=tmp_path / "page")
    sample = found.facts["samples"][0]
    assert sample["inputs"]["input_ids"].startswith("[CLS]") and sample["labels"] in ("food", "music", "sport")
    written = Image.open(tmp_path / "page" / f"row-{sample['row']}-image-1.png").convert("RGB")
    expected = COLOURS[sample["labels"]]
    assert written.size == (24, 24)
    near = int((np.abs(np.asarray(written).astype(int) - expected).max(axis=2) < 3).sum())
    assert near > 24 * 24 * 0.85


def test_a_table_is_examined_as_it_would_be_trained(tmp_path: Path) -> None:
    case = Case()
    case.write(tmp_path)
    with pytest.raises(RecipeError, match="colour"):
        doctor(tmp_path / "train.csv", target="colour", show=lambda line: None)


@pytest.mark.slow
def test_several_tasks_are_examined_one_by_one(tmp_path: Path) -> None:
    case = Case()
    content = case.write(tmp_path)
    own = {"task": "classification", "data": content.pop("data")}
    found = examine({**content, "tasks": {"one": own, "two": {**own, "max_length": 6}}})
    assert {finding.task for finding in found.findings} == {"one", "two"}
    assert [finding.task for finding in found.warnings] == ["two"], found.describe()
    assert found.facts["one"]["one_batch"]["right"] == 1.0


def test_a_part_that_reads_no_image_cannot_tell_rows_apart(tmp_path: Path) -> None:
    case = Case()
    for row in case.train:
        row["text"] = "what is it ?"
    found = examine(case.write(tmp_path))
    batch = next(finding for finding in found.errors if finding.check == "one batch")
    assert "have equal inputs and other labels" in batch.message


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_of_memory_is_near_the_peak_of_a_training(checkpointing: bool, tmp_path: Path) -> None:
    """Measured in a process of its own, on a model whose training is larger than the program."""
    case = Case()
    case.train = write_rows(48, 1, words=100)
    size = {"hidden_size": 384, "num_hidden_layers": 8, "num_attention_heads": 6, "max_position_embeddings": 128}
    case.content["model"] = {"text": {"config": size}}
    case.training.update({"per_device_train_batch_size": 48, "max_steps": 2, "gradient_checkpointing": checkpointing})
    del case.training["num_train_epochs"]
    content = case.write(tmp_path)
    estimate = examine(content).facts["memory"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    code = "import resource, sys; from plait.training.cli import main; main(sys.argv[1:]); "
    code += "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)"
    command = [sys.executable, "-c", code, "train", str(tmp_path / "recipe.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    peak = int(done.stdout.rpartition("peak ")[2])
    assert peak / FACTOR < estimate["total"] < FACTOR * peak, (peak, estimate)

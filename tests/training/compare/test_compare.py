"""A comparison end to end, on made data of which one modality alone tells half."""

import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from PIL import Image
from transformers import AutoModelForSequenceClassification, AutoProcessor

from plait.training.cli import main
from plait.training.compare.comparison import check_single_process, compare
from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import load_recipe

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
COLOURS = {"red": (220, 30, 30), "blue": (40, 60, 230)}


def write_rows(folder: Path, rows: int) -> Path:
    """The label is the word of the text and the colour of the square: either alone tells half of it."""
    lines = []
    for number in range(rows):
        word, colour = ("red", "blue")[number % 2], ("red", "blue")[number // 2 % 2]
        shade = tuple(max(0, value - number) for value in COLOURS[colour])
        Image.new("RGB", (16, 16), shade).save(folder / f"{number}.png")
        row = {"text": f"it is {word} {number}", "image": f"{number}.png", "label": f"{word} on {colour}"}
        lines.append(json.dumps(row))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder / "train.jsonl"


def write_recipe(folder: Path, **compared: Any) -> Path:
    content = {
        "task": "classification",
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 16}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "fusion_config": TINY,
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": str(write_rows(folder, 48))},
        "training": {"use_cpu": True, "per_device_train_batch_size": 8, "num_train_epochs": 30, "learning_rate": 5e-3},
        "metrics": ["accuracy", "f1_macro"],
        "compare": {"folds": 2, "fusions": ["early", "late"], "bootstrap": 200, **compared},
        "output_dir": str(folder / "compared"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a finished comparison, only to be read, and what was printed."""
    folder = tmp_path_factory.mktemp("compare")
    with redirect_stdout(StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLAIT_REPORT", "1")
        assert main(["compare", str(write_recipe(folder))]) == 0
    return folder / "compared", printed.getvalue()


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "compare.json").read_text())


def test_fusion_helps_where_it_must(finished: tuple[Path, str]) -> None:
    content = read(finished[0])
    scores = {row["name"]: row["value"] for row in content["systems"]}
    assert list(scores) == ["text", "image", "early", "late"]
    assert scores["text"] < 0.7 and scores["image"] < 0.7
    assert scores["early"] > 0.9
    assert content["best_fusion"] == "early" and content["verdict"] == "fusion helps"
    assert content["majority"] == pytest.approx(0.25, abs=0.05)


def test_intervals_hold_their_values(finished: tuple[Path, str]) -> None:
    for row in read(finished[0])["systems"]:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["gain"]["low"] <= row["gain"]["value"] <= row["gain"]["high"]
        assert 0 < row["trainable"] == row["parameters"]
        assert row["steps"] == 90 and row["seconds"] > 0


def test_the_audit_shows_that_both_are_looked_at(finished: tuple[Path, str]) -> None:
    audit = read(finished[0])["audit"]["early"]
    changed = {f"{kind} {m}" for kind in ("only", "shuffled", "blank") for m in ("text", "image")}
    assert set(audit) == {*changed, "only text + image"}
    for scores in (audit[name] for name in changed):
        assert scores["value"] < 0.75
        assert scores["lost"]["low"] > 0


def test_patterns_of_missing_modalities_stand_beside_the_singles(finished: tuple[Path, str]) -> None:
    content = read(finished[0])
    scores = {row["name"]: row for row in content["systems"]}
    audit = content["audit"]["early"]
    assert audit["only text"]["single"] == "text"
    gained = audit["only text"]["value"] - scores["text"]["value"]
    assert audit["only text"]["gain"]["value"] == pytest.approx(gained)
    assert audit["only text + image"]["value"] == scores["early"]["value"]
    assert audit["only text + image"]["lost"] == {"value": 0, "low": 0, "high": 0}


def test_the_best_fusion_is_kept_with_the_comparison_in_its_card(finished: tuple[Path, str]) -> None:
    best = finished[0] / "best"
    card = (best / "README.md").read_text()
    assert "Fusion helps" in card and "## What if a modality is missing?" in card and "48 rows for train" in card
    model, processor = AutoModelForSequenceClassification.from_pretrained(best), AutoProcessor.from_pretrained(best)
    assert model.config.fusion_config.strategy == "early"
    picture = Image.new("RGB", (16, 16), COLOURS["blue"])
    logits = model(**processor(text=["it is red 3"], images=[picture], return_tensors="pt")).logits
    assert model.config.id2label[int(logits.argmax())] == "red on blue"
    assert main(["evaluate", str(best), "--data.max_rows", "8"]) == 0


def test_the_plot_is_a_picture(finished: tuple[Path, str]) -> None:
    with Image.open(finished[0] / "compare.png") as picture:
        assert picture.width > picture.height > 300
        assert len(set(picture.convert("L").resize((64, 64)).tobytes())) > 8


def test_the_best_is_also_chosen_without_the_rows_it_is_measured_on(finished: tuple[Path, str]) -> None:
    """early is the best on every fold here, and neither single tells more than half."""
    fair = read(finished[0])["chosen_elsewhere"]
    assert 0.2 < fair["low"] <= fair["value"] <= fair["high"]


def test_the_page_and_the_console_say_the_same(finished: tuple[Path, str]) -> None:
    page = (finished[0] / "README.md").read_text()
    for text in (page, finished[1]):
        assert "Fusion helps**: early (best fusion)" in text
        assert "| always the majority | 0.2" in text
    assert "plait compare" in page and "| early |" in page
    assert "<h2>Paired differences in " in (finished[0] / "report.html").read_text()
    assert f"open {finished[0] / 'report.html'}" in finished[1]
    content = read(finished[0])
    gain = content["fusion_minus_single"]
    assert content["pairs"][content["best_fusion"]][content["best_single"]] == gain
    back = content["pairs"][content["best_single"]][content["best_fusion"]]
    assert back["value"] == -gain["value"] and back["low"] == pytest.approx(-gain["high"])


def test_a_comparison_goes_on_where_it_stopped(finished: tuple[Path, str], tmp_path: Path) -> None:
    """Finished cells are kept, a missing one is trained to the same numbers, another fusion may join."""
    folder, before = finished[0], read(finished[0])
    cells = folder / "cells"
    lost = cells / "early-fold1-seed0.npz"
    times = {path.name: path.stat().st_mtime_ns for path in cells.iterdir()}
    lost.unlink()
    recipe = load_recipe(folder / "compare.yaml")
    compare(recipe, "plait compare", resume=True)
    after = read(folder)
    assert [row["value"] for row in after["systems"]] == [row["value"] for row in before["systems"]]
    changed = {path.name for path in cells.iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert changed == {lost.name}


def test_nothing_is_overwritten_unasked(finished: tuple[Path, str]) -> None:
    recipe = load_recipe(finished[0] / "compare.yaml")
    with pytest.raises(RecipeError, match="--overwrite replaces it, --resume continues it"):
        compare(recipe, "plait compare")
    other = load_recipe(finished[0] / "compare.yaml", {"training.learning_rate": 0.1})
    with pytest.raises(RecipeError, match=r"training.learning_rate: 0.005 there, 0.1 here"):
        compare(other, "plait compare", resume=True)


def test_several_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    check_single_process()
    monkeypatch.setattr("accelerate.PartialState", lambda: SimpleNamespace(num_processes=2))
    with pytest.raises(RecipeError, match="compare runs in one process, and this is one of 2"):
        check_single_process()

"""`plait compare` and `plait train retrieval` of shipped recipes need no overrides beyond columns and towers."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from plait.training.commands import run_recipe
from plait.training.compare.comparison import compare
from plait.training.compare.experiment import Experiment
from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import load_recipe

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
IMAGE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
OWN: dict[str, Any] = {"model.text": {"config": TEXT}, "model.image": {"config": IMAGE}}
QUICK: dict[str, Any] = {
    "training.use_cpu": True,
    "training.disable_tqdm": True,
    "training.probe_products": False,
    "training.num_train_epochs": 1,
    "training.per_device_train_batch_size": 8,
}


def write_posts(folder: Path, labels: list[Any], pictures: dict[str, Path]) -> Path:
    rows = [
        {"words": f"{colour} {number}", "photo": str(path), "kind": labels[number % len(labels)]}
        for number in range(14)
        for colour, path in pictures.items()
    ]
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


COLUMNS = {"text": "words", "image": "photo", "label": "kind"}


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        pytest.param("image_text", ["a", "b"], id="image_text", marks=pytest.mark.slow),
        pytest.param("image_text", [0.5, 1.5], id="image_text-numbers", marks=pytest.mark.slow),
        pytest.param("regression", [0.5, 1.5], id="regression", marks=pytest.mark.slow),
        pytest.param("multi_label", ["a;b", "b"], id="multi_label", marks=pytest.mark.slow),
        pytest.param("sentiment", ["a", "b"], id="sentiment", marks=pytest.mark.slow),
    ],
)
def test_a_shipped_recipe_is_compared(tmp_path: Path, pictures: dict[str, Path], name: str, labels: list[Any]) -> None:
    """Three pictures join all rows into three groups: rows are kept together by fewer columns, and the best epoch is
    chosen although validation is what is tested."""
    source = {"data.source": str(write_posts(tmp_path, labels, pictures)), "data.columns": COLUMNS}
    few = {"compare.fusions": ["late"], "compare.singles": ["text"], "compare.keep_best": False}
    few |= {"compare.folds": 2, "compare.seeds": [0]} if name == "sentiment" else {}
    few |= {"compare.group_by": ["text"], "compare.bootstrap": 100}
    recipe = load_recipe(name, {**QUICK, **OWN, **source, **few, "output_dir": str(tmp_path / "run")})
    found = compare(recipe, "plait compare")
    assert {system["name"] for system in found.content["systems"]} >= {"text", "late"}


def test_few_groups_leave_the_text_out_of_them(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """Rows of two texts and many pictures: joined they are one group, by picture many."""
    from PIL import Image

    rows = []
    for number in range(24):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (16, 16), (number * 10, 0, 0)).save(path)
        rows += [{"text": text, "image": str(path), "label": "ab"[number % 2]} for text in ("what ?", "which ?")]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    source = {"data.source": str(tmp_path / "rows.parquet"), "compare.folds": 2}
    experiment = Experiment(load_recipe("image_text", {**QUICK, **OWN, **source}))
    assert (experiment.group_columns, int(experiment.groups.max()) + 1) == (["image"], 24)
    with pytest.raises(RecipeError, match="compare.group_by: only 2 groups of test rows"):
        Experiment(load_recipe("image_text", {**QUICK, **OWN, **source, "compare.group_by": ["text"]}))


@pytest.mark.parametrize("sides", ["image", pytest.param("document", marks=pytest.mark.slow)])
def test_retrieval_with_own_towers(tmp_path: Path, pictures: dict[str, Path], sides: str) -> None:
    rows = [
        {"words": f"a {colour} square {number}", "picture": str(path), "answer": f"{number} is {colour}"}
        for number in range(6)
        for colour, path in pictures.items()
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    columns = {"text": "words", sides: "picture" if sides == "image" else "answer"}
    towers = OWN if sides == "image" else {"model.text": OWN["model.text"]}
    changes = {"data.source": str(tmp_path / "rows.parquet"), "data.columns": columns, "data.validation_fraction": 0.4}
    recipe = load_recipe("retrieval", {**QUICK, **towers, **changes, "output_dir": str(tmp_path / "run")})
    results = run_recipe(recipe, "plait train retrieval")
    assert results["validation"]["model"]["mean_recall"] > 0

"""The recipes that come with plait, each run for two steps on made data, with towers small enough for that."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from plait.training.recipe import find_recipe, load_recipe
from plait.training.run import train

from .text_recipes import MODELS, recipe_for

# recipe: the made data it is run on
TRIED = {
    "translation": "translation",
    "summarization": "translation",
    "captioning": "captioning",
    "visual_question_answering": "captioning",
    "question_answering": "question_answering",
    "dialogue": "dialogue",
    "causal_lm": "causal_lm",
}
SMALL = {"train": {"vocab_size": 340, "min_frequency": 1}}


def test_every_text_recipe_is_tried() -> None:
    folder = find_recipe("translation").parent
    named = {path.stem for path in folder.glob("*.yaml")}
    others = ("classification", "masked_lm", "pretraining", "retrieval")
    writing = {name for name in named if load_recipe(name).task not in others}
    assert writing == set(TRIED)


@pytest.mark.parametrize("name", TRIED)
def test_a_bundled_recipe_runs(tmp_path: Path, pictures: dict[str, Path], name: str) -> None:
    made = recipe_for(TRIED[name], tmp_path, pictures)
    shipped = yaml.safe_load(find_recipe(name).read_text())
    model: dict[str, Any] = {**MODELS[TRIED[name]]}
    if "decoder_config" in shipped["model"]:
        model["decoder_config"] = shipped["model"]["decoder_config"]
    changes: dict[str, Any] = {
        "model": model,
        "tokenizer": SMALL,
        "data": {"source": made["data"]["source"]},
        "output_dir": str(tmp_path / "run"),
        "training.max_steps": 2,
        "training.use_cpu": True,
        "training.disable_tqdm": True,
        "training.cache_features": [],
        "training.learning_rates": None,
        "generation.max_new_tokens": 8,
    }
    if name == "causal_lm":
        changes["settings.block_size"] = 16
    if name == "question_answering":
        changes |= {"settings.doc_stride": 12, "max_length": 44}
        del changes["generation.max_new_tokens"]
    recipe = load_recipe(name, changes)
    results = train(recipe, "plait train")
    best = recipe.training.get("metric_for_best_model", "loss")
    assert best in results["validation"]["model"]
    assert {"model.safetensors", "README.md", "metrics.json", "recipe.yaml"} <= {
        path.name for path in (tmp_path / "run").iterdir()
    }

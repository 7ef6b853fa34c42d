"""The recipes that come with plait, each run for two steps on made data, with towers small enough for that."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from datasets import Dataset

from plait import PlaitForImageGeneration
from plait.training.commands import run_recipe as train
from plait.training.recipes.files import find_recipe
from plait.training.runs.recipe import load_recipe

from ..data.test_media import square, write_rows
from ..text_recipes import MODELS, recipe_for

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
    others = ("classification", "masked_lm", "pretraining", "retrieval", "image_generation", "image_autoencoding")
    writing = {name for name in named if load_recipe(name).task not in others}
    others_tried = {"visual_chat", "preference", "grpo", "reward"}  # by tests/training/tasks and tests/training/rewards
    assert writing == {*TRIED, *others_tried}


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


def moving_squares(folder: Path) -> Path:
    """Squares that go to the left or to the right, three frames each."""
    places = [(2, 5, 9) if number % 2 else (9, 5, 2) for number in range(20)]
    rows = [
        {"video": [square(place, number) for place in way], "label": ("left", "right")[number % 2]}
        for number, way in enumerate(places)
    ]
    Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


SHORT: dict[str, Any] = {"training.max_steps": 2, "training.use_cpu": True, "training.disable_tqdm": True}
FRAMES = {"model_type": "plait_vision", "hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("modality", ["audio", "video"])
def test_a_recipe_of_sound_or_video_runs(tmp_path: Path, modality: str) -> None:
    """Sound as it is shipped; of video everything but the pretrained image tower."""
    changes = {**SHORT, "output_dir": str(tmp_path / "run")}
    if modality == "audio":
        changes |= {"data.source": str(write_rows(tmp_path, "bytes"))}
    else:
        shipped = load_recipe("video_classification").model.options["video_config"]
        config = {**shipped, "image_config": {**FRAMES, "image_size": 16, "patch_size": 8}}
        changes |= {"data.source": str(moving_squares(tmp_path)), "model": {"video": {"config": config}}}
    results = train(load_recipe(f"{modality}_classification", changes), "plait train")
    assert {"loss", "accuracy", "f1_macro"} <= set(results["validation"]["model"])
    assert f"{modality}-classification" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("name", ["image_generation", "easy_vqa_pictures", "emoji_pictures"])
def test_a_recipe_of_image_generation_runs(tmp_path: Path, pictures: dict[str, Path], name: str) -> None:
    """Everything as it is shipped but the pretrained text tower and the sizes."""
    rows = [{"text": f"a {colour} square", "image": str(path)} for colour, path in pictures.items()] * 30
    Dataset.from_list(rows).to_parquet(tmp_path / "rows.parquet")
    text = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
    sizes = {"image_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    changes = {
        **SHORT,
        "output_dir": str(tmp_path / "run"),
        "data.source": str(tmp_path / "rows.parquet"),
        "data.columns": {"text": "text", "target_image": "image"},
        "data.validation_fraction": 0.4,
        "tokenizer": SMALL,
        "model.text": {"config": text},
        "model.options": {**load_recipe(name).model.options, **sizes},
        "settings.num_inference_steps": 2,
        "training.feature_cache_dir": str(tmp_path / "features"),
    }
    if name != "image_generation":
        changes["training.lr_scheduler_kwargs"] = {"num_decay_steps": 1}
    results = train(load_recipe(name, changes), "plait train")
    assert results["validation"]["model"]["loss"] > 0
    card = (tmp_path / "run" / "README.md").read_text()
    assert "text-to-image" in card and "from plait import PlaitForImageGeneration" in card
    assert PlaitForImageGeneration.from_pretrained(tmp_path / "run").condition_scale.is_fitted

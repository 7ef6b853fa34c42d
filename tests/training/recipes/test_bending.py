"""Recipes that come with plait bend to what the user changes; what the user names stays, mistakes are errors."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from plait.training.commands import run_recipe
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import find_recipe
from plait.training.runs.recipe import build_recipe, load_recipe

SHIPPED = sorted(path.stem for path in find_recipe("translation").parent.glob("*.yaml"))
CLASSIFYING = [name for name in SHIPPED if load_recipe(name).task == "classification" and not name.startswith("easy")]
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
IMAGE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16, "patch_size": 8}
QUICK: dict[str, Any] = {
    "training.max_steps": 2,
    "training.use_cpu": True,
    "training.disable_tqdm": True,
    "training.probe_products": False,
}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_recipe_begins_with_what_it_does_and_the_command(name: str) -> None:
    first, second = find_recipe(name).read_text().splitlines()[:2]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert second.startswith((f"# plait train {name}", f"# plait compare {name}"))


@pytest.mark.parametrize("name", [name for name in CLASSIFYING if load_recipe(name).model.image])
@pytest.mark.parametrize("way", ["columns", "column", "tower"])
def test_what_belongs_to_a_modality_goes_with_it(name: str, way: str) -> None:
    shipped = load_recipe(name)
    if shipped.model.text is None:
        return
    changes: dict[str, dict[str, Any]] = {
        "columns": {"data.columns": {"text": "words", "label": "kind"}},
        "column": {"data.columns.image": None},
        "tower": {"model.image": None},
    }
    recipe = load_recipe(name, changes[way])
    assert (recipe.model.image, recipe.model.query) == (None, None)
    assert recipe.model.fusion in (None, "early")
    assert set(recipe.data.columns) == {"text", "label"}
    named = [
        *recipe.model.freeze,
        *recipe.training.get("cache_features", ()),
        *recipe.training.get("learning_rates", {}),
    ]
    assert "image" not in named
    assert ("text" in named) == ("text" in [*shipped.model.freeze, *shipped.training.get("learning_rates", {})])


def test_what_the_user_names_stays() -> None:
    own = {"data.columns": {"text": "words", "label": "kind"}, "model.image": "some/tower", "model.fusion": "late"}
    recipe = load_recipe("image_text", own)
    assert (recipe.model.image, recipe.model.fusion) == ("some/tower", "late")
    assert recipe.training["learning_rates"] == {"text": 1e-5, "image": 1e-5}
    with pytest.raises(RecipeError, match=r"training.learning_rates: the model has no part 'image', but text"):
        load_recipe("image_text", {"model.image": None, "training.learning_rates": {"image": 1e-5}})


@pytest.mark.parametrize(
    "key", ["model.freeze", "training.frozen", "training.learning_rates", "training.cache_features"]
)
def test_a_misspelled_part_is_an_error_with_the_nearest(key: str) -> None:
    value = {"imgae": 1e-5} if key.endswith("rates") else ["imgae"]
    with pytest.raises(RecipeError, match=rf"{key}: unknown part 'imgae': .* did you mean 'image'"):
        load_recipe("image_text", {key: value})


def test_a_part_that_is_not_there_is_an_error_in_the_users_own_recipe() -> None:
    own = {"model": {"text": "some/text", "freeze": ["image"]}}
    with pytest.raises(RecipeError, match="model.freeze: the model has no part 'image', but text: leave it out"):
        build_recipe(own)


def test_frozen_and_new_towers_need_no_further_override() -> None:
    """A tower that the user freezes has no learning rate, one that the user trains no cache, a new one is trained."""
    assert load_recipe("image_text", {"model.freeze": ["text"]}).training["learning_rates"] == {"image": 1e-5}
    assert load_recipe("sentiment", {"model.freeze": ["text"]}).training["cache_features"] == ["text"]
    recipe = load_recipe("retrieval", {"model.text": {"config": TEXT}})
    assert (recipe.model.freeze, recipe.training["cache_features"]) == (["image"], ["image"])
    assert recipe.tokenizer is not None and recipe.tokenizer.train == {"vocab_size": 8000}


def test_a_loaded_model_takes_the_place_of_the_towers() -> None:
    recipe = load_recipe("image_text", {"model.from_pretrained": "runs/mine"})
    assert (recipe.model.text, recipe.model.image, recipe.model.fusion) == (None, None, None)
    assert load_recipe("dialogue", {"model.decoder": "some/decoder"}).model.from_pretrained is None


def test_parts_that_get_adapters_are_not_frozen_cached_or_slowed_down() -> None:
    """Those that the recipe trains or, if it freezes all, all; with a target, that alone."""
    recipe = load_recipe("image_text", {"lora": {"r": 4}})
    assert recipe.training["learning_rates"] == {}
    assert load_recipe("image_text", {"lora": {"target": "text"}}).training["learning_rates"] == {}
    recipe = load_recipe("sentiment", {"lora": {"r": 4}})
    assert (recipe.model.freeze, recipe.training["cache_features"]) == ([], [])
    recipe = load_recipe("captioning", {"lora": {"r": 4}})
    assert (recipe.model.freeze, recipe.training["learning_rates"]) == (["image"], {})
    for source in ({}, {"model.from_pretrained": "runs/visual-chat"}):
        recipe = load_recipe("visual_chat", {**source, "lora": {"target": "decoder"}})
        assert (recipe.model.freeze, recipe.training["cache_features"]) == (["image"], ["image"])


def write_targets(folder: Path, kind: str, pictures: dict[str, Path]) -> Path:
    labels = {"numbers": [0.5, 1.5, 2.5], "lists": [["a"], ["a", "b"], ["b"]], "classes": ["a", "b", "a"]}[kind]
    rows = [
        {"text": f"a {colour} square", "image": str(path), "label": label}
        for (colour, path), label in zip(pictures.items(), labels, strict=True)
    ]
    Dataset.from_list(rows * 8).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


KINDS = {"numbers": ("mae", "label"), "lists": ("f1_macro", "label"), "classes": ("f1_macro", "label")}
CASES = [
    pytest.param(name, kind, marks=[] if (name, kind) in QUICK_CASES else pytest.mark.slow)
    for QUICK_CASES in [{("image_text", "numbers")}]
    for name in CLASSIFYING
    for kind in KINDS
    if (name, kind) not in {("regression", "lists"), ("regression", "classes"), ("multi_label", "numbers")}
    and "audio" not in name
    and "video" not in name
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_metrics_loss_and_stopping_follow_the_target(
    tmp_path: Path, pictures: dict[str, Path], name: str, kind: str
) -> None:
    shipped = load_recipe(name)
    towers: dict[str, Any] = {"text": {"config": TEXT}, "image": {"config": IMAGE}}
    changes = {f"model.{part}": tower for part, tower in towers.items() if getattr(shipped.model, part) is not None}
    source = {"data.source": str(write_targets(tmp_path, kind, pictures)), "data.validation_fraction": 0.4}
    columns = {
        "data.columns": {part.partition(".")[2]: part.partition(".")[2] for part in changes} | {"label": "label"}
    }
    recipe = load_recipe(name, {**QUICK, **changes, **source, **columns, "output_dir": str(tmp_path / "run")})
    results = run_recipe(recipe, "plait train")
    measured = results["validation"]["model"]
    assert set(recipe.metrics or ()) <= set(measured)
    assert {"numbers": "mae", "lists": "f1_macro", "classes": "accuracy"}[kind] in measured

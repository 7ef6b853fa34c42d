"""Recipes: yaml, overrides, and errors that help."""

from pathlib import Path

import pytest

from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import find_differences, find_recipe, parse_overrides, save_recipe
from plait.training.recipes.schema import Recipe
from plait.training.runs.folder import RUN_FOLDER
from plait.training.runs.recipe import build_recipe, load_recipe

RECIPE = """
task: classification
model: {text: some/text, image: {config: {image_size: 64}}, fusion: early, freeze: [text]}
data: {source: data.csv, columns: {text: question, label: answer}}
training: {learning_rate: 1e-4, num_train_epochs: 2}
output_dir: run
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_recipe_is_read_with_overrides(file: Path) -> None:
    overrides = parse_overrides(["--training.learning_rate", "3e-5", "--seed=7", "--metrics", "[accuracy]"])
    recipe = load_recipe(file, overrides)
    assert recipe.training == {"learning_rate": 3e-5, "num_train_epochs": 2}
    assert (recipe.seed, recipe.metrics, recipe.model.freeze) == (7, ["accuracy"], ["text"])


def test_a_number_without_a_point_is_a_number(file: Path) -> None:
    assert load_recipe(file).training["learning_rate"] == pytest.approx(1e-4)


def test_yes_and_no_are_words(file: Path) -> None:
    overrides = parse_overrides(
        ["--data.labels", "[no, yes]", "--training.save_strategy", "no", "--training.bf16", "true"]
    )
    recipe = load_recipe(file, overrides)
    assert recipe.data.labels == ["no", "yes"]
    assert (recipe.training["save_strategy"], recipe.training["bf16"]) == ("no", True)


def test_an_override_makes_the_mapping_it_needs(file: Path) -> None:
    recipe = load_recipe(file, parse_overrides(["--training.learning_rates.text", "1e-5", "--data.max-rows", "10"]))
    assert recipe.training["learning_rates"] == {"text": 1e-5}
    assert recipe.data.max_rows == 10


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"modell": {}}, "did you mean 'model'"),
        ({"model": {"fusoin": "early"}}, "model has no key 'fusoin'; did you mean 'fusion'"),
        ({"training": {"learning_rat": 1}}, "training has no key 'learning_rat'; did you mean 'learning_rate'"),
        ({"data": {"columns": {"txt": "a"}}}, "data.columns has no key 'txt'; did you mean 'text'"),
        ({"data": {"splits": {"trian": "a"}}}, "did you mean 'train'"),
        ({"task": "clasification"}, "task"),
        ({"seed": "three"}, "seed"),
        ({"data": "file.csv"}, "data is 'file.csv': expected a mapping of keys to values"),
        ({"training": {"seed": 3}}, "training.seed belongs at the top"),
    ],
)
def test_mistakes_are_named(content: dict, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_recipe(content)


@pytest.mark.parametrize("text", ["a: [", "- just\n- a list\n", "\x00"])
def test_a_file_that_is_no_recipe(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_missing_recipe_names_those_that_come_with_plait() -> None:
    with pytest.raises(RecipeError, match="easy_vqa"):
        load_recipe("nowhere.yaml")


@pytest.mark.parametrize("arguments", [["stray"], ["--seed"], ["--seed", "[1"]])
def test_broken_overrides(arguments: list[str]) -> None:
    with pytest.raises(RecipeError):
        parse_overrides(arguments)


def test_the_saved_recipe_reads_back_equal(file: Path, tmp_path: Path) -> None:
    recipe = load_recipe(file, {"seed": 5})
    save_recipe(recipe, tmp_path / "recipe.yaml", "0.0")
    assert RUN_FOLDER.read_recipe(tmp_path) == recipe


def test_differences_name_the_keys(file: Path) -> None:
    old, new = load_recipe(file), load_recipe(file, {"training.learning_rate": 1.0, "model.freeze": []})
    assert find_differences(old, old) == []
    found = find_differences(old, new)
    assert [line.split(":")[0] for line in found] == ["model.freeze", "training.learning_rate"]


@pytest.mark.parametrize("path", sorted(find_recipe("easy_vqa").parent.glob("*.yaml")), ids=lambda path: path.stem)
def test_recipes_that_come_with_plait_are_valid(path: Path) -> None:
    assert isinstance(load_recipe(path.stem), Recipe)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"max_length": 0}, "max_length is 0"),
        ({"settings": {"max_target_length": -1}, "task": "generation"}, "settings.max_target_length is -1"),
        ({"processor": {"num_frames": 0}}, "processor.num_frames is 0"),
        ({"processor": {"fps": float("inf")}}, "processor.fps is inf"),
        ({"processor": {"num_image_tokens": 2.5}}, "processor.num_image_tokens is 2.5"),
        ({"processor": {"audio": {"sampling_rate": float("nan")}}}, "processor.audio.sampling_rate is nan"),
    ],
)
def test_a_number_of_the_processor_out_of_range(changes: dict, named: str) -> None:
    content = {"model": {"image": "x", "text": "y", "decoder": "z"}, "data": {"source": "train.csv"}, **changes}
    with pytest.raises(RecipeError, match=named):
        build_recipe(content)

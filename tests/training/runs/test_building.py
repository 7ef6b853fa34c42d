"""From a recipe to a model."""

from collections.abc import Callable
from pathlib import Path

import pytest

from plait.modeling.composition.parameter_names import part_of
from plait.training.recipes.errors import RecipeError
from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run

from ..text_recipes import recipe_for


@pytest.fixture
def load_run(tmp_path: Path, pictures: dict[str, Path], finished: Callable[[str], Path]) -> Callable[..., TrainingRun]:
    """A run that begins with a trained model, of which the given parts are frozen."""

    def load(*parts: str) -> TrainingRun:
        content = recipe_for("translation", tmp_path, pictures)
        content["model"] = {"from_pretrained": str(finished("translation")), "freeze": list(parts)}
        content.pop("tokenizer", None)
        recipe = build_recipe(content)
        return build_run(recipe, tmp_path, build_arguments(recipe, tmp_path / "checkpoints"))

    return load


def test_a_loaded_model_is_frozen_like_a_composed_one(load_run: Callable[..., TrainingRun]) -> None:
    named = list(load_run("text").model.named_parameters())
    assert {part_of(name) for name, parameter in named if not parameter.requires_grad} == {"text"}
    with pytest.raises(RecipeError, match="model: the model has no part 'audio': it has text, "):
        load_run("audio")

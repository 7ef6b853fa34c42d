"""The keys of a recipe are described by its dataclasses."""

from dataclasses import fields

import pytest

from plait.training.optimization.arguments import PlaitTrainingArguments
from plait.training.recipes.keys import describe_keys, list_shipped_recipes
from plait.training.recipes.schema import SECTIONS, Recipe
from plait.training.tasks.registry import TASKS

KINDS = {"recipe": Recipe, **SECTIONS}


@pytest.mark.parametrize("section", KINDS)
def test_every_key_has_a_meaning(section: str) -> None:
    keys = describe_keys(KINDS[section])
    assert [key.name for key in keys] == [item.name for item in fields(KINDS[section])]
    assert not [key.name for key in keys if len(key.meaning) < 10 or key.meaning.endswith((" ", ":"))]


def test_training_arguments_of_both_libraries_have_a_meaning() -> None:
    meanings = {key.name: key.meaning for key in describe_keys(PlaitTrainingArguments)}
    assert "AdamW" in meanings["learning_rate"] or "learning rate" in meanings["learning_rate"]
    assert "frozen tower" in meanings["cache_features"]
    assert sum(map(bool, meanings.values())) > 0.8 * len(meanings)


def test_settings_of_every_task_can_be_described() -> None:
    assert {name: describe_keys(task.settings) for name, task in TASKS.items()}


def test_every_shipped_recipe_says_what_it_does() -> None:
    assert len(list_shipped_recipes()) > 20
    assert not [name for name, text in list_shipped_recipes().items() if not text.endswith((".", ","))]

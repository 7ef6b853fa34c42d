"""Reads a recipe and checks it as a whole: its task, its settings and its training arguments."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from ...processing.limits import check_numbers
from ..metrics.bootstrap import MIN_RESAMPLES
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.bending import bend_recipe, convert_inline
from ..recipes.errors import RecipeError, check_choice, check_keys
from ..recipes.files import VERSION_KEY, find_recipe, is_shipped, read_yaml, set_dotted
from ..recipes.multitask import build_task_recipes, check_tasks
from ..recipes.schema import SPLITS, Recipe, parse_recipe
from ..tasks.preference import Preference
from ..tasks.registry import find_task
from .combinations import check_inline, check_lora, check_named_parts, check_optimizer, check_rewards
from .settling import settle_precision

SEEDS = 2**32  # numpy's
# the lowest values of training arguments that transformers would find wrong only after the model is built, or never
LOWEST = {
    "num_train_epochs": 0,
    "per_device_train_batch_size": 1,
    "per_device_eval_batch_size": 1,
    "gradient_accumulation_steps": 1,
    "learning_rate": 0,
    "weight_decay": 0,
    "max_grad_norm": 0,
    "warmup_steps": 0,
    "save_steps": 0,
    "eval_steps": 0,
    "logging_steps": 0,
    "dataloader_num_workers": 0,
    "data_seed": 0,
}


def load_recipe(path: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe file, or by its name a recipe that comes with plait, and applies the overrides; what a recipe that
    comes with plait says of parts that the overrides leave out gives way (see `bend_recipe`).

    Raises:
        RecipeError: a missing file, invalid YAML, an unknown key (with the nearest), a value of the wrong type.
    """
    file = find_recipe(path)
    content = read_yaml(file)
    content.pop(VERSION_KEY, None)
    shipped = deepcopy(content) if is_shipped(file) else {}
    for key, value in (overrides or {}).items():
        set_dotted(content, key, value)
    kept = bend_recipe(shipped, content, list(overrides or {})) if shipped else frozenset[str]()
    recipe = build_recipe(content)
    recipe.shipped = kept
    settle_precision(recipe)
    return recipe


def build_recipe(content: Mapping[str, Any]) -> Recipe:
    """Builds a recipe from plain keys and values and checks it."""
    recipe = parse_recipe(convert_inline(content))
    _check_recipe(recipe)
    return recipe


def _check_recipe(recipe: Recipe) -> None:
    task = find_task(recipe.task)
    if recipe.tasks:
        check_tasks(recipe)
        for name, own in build_task_recipes(recipe).items():
            if own.task == Preference.name:
                raise RecipeError(f"tasks.{name}: the task {own.task} is trained alone: leave it out of tasks")
            try:
                _check_recipe(own)
            except RecipeError as error:
                raise RecipeError(f"tasks.{name}: {error}") from error
    else:
        task.check_recipe(recipe)
    check_inline(recipe, task)
    check_keys(recipe.training, [item.name for item in fields(PlaitTrainingArguments) if item.init], "training")
    check_named_parts(recipe)
    check_lora(recipe)
    check_rewards(recipe, task)
    check_optimizer(recipe)
    check_keys(recipe.data.splits, SPLITS, "data.splits")
    check_choice("data.on_error", recipe.data.on_error, ("stop", "check", "skip"))
    check_keys(recipe.data.columns, task.roles, "data.columns")
    for key in ("seed", "output_dir"):
        if key in recipe.training:
            raise RecipeError(f"training.{key} belongs at the top of the recipe, as {key}")
    _check_numbers(recipe)
    hints = get_type_hints(PlaitTrainingArguments)
    for key, value in recipe.training.items():
        for kind, fitting in {float: (int, float), int: int, bool: bool}.items():
            if hints[key] is kind and not isinstance(value, fitting):
                raise RecipeError(f"training.{key} is {value!r}: expected a {kind.__name__}")


def _check_numbers(recipe: Recipe) -> None:
    """Raises RecipeError for a number that is out of range: a seed, one of training and comparing, or of the
    processor."""
    seeds = {"seed": recipe.seed} | {f"compare.seeds[{n}]": seed for n, seed in enumerate(recipe.compare.seeds)}
    for name, seed in seeds.items():
        if not 0 <= seed < SEEDS:
            raise RecipeError(f"{name} is {seed}: expected a whole number from 0 to {SEEDS - 1}")
    if recipe.compare.bootstrap < MIN_RESAMPLES:
        raise RecipeError(
            f"compare.bootstrap is {recipe.compare.bootstrap}: expected at least {MIN_RESAMPLES} resamples"
        )
    for key, lowest in LOWEST.items():
        value: Any = recipe.training.get(key)
        if isinstance(value, (int, float)) and not isinstance(value, bool) and not lowest <= value < float("inf"):
            raise RecipeError(f"training.{key} is {value}: expected at least {lowest:g}")
    for key in ("num_train_epochs", "save_steps", "eval_steps", "logging_steps"):
        if recipe.training.get(key) == 0:
            raise RecipeError(f"training.{key} is 0: expected more")
    steps: Any = recipe.training.get("max_steps", -1)
    if isinstance(steps, int) and (steps < -1 or steps == 0):
        raise RecipeError(f"training.max_steps is {steps}: expected at least 1, or -1 for none")
    sections = {"": {"max_length": recipe.max_length}, "settings.": recipe.settings, "processor.": recipe.processor}
    parts = {f"processor.{name}.": value for name, value in recipe.processor.items() if isinstance(value, dict)}
    for place, values in (sections | parts).items():
        try:
            check_numbers(values)
        except ValueError as error:
            raise RecipeError(f"{place}{error}") from error

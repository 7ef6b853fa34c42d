"""Splits a recipe of several tasks into one recipe for each task, and checks it."""

from dataclasses import asdict, fields
from typing import Any

from .errors import RecipeError, check_keys
from .schema import Recipe, parse_recipe

TASK_KEYS = ("task", "data", "settings", "metrics", "max_length", "generation")
SHARED_KEYS = ("model", "tokenizer", "processor", "training", "seed")


def build_task_recipes(recipe: Recipe) -> dict[str, Recipe]:
    """Returns one recipe for each task by name, from its own and the shared keys; raises RecipeError for bad keys."""
    shared = {name: value for name, value in asdict(recipe).items() if name in SHARED_KEYS}
    found = {}
    for name, own in recipe.tasks.items():
        check_keys(own, (*TASK_KEYS, "weight"), f"tasks.{name}")
        try:
            found[name] = parse_recipe({**shared, **{key: value for key, value in own.items() if key != "weight"}})
        except RecipeError as error:
            raise RecipeError(f"tasks.{name}: {error}") from error
    return found


def collect_task_weights(recipe: Recipe) -> dict[str, float]:
    """Returns the weight of each task's loss by task name (default 1)."""
    return {name: float(own.get("weight", 1.0)) for name, own in recipe.tasks.items()}


def check_tasks(recipe: Recipe) -> None:
    """Raises RecipeError for tasks that cannot be trained together, naming the task and the key."""
    plain = {item.name: item.default for item in fields(Recipe)}
    misplaced = [name for name in TASK_KEYS if getattr(recipe, name) not in (plain[name], {}, []) and name != "data"]
    if recipe.data.source is not None:
        misplaced.append("data")
    if misplaced:
        raise RecipeError(
            f"{misplaced[0]} belongs to one of the tasks ({', '.join(recipe.tasks)}): move it under tasks.NAME"
        )
    for name in recipe.tasks:
        if not name.isidentifier():
            raise RecipeError(f"tasks: {name!r} is not a valid name: use letters, digits and underscores")
        weight: Any = recipe.tasks[name].get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 < weight < float("inf"):
            raise RecipeError(f"tasks.{name}.weight is {weight!r}: expected a number above 0")
    if recipe.model.quantize:
        raise RecipeError("model.quantize cannot be used with several tasks: leave it out, or train one task")
    if recipe.training.get("metric_for_best_model") == "auto":
        raise RecipeError(
            "training.metric_for_best_model is 'auto', but there are several tasks: name a task and its metric, such "
            f"as {next(iter(recipe.tasks))}_loss"
        )
    for key in ("tokens_per_batch", "share_images", "cache_features", "label_smoothing_factor"):
        if recipe.training.get(key):
            raise RecipeError(f"training.{key} cannot be used with several tasks: leave it out")
    if not recipe.temperature > 0:
        raise RecipeError(
            f"temperature is {recipe.temperature}: expected a number above 0 (1: by size; inf: all alike)"
        )

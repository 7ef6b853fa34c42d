"""The metric that is not rewarded, by which a reward that is gamed shows."""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec

from ..metrics.text import TEXT_METRICS
from ..recipes.reward import RewardRecipe
from ..recipes.schema import Recipe
from ..tasks.base import Task

HELD_OUT_METRICS = ("chrf", "token_f1", "cider", "exact_match")  # if no metric that is measured will do
UNFIT_METRICS = ("distinct",)  # says nothing of how good a text is


def check_held_out(reward: RewardRecipe, names: Sequence[str]) -> None:
    """Raises ValueError for a held-out metric that is not among the measured ones."""
    if reward.held_out is not None and reward.held_out not in names:
        raise ValueError(
            f"reward: held_out is {reward.held_out!r}, but compute_metrics measures {', '.join(names) or 'nothing'}: "
            "add it there, as GenerationMetrics([...], processor)"
        )


def find_held_out(reward: RewardRecipe, names: Sequence[str]) -> str | None:
    """Returns the first of the measured metrics that compares texts and is not rewarded; None if there is none."""
    known = [
        name for name in names if name in TEXT_METRICS and name not in UNFIT_METRICS and not reward.metrics.get(name)
    ]
    return reward.held_out if reward.held_out in names else next(iter(known), None)


def add_held_out(recipe: Recipe, task: Task) -> Recipe:
    """Returns the recipe with a metric that is not rewarded among its metrics."""
    names, reward = recipe.metrics or list(task.metrics), recipe.reward
    if reward is None or (reward.held_out is None and find_held_out(reward, names)):
        return recipe
    installed = [name for name in HELD_OUT_METRICS if name != "chrf" or find_spec("sacrebleu") is not None]
    chosen = reward.held_out or next(name for name in installed if not reward.metrics.get(name))
    return replace(recipe, metrics=[*names, *([] if chosen in names else [chosen])])

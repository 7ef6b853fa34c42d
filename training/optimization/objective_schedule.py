"""The loss weights of pretraining objectives, constant or changing over a run."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ...configuration.objectives import check_objectives
from ..recipes.errors import RecipeError

# points of [progress, weight], progress from 0 (the first step) to 1 (the last)
WeightPoints = list[tuple[float, float]]


def parse_objective_weights(given: Mapping[str, Any]) -> dict[str, WeightPoints]:
    """Parses the `objectives` of a recipe: for each name a weight, or points of [progress, weight] between which the
    weight changes linearly.

    Raises:
        RecipeError: an unknown objective, a weight that is negative or no number, points out of order, no objective at
            all, or a time at which all weights are 0.
    """
    try:
        check_objectives(given)
    except ValueError as error:
        raise RecipeError(f"settings.objectives: {error}") from error
    weights = {name: parse_points(name, value) for name, value in given.items()}
    times = sorted({time for points in weights.values() for time, _ in points})
    # weights are linear between points: if all are 0 for a while, they are at a point or halfway between two
    for time in [*times, *((a + b) / 2 for a, b in pairwise(times))]:
        if not any(interpolate_weight(points, time) for points in weights.values()):
            raise RecipeError(
                f"settings.objectives: at {time:g} of the run nothing has a weight above 0: give at least one "
                "objective a weight there"
            )
    if not weights:
        raise RecipeError("settings.objectives names no objective: give at least one, such as {contrastive: 1}")
    return weights


def parse_points(name: str, value: Any) -> WeightPoints:
    """Parses the weight or the points of one objective.

    Raises RecipeError for a weight that is negative or no number, or points out of order.
    """
    points = [[0.0, value], [1.0, value]] if is_number(value) else value
    where = f"settings.objectives.{name} is {value!r}"
    if not isinstance(points, list) or not points or not all(is_point(point) for point in points):
        raise RecipeError(f"{where}: expected a weight, or points [[progress 0..1, weight], ...]")
    times = [float(time) for time, _ in points]
    if times != sorted(times) or times[0] < 0 or times[-1] > 1:
        raise RecipeError(f"{where}: the progress of the points must be within 0..1, in ascending order")
    if any(weight < 0 for _, weight in points):
        raise RecipeError(f"{where}: a weight must not be negative")
    return [(float(time), float(weight)) for time, weight in points]


def is_number(value: Any) -> bool:
    """Returns whether a value is a finite number, not a bool."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def is_point(value: Any) -> bool:
    """Returns whether a value is a list of two finite numbers."""
    return isinstance(value, list) and len(value) == 2 and all(map(is_number, value))


def interpolate_weight(points: WeightPoints, progress: float) -> float:
    """Interpolates the weight at a progress of 0..1; before the first and after the last point it is that point's."""
    if progress <= points[0][0]:
        return points[0][1]
    for (start, before), (end, after) in pairwise(points):
        if progress <= end:
            return before + (after - before) * (progress - start) / (end - start) if end > start else after
    return points[-1][1]


def select_final_weights(weights: Mapping[str, WeightPoints]) -> dict[str, float]:
    """Returns the weights at the end of the run, with which the model is measured and saved."""
    return {name: points[-1][1] for name, points in weights.items()}


class ObjectiveSchedule(TrainerCallback):
    """Sets the objective weights of a pretraining model before every step."""

    def __init__(self, model: Any, weights: Mapping[str, WeightPoints]) -> None:
        self.model = model
        self.weights = dict(weights)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Sets the weights of the step that begins."""
        progress = state.global_step / max(state.max_steps - 1, 1)
        self.model.objective_weights = {
            name: interpolate_weight(points, progress) for name, points in self.weights.items()
        }

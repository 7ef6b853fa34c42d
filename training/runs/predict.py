"""Predictions for new rows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module
from tqdm.auto import tqdm

from ...configuration.messages import to_one_line
from ...configuration.modalities import MEDIA
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.media import NumberedRows, name_data_rows
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from ..tasks.registry import find_task
from .assembly import build_collator
from .loading import load_model
from .processes import join_processes

if TYPE_CHECKING:
    from datasets import Dataset


def build_option_rows(task: Task, options: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Returns the rows that the command line gives (`{"text": [...], "image": [...]}`), under the task's columns; a
    single value goes with all rows.

    Raises:
        RecipeError: no values, an option that the task does not read, numbers of values that do not match, or a missing
            image file.
    """
    given = {name: values for name, values in options.items() if values}
    flags = [f"--{name}" for name in task.prompt_columns]
    if not given:
        raise RecipeError(f"nothing to predict: give {', '.join(flags)} or --data")
    count = max(map(len, given.values()))
    for name, values in given.items():
        if name not in task.prompt_columns:
            raise RecipeError(f"--{name}: the task {task.name} does not read it: give {', '.join(flags)} or --data")
        if len(values) not in (1, count):
            raise RecipeError(f"{len(values)} --{name} for {count} rows: give one, or one per row")
    for name in MEDIA:
        for file in given.get(name, ()):
            check_file(name, file)
    columns = {task.prompt_columns[name]: list(values) * (count // len(values)) for name, values in given.items()}
    task.check_columns(list(columns), "the command line", needs_targets=False)
    return [{name: values[row] for name, values in columns.items()} for row in range(count)]


def check_file(option: str, file: str) -> None:
    """Raises RecipeError for a URL, or a file that is not there."""
    if "://" in file:
        raise RecipeError(f"--{option} {file} is a URL: download it first and pass the path")
    if not Path(file).is_file():
        raise RecipeError(f"--{option} {file}: no such file")


def predict(
    reference: str, rows: "Sequence[Mapping[str, Any]] | Dataset", recipe: Recipe, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Yields a prediction for each row, as the task returns it."""
    model, collator = load_predictor(reference, rows, recipe)
    for start in tqdm(range(0, len(rows), batch_size), desc="predict", unit="batch", disable=len(rows) <= batch_size):
        numbers = range(start, min(start + batch_size, len(rows)))
        yield from predict_batch(model, collator, NumberedRows([rows[row] for row in numbers], numbers))


def load_predictor(
    reference: str, rows: "Sequence[Mapping[str, Any]] | Dataset", recipe: Recipe
) -> tuple[PlaitPreTrainedModel, PlaitDataCollator]:
    """Loads a model, on the accelerator if there is one, and builds the collator of its rows.

    Raises RecipeError for a model that cannot be loaded or does not read these rows.
    """
    task = find_task(recipe.task)
    model, processor = load_model(reference, recipe, task)
    task.check_inputs(getattr(rows, "column_names", None) or list(rows[0] if len(rows) else ()), model)
    state = join_processes()  # of several processes each has a device of its own
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu") if state.num_processes == 1 else state.device
    Module.to(model, device).eval()
    return model, build_collator(recipe, task, processor, None)


def predict_batch(
    model: PlaitPreTrainedModel, collator: PlaitDataCollator, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Returns a prediction per row. Raises RecipeError for an input that cannot be read."""
    try:
        with name_data_rows(rows):
            return list(collator.task.predict_rows(model, collator, rows))
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(to_one_line(error)) from error

"""Predictions for new rows."""

import csv
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import Module
from tqdm.auto import tqdm

from ...configuration.messages import to_one_line
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ..data.loading import load_data
from ..data.media import NumberedRows, name_data_rows
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..storage.atomic import replace_file
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from ..tasks.registry import find_task
from .assembly import build_collator
from .evaluate import choose_split
from .loading import load_model

if TYPE_CHECKING:
    from datasets import Dataset

NESTED_ANSWER_FIELDS = ("probabilities", "candidates")  # of an answer: left out of a .csv file


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
    for name in ("image", "audio"):
        for file in given.get(name, ()):
            if not Path(file).is_file():
                raise RecipeError(f"--{name} {file}: no such file")
    columns = {task.prompt_columns[name]: list(values) * (count // len(values)) for name, values in given.items()}
    task.check_columns(list(columns), "the command line", needs_targets=False)
    return [{name: values[row] for name, values in columns.items()} for row in range(count)]


def load_data_rows(recipe: Recipe) -> "Dataset":
    """Loads the rows of the recipe's data without their target columns, which may be missing."""
    task = find_task(recipe.task)
    columns = {role: name for role, name in recipe.data.columns.items() if role not in task.target_columns}
    roles = [role for role in task.roles if role not in task.target_columns]
    data = load_data(replace(recipe.data, columns=columns), recipe.seed, needs_labels=False, roles=roles)
    rows = choose_split(data.splits, None)
    task.check_columns(rows.column_names, "predicted", needs_targets=False)
    return rows


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
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
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


def write_predictions(
    rows: "Sequence[Mapping[str, Any]] | Dataset", predictions: Iterator[dict[str, Any]], output: Path | None
) -> int:
    """Writes predictions with the texts and image paths of their rows to a .jsonl or .csv file, or without one as JSON
    lines to the console, and returns their number."""
    if output is not None and output.suffix not in (".jsonl", ".csv"):
        raise RecipeError(f"--output {output}: the suffix must be .jsonl or .csv")
    lines = ({**_select_printable(rows[number]), **answer} for number, answer in enumerate(predictions))
    if output is None:
        return sum(1 for line in lines if sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n"))
    with replace_file(output) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as file:
        return _write_csv(file, lines) if output.suffix == ".csv" else _write_jsonl(file, lines)


def _select_printable(row: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a row's columns that can be printed: everything but the bytes of images."""
    return {name: value["path"] if isinstance(value, Mapping) else value for name, value in row.items()}


def _write_jsonl(file: Any, lines: Iterator[dict[str, Any]]) -> int:
    return sum(1 for line in lines if file.write(json.dumps(line, ensure_ascii=False) + "\n"))


def _write_csv(file: Any, lines: Iterator[dict[str, Any]]) -> int:
    table = [{name: value for name, value in line.items() if name not in NESTED_ANSWER_FIELDS} for line in lines]
    writer = csv.DictWriter(file, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return len(table)

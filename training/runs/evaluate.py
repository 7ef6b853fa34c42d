"""Using a trained model: its metrics on other data, and its answers."""

import csv
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import Module
from tqdm.auto import tqdm
from transformers import PreTrainedConfig, set_seed

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.labels import labels_of
from ..data.loading import Data, load_data
from ..data.unreadable_rows import readable
from ..metrics.generation import set_generation
from ..metrics.per_row import beside
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.schema import Recipe, RecipeError, build_recipe, set_dotted
from ..tasks.base import Task
from ..tasks.collator import PlaitDataCollator
from ..tasks.registry import find_task, task_of
from ..trainer.trainer import PlaitTrainer
from .building import resolve
from .train import is_run, make_collator, make_metrics, saved_recipe

if TYPE_CHECKING:
    from datasets import Dataset

NESTED = ("probabilities", "candidates")  # of an answer: no columns of a table
TIMES = ("_runtime", "_per_second", "_preparation_time", "epoch")


def load_model(reference: str, recipe: Recipe) -> tuple[PlaitPreTrainedModel, PlaitProcessor]:
    """Model and processor of a run folder, a plait, or any published checkpoint, for the recipe's task.

    Raises:
        RecipeError: nothing that can be loaded there.
    """
    task = find_task(recipe.task)
    try:
        model: Any = task.model_class.from_pretrained(resolve(reference))
        processor = PlaitProcessor.from_pretrained(resolve(reference))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{reference}: {' '.join(str(error).split())}") from error
    task.finish_processor(processor, recipe)
    if task.writes:
        set_generation(model, recipe.generation)
    return model, processor


def default_task(reference: str) -> str:
    """The task of a saved model, by its class; a classification for any other checkpoint."""
    try:
        config, _ = PreTrainedConfig.get_config_dict(resolve(reference))
    except (OSError, ValueError) as error:
        raise RecipeError(f"{reference}: {' '.join(str(error).split())}") from error
    task = task_of(next(iter(config.get("architectures") or []), ""))
    return task.name if task is not None else "classification"


def recipe_of(reference: str, overrides: Mapping[str, Any]) -> Recipe:
    """The run's own recipe, or one of the model's task alone, with the given changes."""
    folder = Path(reference).expanduser()
    if is_run(folder):
        content = asdict(saved_recipe(folder))
    else:
        content = {} if "task" in overrides else {"task": default_task(reference)}
    for key, value in overrides.items():
        set_dotted(content, key, value)
    return build_recipe(content)


class Measured(NamedTuple):
    """A model's metrics on one split, what computed them, the prepared rows, and the splits beside it as they were
    read."""

    scores: dict[str, float]
    metrics: Any
    rows: Any
    data: Data
    processor: PlaitProcessor


def evaluate(reference: str, recipe: Recipe, split: str | None = None) -> dict[str, float]:
    """A model's metrics on one split of the recipe's data; default: test, else validation, else what there is.

    Raises:
        RecipeError: no such model, data or split.
    """
    return measure(reference, recipe, split).scores


def evaluate_rows(
    reference: str, recipe: Recipe, split: str | None = None, others: Sequence[str] = ()
) -> tuple[dict[str, float], dict[str, dict]]:
    """The same, and with 95 % intervals over the rows, beside the task's baselines and other models.

    Returns:
        the metrics, and of those that every row has `{metric: {value, low, high, minus: {other: ...}}}`.

    Raises:
        RecipeError: as above; a task whose metrics no single row has; or a model beside it of another tokenizer.
    """
    task = find_task(recipe.task)
    if not task.scores_rows:
        raise RecipeError(f"--intervals: the metrics of the task {recipe.task} are not those of single rows")
    own = measure(reference, recipe, split)
    rows = own.metrics.rows()
    if not rows:
        raise RecipeError(f"--intervals: {', '.join(own.metrics.names)} are of all rows together: name another metric")
    train = own.data.train
    prepared = None if train is None else task.prepare(train, "train", own.processor, recipe)
    found = task.baseline_rows(own.metrics, Data({} if prepared is None else {"train": prepared}, None), own.rows)
    found |= {name: measure(name, recipe, split).metrics.rows() for name in others}
    try:
        return own.scores, beside(rows, found, task.row_groups(own.rows))
    except ValueError as error:
        raise RecipeError(f"--beside: {error}") from None


def measure(reference: str, recipe: Recipe, split: str | None = None) -> Measured:
    """What `evaluate` and `evaluate_rows` share; a head that the model lacks is drawn by the recipe's seed."""
    task = find_task(recipe.task)
    set_seed(recipe.seed)
    model, processor = load_model(reference, recipe)
    labels = labels_of(model.config) if task.labelled else None
    data = load_data(recipe.data, recipe.seed, labels, needs_labels=task.labelled, roles=task.roles)
    rows = choose_split(data.splits, split)
    task.check_columns(rows.column_names, split or "evaluated")
    collator = make_collator(recipe, processor, labels)
    rows = readable(rows, "evaluated", collator, recipe.data.on_error)
    rows: Any = task.prepare(rows, "evaluated", processor, recipe)
    with tempfile.TemporaryDirectory() as folder:
        metrics = make_metrics(recipe, labels, processor)
        scores = make_evaluator(recipe, model, collator, metrics, folder).evaluate(rows)
    kept = {name.removeprefix("eval_"): value for name, value in scores.items() if not name.endswith(TIMES)}
    return Measured(kept, metrics, rows, data, processor)


def make_evaluator(recipe: Recipe, model: Module, collator: Any, metrics: Any, folder: str) -> PlaitTrainer:
    """A trainer that measures a model.

    Raises:
        RecipeError: training arguments that this machine or this model cannot follow.
    """
    try:
        args = evaluation_arguments(recipe, folder)
        return PlaitTrainer(model, args, data_collator=collator, compute_metrics=metrics)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {' '.join(str(error).split())}") from error


def evaluation_arguments(recipe: Recipe, folder: str) -> PlaitTrainingArguments:
    """The recipe's arguments that matter without training."""
    kept = ("per_device_eval_batch_size", "dataloader_num_workers", "use_cpu", "bf16", "fp16", "disable_tqdm")
    chosen = {name: recipe.training[name] for name in kept if name in recipe.training}
    return PlaitTrainingArguments(output_dir=folder, seed=recipe.seed, **chosen)


def choose_split(splits: Mapping[str, "Dataset"], name: str | None) -> "Dataset":
    """The named split, or test, else validation, else the only one."""
    if name is None:
        name = next(split for split in ("test", "validation", "train") if split in splits)
    if name not in splits:
        raise RecipeError(f"there is no split {name!r}, only {', '.join(splits)}")
    return splits[name]


def rows_of(task: Task, options: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Rows of what the command line gives (`{"text": [...], "image": [...]}`), under the task's columns; a single value
    goes with all rows.

    Raises:
        RecipeError: nothing at all, an option that the task does not read, numbers that do not fit, or a missing
            picture file.
    """
    given = {name: values for name, values in options.items() if values}
    flags = [f"--{name}" for name in task.asked]
    if not given:
        raise RecipeError(f"nothing to predict: give {', '.join(flags)} or --data")
    count = max(map(len, given.values()))
    for name, values in given.items():
        if name not in task.asked:
            raise RecipeError(f"--{name}: the task {task.name} reads {', '.join(flags)} or --data")
        if len(values) not in (1, count):
            raise RecipeError(f"{len(values)} --{name} for {count} rows: give one, or one a row")
    for image in given.get("image", ()):
        if not Path(image).is_file():
            raise RecipeError(f"--image {image}: no such file")
    columns = {task.asked[name]: list(values) * (count // len(values)) for name, values in given.items()}
    task.check_columns(list(columns), "the command line", answered=False)
    return [{name: values[row] for name, values in columns.items()} for row in range(count)]


def data_rows(recipe: Recipe) -> "Dataset":
    """The rows of the recipe's data without what is to be answered; the columns need not have any."""
    task = find_task(recipe.task)
    columns = {role: name for role, name in recipe.data.columns.items() if role not in task.answered}
    roles = [role for role in task.roles if role not in task.answered]
    data = load_data(replace(recipe.data, columns=columns), recipe.seed, needs_labels=False, roles=roles)
    rows = choose_split(data.splits, None)
    task.check_columns(rows.column_names, "predicted", answered=False)
    return rows


def predict(
    reference: str, rows: "Sequence[Mapping[str, Any]] | Dataset", recipe: Recipe, batch_size: int = 32
) -> Iterator[dict[str, Any]]:
    """Answers row by row, as the task gives them."""
    model, processor = load_model(reference, recipe)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    Module.to(model, device).eval()
    collator = make_collator(recipe, processor, None)
    for start in tqdm(range(0, len(rows), batch_size), desc="predict", unit="batch", disable=len(rows) <= batch_size):
        batch = [rows[row] for row in range(start, min(start + batch_size, len(rows)))]
        yield from answers(model, collator, batch)


def answers(
    model: PlaitPreTrainedModel, collator: PlaitDataCollator, rows: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One answer a row; one line that says which input cannot be read."""
    try:
        return list(collator.task.answers(model, collator, rows))
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(" ".join(str(error).split())) from error


def write_predictions(
    rows: "Sequence[Mapping[str, Any]] | Dataset", predictions: Iterator[dict[str, Any]], output: Path | None
) -> int:
    """Write answers beside the texts and picture paths as .jsonl or .csv, or (None) as JSON lines to the console."""
    if output is not None and output.suffix not in (".jsonl", ".csv"):
        raise RecipeError(f"--output {output}: the suffixes are .jsonl and .csv")
    lines = ({**_shown(rows[number]), **answer} for number, answer in enumerate(predictions))
    if output is None:
        return sum(1 for line in lines if sys.stdout.write(json.dumps(line, ensure_ascii=False) + "\n"))
    with output.open("w", encoding="utf-8", newline="") as file:
        return _write_csv(file, lines) if output.suffix == ".csv" else _write_jsonl(file, lines)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's columns that can be written down: everything but the bytes of pictures."""
    return {name: value["path"] if isinstance(value, Mapping) else value for name, value in row.items()}


def _write_jsonl(file: Any, lines: Iterator[dict[str, Any]]) -> int:
    return sum(1 for line in lines if file.write(json.dumps(line, ensure_ascii=False) + "\n"))


def _write_csv(file: Any, lines: Iterator[dict[str, Any]]) -> int:
    table = [{name: value for name, value in line.items() if name not in NESTED} for line in lines]
    writer = csv.DictWriter(file, list(table[0]))
    writer.writeheader()
    writer.writerows(table)
    return len(table)

"""Evaluates a trained model: its metrics on data, and their intervals over the rows."""

import tempfile
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch.nn import Module
from transformers import set_seed

from ...configuration.messages import to_one_line
from ...processing import PlaitProcessor
from ..data.labels import read_config_labels
from ..data.loading import DataSplits, load_data
from ..data.unreadable_rows import select_readable
from ..metrics.per_row import compare_rows
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..tasks.base import Task
from ..tasks.registry import find_task
from ..trainer.trainer import PlaitTrainer
from .assembly import build_collator, build_metrics
from .loading import load_model

if TYPE_CHECKING:
    from datasets import Dataset

TIMING_SUFFIXES = ("_runtime", "_per_second", "_preparation_time", "epoch")


class EvaluationResult(NamedTuple):
    """A model's metrics on one split, the object that computed them, the prepared rows, all splits as they were loaded,
    and the processor."""

    scores: dict[str, float]
    metrics: Any
    rows: Any
    data: DataSplits
    processor: PlaitProcessor


def evaluate(reference: str, recipe: Recipe, split: str | None = None) -> dict[str, float]:
    """Returns a model's metrics on one split of the recipe's data (default: test, else validation, else train).

    Raises:
        RecipeError: a model, data or a split that cannot be found.
    """
    return measure(reference, recipe, find_task(recipe.task), split).scores


def evaluate_rows(
    reference: str, recipe: Recipe, split: str | None = None, others: Sequence[str] = ()
) -> tuple[dict[str, float], dict[str, dict]]:
    """Returns a model's metrics, and 95 % intervals over the rows, paired with the task's baselines and with other
    models.

    Returns:
        the metrics, and for those that every row has, `{metric: {value, low, high, minus: {other: ...}}}`.

    Raises:
        RecipeError: as in `evaluate`; a task without metrics of single rows; or another model with another tokenizer.
    """
    task = find_task(recipe.task)
    if not task.has_row_scores:
        raise RecipeError(
            f"--intervals: the task {recipe.task} has no metrics of single rows: evaluate without --intervals"
        )
    own = measure(reference, recipe, task, split)
    rows = own.metrics.compute_per_row()
    if not rows:
        raise RecipeError(
            f"--intervals: {', '.join(own.metrics.names)} have no value for a single row: name other metrics"
        )
    train = own.data.train
    prepared = None if train is None else task.prepare(train, "train", own.processor, recipe)
    found = task.score_baseline_rows(
        own.metrics, DataSplits({} if prepared is None else {"train": prepared}, None), own.rows
    )
    found |= {name: measure(name, recipe, task, split).metrics.compute_per_row() for name in others}
    try:
        return own.scores, compare_rows(rows, found, task.collect_row_groups(own.rows))
    except ValueError as error:
        raise RecipeError(f"--beside: {error}") from None


def measure(reference: str, recipe: Recipe, task: Task, split: str | None = None) -> EvaluationResult:
    """Evaluates a model on one split; a head that the model lacks is initialized by the recipe's seed."""
    set_seed(recipe.seed)
    model, processor = load_model(reference, recipe, task)
    labels = read_config_labels(model.config) if task.needs_labels else None
    data = load_data(recipe.data, recipe.seed, labels, needs_labels=task.needs_labels, roles=task.roles)
    rows = choose_split(data.splits, split)
    task.check_columns(rows.column_names, split or "evaluated")
    task.check_inputs(rows.column_names, model)
    collator = build_collator(recipe, task, processor, labels)
    rows = select_readable(rows, "evaluated", collator, recipe.data.on_error)
    rows: Any = task.prepare(rows, "evaluated", processor, recipe)
    with tempfile.TemporaryDirectory() as folder:
        metrics = build_metrics(recipe, task, labels, processor)
        scores = build_evaluator(recipe, model, collator, metrics, folder).evaluate(rows)
    kept = {name.removeprefix("eval_"): value for name, value in scores.items() if not name.endswith(TIMING_SUFFIXES)}
    return EvaluationResult(kept, metrics, rows, data, processor)


def build_evaluator(recipe: Recipe, model: Module, collator: Any, metrics: Any, folder: str) -> PlaitTrainer:
    """Builds a trainer that evaluates a model.

    Raises:
        RecipeError: training arguments that this machine or this model does not support.
    """
    try:
        args = build_evaluation_arguments(recipe, folder)
        return PlaitTrainer(model, args, data_collator=collator, compute_metrics=metrics)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {to_one_line(error)}") from error


def build_evaluation_arguments(recipe: Recipe, folder: str) -> PlaitTrainingArguments:
    """Returns the recipe's training arguments that matter in an evaluation."""
    kept = ("per_device_eval_batch_size", "dataloader_num_workers", "use_cpu", "bf16", "fp16", "disable_tqdm")
    chosen = {name: recipe.training[name] for name in kept if name in recipe.training}
    return PlaitTrainingArguments(output_dir=folder, seed=recipe.seed, **chosen)


def choose_split(splits: Mapping[str, "Dataset"], name: str | None) -> "Dataset":
    """Returns the named split; without a name test, else validation, else train."""
    if name is None:
        name = next(split for split in ("test", "validation", "train") if split in splits)
    if name not in splits:
        raise RecipeError(f"there is no split {name!r}: choose one of {', '.join(splits)}")
    return splits[name]

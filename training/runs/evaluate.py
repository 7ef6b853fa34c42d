"""Evaluates a trained model: its metrics on data, and their intervals over the rows."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch.nn import Module
from transformers import set_seed

from ...configuration.messages import to_one_line
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ...processing.errors import find_row_error
from ..data.labels import LabelSpec, read_config_labels
from ..data.loading import DataSplits, choose_split, load_data
from ..data.media import READ_ERRORS, Row
from ..data.unreadable_rows import EMPTY_ROW, is_empty_row, select_readable
from ..metrics.per_row import compare_rows
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..reports.recording import Recorder, record_answers
from ..tasks.base import Task
from ..tasks.registry import find_task
from ..trainer.label_thresholds import has_thresholds, tune_thresholds
from ..trainer.trainer import PlaitTrainer
from .assembly import build_collator, build_metrics
from .folder import RUN_FOLDER
from .loading import load_model, load_model_recipe
from .thresholds import save_thresholds

if TYPE_CHECKING:
    from datasets import Dataset

TIMING_SUFFIXES = ("_runtime", "_per_second", "_preparation_time", "epoch")


class EvaluationResult(NamedTuple):
    """A model's metrics on one split, the object that computed them, the prepared rows, all splits as they were loaded,
    the processor, the model, and its answers."""

    scores: dict[str, float]
    metrics: Any
    rows: Any
    data: DataSplits
    processor: PlaitProcessor
    model: PlaitPreTrainedModel
    recorder: Recorder


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
            f"--intervals and --beside: the task {recipe.task} measures batches, not rows: evaluate without them"
        )
    own = measure(reference, recipe, task, split)
    rows = own.metrics.compute_per_row()
    if not rows:
        raise RecipeError(
            f"--intervals: {', '.join(own.metrics.names)} have no value for a single row: name other metrics"
        )
    train = own.data.train
    prepared = None if train is None else task.prepare(train, "train", own.processor, recipe)
    splits = DataSplits({} if prepared is None else {"train": prepared}, own.data.labels)
    found = dict(task.score_baseline_rows(own.metrics, splits, own.rows))
    for name in others:
        other = build_other_recipe(name, recipe, task)
        found[name] = measure(name, other, task, split, own.data.labels).metrics.compute_per_row()
    try:
        return own.scores, compare_rows(rows, found, task.collect_score_groups(own.metrics, own.rows))
    except ValueError as error:
        raise RecipeError(f"--beside: {error}") from None


def build_other_recipe(reference: str, recipe: Recipe, task: Task) -> Recipe:
    """Returns the recipe by which another model is measured on the rows of this one: the columns that it was trained
    on, its settings and its length of texts, if it is a run of the same task, and everything else of `recipe`.

    Raises RecipeError for a run of another task.
    """
    folder = Path(reference).expanduser()
    if not RUN_FOLDER.marks(folder):
        return recipe
    own = load_model_recipe(reference, {})
    if own.task != task.name:
        raise RecipeError(f"--beside {reference} is a run of the task {own.task}, not {task.name}: name another")
    read = (own.data.columns, own.data.templates) if own.data.columns else (recipe.data.columns, recipe.data.templates)
    data = replace(recipe.data, columns=read[0], templates=read[1])
    return replace(
        recipe, data=data, settings=own.settings, max_length=own.max_length, generation=own.generation, model=own.model
    )


def measure(
    reference: str, recipe: Recipe, task: Task, split: str | None = None, wanted: LabelSpec | None = None
) -> EvaluationResult:
    """Evaluates a model on one split; a head that the model lacks is initialized by the recipe's seed.

    Raises RecipeError for a model without the labels that are wanted, in their order.
    """
    set_seed(recipe.seed)
    model, processor = load_model(reference, recipe, task)
    labels = read_config_labels(model.config) if task.needs_labels else None
    if wanted is not None and labels != wanted:
        shown = [", ".join(spec.names) or "numbers" for spec in (labels, wanted) if spec is not None]
        raise RecipeError(f"--beside {reference} has other labels ({' instead of '.join(shown)}): name another model")
    data = load_data(recipe.data, recipe.seed, labels, needs_labels=task.needs_labels, roles=task.roles)
    rows = choose_split(data.splits, split)
    task.check_columns(rows.column_names, split or "evaluated")
    task.check_inputs(rows.column_names, model)
    collator = build_collator(recipe, task, processor, labels)
    rows = select_readable(rows, "evaluated", collator, recipe.data.on_error)
    rows: Any = task.prepare(rows, "evaluated", processor, recipe)
    with tempfile.TemporaryDirectory() as folder:
        metrics = build_metrics(recipe, task, labels, processor)
        evaluator = build_evaluator(recipe, model, collator, metrics, folder)
        with record_answers(evaluator, metrics) as recorder, refuse_unreadable_rows(rows):
            scores = evaluator.evaluate(rows)
    kept = {name.removeprefix("eval_"): value for name, value in scores.items() if not name.endswith(TIMING_SUFFIXES)}
    return EvaluationResult(kept, metrics, rows, data, processor, model, recorder)


@contextmanager
def refuse_unreadable_rows(rows: "Dataset") -> Iterator[None]:
    """Raises RecipeError for an error that names a row of the data, or that is due to a row with nothing in it."""
    try:
        yield
    except READ_ERRORS as error:
        said = find_row_error(str(error))
        if said is None:
            empty = next((number for number, row in enumerate(rows) if is_empty_row(cast("Row", row))), None)
            said = None if empty is None else f"row {empty} of the data: {EMPTY_ROW}"
        if said is None:
            raise
        raise RecipeError(f"{said}; repair the row, or leave such rows out with --data.on_error skip") from error


def choose_label_thresholds(reference: str, recipe: Recipe, split: str | None = None) -> dict[str, Any]:
    """Chooses the thresholds of several labels a row on one split (default: validation) and saves them in the run's
    folder; returns what it saves.

    Raises RecipeError for a folder that is no run, or a model with one label a row.
    """
    folder, task = Path(reference).expanduser(), find_task(recipe.task)
    if not RUN_FOLDER.marks(folder):
        raise RecipeError(f"--tune-thresholds: {reference} is not the folder of a run, where they are saved")
    model, processor = load_model(reference, recipe, task)
    labels = read_config_labels(model.config) if task.needs_labels else None
    if labels is None or not has_thresholds(labels):
        raise RecipeError("--tune-thresholds: the model gives one label a row: only several labels have thresholds")
    data = load_data(recipe.data, recipe.seed, labels, roles=task.roles)
    split = split or ("validation" if "validation" in data.splits else None)
    collator = build_collator(recipe, task, processor, labels)
    rows: Any = select_readable(choose_split(data.splits, split), "evaluated", collator, recipe.data.on_error)
    with tempfile.TemporaryDirectory() as place, refuse_unreadable_rows(rows):
        evaluator = build_evaluator(recipe, model, collator, build_metrics(recipe, task, labels, processor), place)
        content = tune_thresholds(evaluator, rows, labels, split or "the rows of --data")
        if evaluator.args.should_save:
            save_thresholds(folder, content)
    return content


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

"""A run of several tasks: one shared body, and a folder with the model of each task."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, cast

from transformers import set_seed

from ...configuration.messages import to_one_line
from ...modeling.backbone.model import PlaitModel
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.loading import DataSplits
from ..optimization.arguments import PlaitTrainingArguments
from ..optimization.target_scale import fit_target_scale
from ..recipes.errors import RecipeError
from ..recipes.multitask import build_task_recipes, collect_task_weights
from ..recipes.schema import Recipe
from ..reports.recording import Recorder, record_answers
from ..runs.adapters import adapt_model
from ..runs.assembly import (
    build_arguments,
    build_collator,
    build_metrics,
    load_or_build_processor,
    prepare_splits,
    read_data,
)
from ..runs.building import build_label_config, build_processor, build_unchecked_model
from ..runs.claim import ClaimedFolder
from ..runs.evaluate import build_evaluator
from ..runs.fitting import run_trainer
from ..runs.folder import CHECKPOINTS, HISTORY_FILE, METRICS_FILE, RUN_FOLDER
from ..runs.generation_settings import set_generation
from ..runs.model_card import write_card
from ..runs.reporting import Evaluated, choose_recorded, is_report_wanted, write_run_report
from ..runs.train import Results
from ..storage.atomic import write_json
from ..tasks.base import Task
from ..tasks.registry import find_task
from ..trainer.callbacks import CollatorEpochCallback
from ..trainer.trainer import PlaitTrainer
from .model import MultiTaskModel, build_head, copy_head, find_body_class
from .sampler import TaskRows
from .trainer import MultiTaskTrainer, TaskCollator


class TaskSetup(NamedTuple):
    """One of the tasks before its model is built: its recipe, its Task and its data."""

    recipe: Recipe
    task: Task
    data: DataSplits


@dataclass
class TaskRun:
    """One of the tasks: its recipe, its Task, its data, its model and the trainer that evaluates that model."""

    recipe: Recipe
    task: Task
    data: DataSplits
    model: PlaitPreTrainedModel
    evaluator: PlaitTrainer
    recorders: dict[str, Recorder] = field(default_factory=dict)  # of the final evaluation of each split


def train_tasks(
    recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False, allow_changed_data: bool = False
) -> Results:
    """Trains all tasks of the recipe and fills its output_dir, a folder per task; returns the metrics of the models and
    of the baselines by task and split.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be run.
        RunError, RunInterrupted: as in `plait.training.runs.train`.
    """
    args = build_arguments(recipe, Path(str(recipe.output_dir)))
    with ClaimedFolder(RUN_FOLDER, recipe, overwrite, resume, args.should_save, allow_changed_data) as folder:
        args.output_dir = str(folder.checkpoints)
        checkpoint = folder.find_checkpoint()
        setups = {name: set_up_task(name, own) for name, own in build_task_recipes(recipe).items()}
        folder.check_data(
            {f"{name} {split}": rows for name, setup in setups.items() for split, rows in setup.data.splits.items()}
        )
        set_seed(args.seed)
        processor = build_shared_processor(recipe, setups, folder.path, args)
        model = build_multitask_model(recipe, setups, processor, verbose=bool(args.should_log) and recipe.lora is None)
        parts = {name: build_task_run(name, setup, model, processor, folder.path) for name, setup in setups.items()}
        trained = model if recipe.lora is None else adapt_model(model, recipe.lora)
        if recipe.lora is not None and args.should_log:
            print(model.composition())
        trainer = build_multitask_trainer(recipe, args, trained, parts, processor)
        set_seed(args.seed)  # building the evaluators used random numbers
        run_trainer(trainer, folder, checkpoint)
        if recipe.lora is not None:
            trainer.model = trainer.model_wrapped = trainer.accelerator.unwrap_model(trainer.model).merge_and_unload()
        folder.save(lambda place: model.save_tasks(place, processor) if args.should_save else None)
        results = {name: measure_task(name, part, trainer) for name, part in parts.items()}
        if args.should_save:
            for name, part in parts.items():
                with model.attach_body(name) as whole:
                    write_card(folder.path / name, part.recipe, part.task, whole, part.data, results[name], command)
                    if is_report_wanted(recipe):
                        found = describe_task(part, whole, processor, results[name], trainer.state.log_history)
                        write_run_report(folder.path / name, found)
            write_json(folder.path / METRICS_FILE, results)
            write_json(folder.path / HISTORY_FILE, trainer.state.log_history)
        folder.finish()
    return {f"{name} {split}": columns for name, splits in results.items() for split, columns in splits.items()}


def set_up_task(name: str, recipe: Recipe) -> TaskSetup:
    """Finds one of the tasks and loads its data; an error names the task."""
    task = find_task(recipe.task)
    try:
        data = read_data(recipe, task)
    except RecipeError as error:
        raise RecipeError(f"tasks.{name}: {error}") from error
    if data.train is None:
        raise RecipeError(
            f"tasks.{name}.data: there is no training split, only {', '.join(data.splits)}: name it in splits"
        )
    return TaskSetup(recipe, task, data)


def build_shared_processor(
    recipe: Recipe, setups: dict[str, TaskSetup], folder: Path, args: PlaitTrainingArguments
) -> PlaitProcessor:
    """Builds one processor for all tasks, or loads the run's; a new tokenizer is trained on the texts of all tasks."""
    return load_or_build_processor(folder, args, lambda: build_new_processor(recipe, setups))


def build_new_processor(recipe: Recipe, setups: dict[str, TaskSetup]) -> PlaitProcessor:
    """Builds one processor for all tasks."""
    from datasets import Dataset

    columns: dict[str, list[str]] = {"text": [], "target": []}
    for setup in setups.values():
        rows: Any = setup.data.train
        for part, column in (("text", "text"), ("decoder", "target")):
            texts = setup.task.collect_tokenizer_texts(rows, part)
            columns[column] += [text for item in texts for text in (item if isinstance(item, list) else [item]) if text]
    length = max(map(len, columns.values()))
    filled = {name: [*texts, *[""] * (length - len(texts))] for name, texts in columns.items()}
    tasks = [setup.task for setup in setups.values()]
    task = next((task for task in tasks if task.generates), find_task("classification"))
    return build_processor(replace(recipe, task=task.name), task, Dataset.from_dict(filled))


def build_multitask_model(
    recipe: Recipe, setups: dict[str, TaskSetup], processor: PlaitProcessor, verbose: bool
) -> MultiTaskModel:
    """Builds the body that the recipe's model describes, with a head for each task.

    Raises:
        RecipeError: a task that cannot share a body, or a model that cannot be built.
    """
    classes = [setup.task.model_class for setup in setups.values()]
    if any(model_class.decoder_kind == "inline" for model_class in classes):
        raise RecipeError(
            "tasks: a decoder-only model, such as that of causal_lm, has no body to share: train it alone"
        )
    shared = replace(recipe.model, freeze=[part for part in recipe.model.freeze if part != "head"])
    try:
        source = build_unchecked_model(shared, find_body_class(classes), {}, None, processor, verbose)
        body, heads = cast("PlaitModel", source.base_model), {}
        for name, (own, task, data) in setups.items():
            labels = {} if data.labels is None else build_label_config(data.labels)
            fields = {**task.build_model_fields(own), **labels}
            heads[name] = build_head(task.model_class, body.config, fields)
        copy_head(source, heads.values())
        model = MultiTaskModel(body, heads, collect_task_weights(recipe))
        model.fresh_names |= {f"model.{name.removeprefix('model.')}" for name in source.fresh_names}
        model.freeze(*recipe.model.freeze)
    except RecipeError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"model: {to_one_line(error)}") from error
    for name, (own, task, data) in setups.items():
        if task.generates:
            set_generation(heads[name], own.generation)
        task.check_model(heads[name], processor)
        rows: Any = data.train
        task.check_inputs(rows.column_names, heads[name])
        fit_target_scale(heads[name], rows)
    return model


def build_task_run(
    name: str, setup: TaskSetup, model: MultiTaskModel, processor: PlaitProcessor, folder: Path
) -> TaskRun:
    """Prepares the data of one task and builds the trainer that evaluates its model."""
    recipe, task, data = setup
    head = model.heads[name]
    data = prepare_splits(data, task, processor, recipe)
    collator = build_collator(recipe, task, processor, data.labels)
    metrics = build_metrics(recipe, task, data.labels, processor)
    evaluator = build_evaluator(recipe, head, collator, metrics, str(folder / CHECKPOINTS))
    return TaskRun(recipe, task, data, head, evaluator)  # pyright: ignore[reportArgumentType]


def build_multitask_trainer(
    recipe: Recipe,
    args: PlaitTrainingArguments,
    model: Any,
    parts: dict[str, TaskRun],
    processor: PlaitProcessor,
) -> MultiTaskTrainer:
    """Builds the trainer of all tasks. model: a MultiTaskModel, or peft's model around one."""
    collators: dict[str, Any] = {}
    for name, part in parts.items():
        train: Any = part.data.train
        part.task.check_training(train, args, part.recipe)
        collators[name] = build_collator(part.recipe, part.task, processor, part.data.labels, args.image_cache)
    callbacks = [each for part in parts.values() for each in part.task.build_callbacks(part.recipe, part.model)]
    collator: Any = TaskCollator(collators)
    validation = {name: part.data.validation for name, part in parts.items() if part.data.validation is not None}
    rows: Any = TaskRows({name: part.data.train for name, part in parts.items()})
    measured: Any = TaskRows(validation) if validation else None
    try:
        return MultiTaskTrainer(
            model,
            args,
            data_collator=collator,
            train_dataset=rows,
            eval_dataset=measured,
            callbacks=[*callbacks, CollatorEpochCallback(collator)],
            processing_class=processor,
            evaluators={name: part.evaluator for name, part in parts.items()},
            temperature=float(recipe.temperature),
        )
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error


def describe_task(
    part: TaskRun, model: PlaitPreTrainedModel, processor: PlaitProcessor, results: Results, history: list[Any]
) -> Evaluated:
    """Returns what the report of one task is made from."""
    split, recorder = choose_recorded(part.recorders)
    return Evaluated(part.recipe, part.task, model, processor, part.data, split, recorder, results, history)


def measure_task(name: str, part: TaskRun, trainer: MultiTaskTrainer) -> Results:
    """Returns the metrics of one task on validation and test, with those that the baselines reach there."""
    found: Results = {}
    metrics: Any = part.evaluator.streamed_metrics or part.evaluator.compute_metrics
    for split in ("validation", "test"):
        rows: Any = part.data.splits.get(split)
        if rows is None:
            continue
        with record_answers(part.evaluator, metrics) as part.recorders[split]:
            scores = trainer.evaluate(TaskRows({name: rows}), metric_key_prefix=split)
        names = {key: f"{split}_{name}_{key}" for key in ("loss", *metrics.names)}
        measured = {key: scores[full] for key, full in names.items() if full in scores}
        found[split] = {"model": measured, **part.task.measure_baselines(metrics, part.data, rows)}
    return found

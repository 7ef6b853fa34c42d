"""A run of several tasks: one body, a folder for each task's model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from transformers import EarlyStoppingCallback, set_seed

from ...configuration.messages import to_one_line
from ...modeling.backbone.model import PlaitModel
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.loading import DataSplits
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.multitask import build_task_recipes, collect_task_weights
from ..recipes.schema import Recipe
from ..runs.assembly import build_arguments, build_collator, build_metrics, prepare_splits, read_data
from ..runs.building import build_label_config, build_processor, build_unchecked_model
from ..runs.evaluate import build_evaluator
from ..runs.folder import HISTORY_FILE, METRICS_FILE, PROCESSOR_FILE, claim_run_folder, write_json
from ..runs.generation_settings import set_generation
from ..runs.model_card import write_card
from ..runs.train import Results
from ..tasks.base import Task
from ..tasks.registry import find_task
from ..trainer.callbacks import CollatorEpochCallback
from ..trainer.trainer import PlaitTrainer
from .model import MultiTaskModel, build_head, copy_head, find_body_class
from .sampler import TaskRows
from .trainer import MultiTaskTrainer, TaskCollator


@dataclass
class TaskRun:
    """One of the tasks: its recipe, what it is, its data, its model and what measures that."""

    recipe: Recipe
    task: Task
    data: DataSplits
    model: PlaitPreTrainedModel
    evaluator: PlaitTrainer


def train_tasks(recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False) -> Results:
    """Train all tasks of the recipe and fill its output_dir, a folder a task; metrics beside the baselines, by task and
    split.

    Raises:
        RecipeError: as `plait.training.run.train`.
    """
    folder = Path(str(recipe.output_dir)).expanduser()
    args = build_arguments(recipe, folder / "checkpoints")
    checkpoint = claim_run_folder(folder, recipe, args, overwrite, resume)
    recipes = build_task_recipes(recipe)
    data = {name: read_task_data(name, own) for name, own in recipes.items()}
    set_seed(args.seed)
    processor = build_shared_processor(recipe, recipes, data, folder, args)
    model = build_multitask_model(recipe, recipes, data, processor, verbose=bool(args.should_log))
    parts = {name: build_task_run(name, own, data[name], model, processor, folder) for name, own in recipes.items()}
    trainer = build_multitask_trainer(recipe, args, model, parts, processor)
    set_seed(args.seed)  # making the evaluators drew from it
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.remove_callback(EarlyStoppingCallback)
    results = {name: measure_task(name, part, trainer) for name, part in parts.items()}
    if args.should_save:
        model.save_tasks(folder, processor)
        for name, part in parts.items():
            with model.attach_body(name) as whole:
                write_card(folder / name, part.recipe, whole, part.data, results[name], command)
        write_json(folder / METRICS_FILE, results)
        write_json(folder / HISTORY_FILE, trainer.state.log_history)
    return {f"{name} {split}": columns for name, splits in results.items() for split, columns in splits.items()}


def read_task_data(name: str, recipe: Recipe) -> DataSplits:
    """The data of one task; an error names the task."""
    try:
        data = read_data(recipe, find_task(recipe.task))
    except RecipeError as error:
        raise RecipeError(f"tasks.{name}: {error}") from error
    if data.train is None:
        raise RecipeError(f"tasks.{name}.data: there is no training split, only {', '.join(data.splits)}")
    return data


def build_shared_processor(
    recipe: Recipe, recipes: dict[str, Recipe], data: dict[str, DataSplits], folder: Path, args: PlaitTrainingArguments
) -> PlaitProcessor:
    """One processor for all tasks; a fresh tokenizer is trained on the texts of all."""
    from datasets import Dataset

    if not (folder / PROCESSOR_FILE).exists():
        columns: dict[str, list[str]] = {"text": [], "target": []}
        for name, own in recipes.items():
            rows: Any = data[name].train
            for part, column in (("text", "text"), ("decoder", "target")):
                texts = find_task(own.task).collect_tokenizer_texts(rows, part)
                columns[column] += [
                    text for item in texts for text in (item if isinstance(item, list) else [item]) if text
                ]
        length = max(map(len, columns.values()))
        filled = {name: [*texts, *[""] * (length - len(texts))] for name, texts in columns.items()}
        writes = next((own.task for own in recipes.values() if find_task(own.task).generates), "classification")
        with args.main_process_first(local=False, desc="processor"):
            if not (folder / PROCESSOR_FILE).exists():
                built = build_processor(replace(recipe, task=writes), Dataset.from_dict(filled))
                built.save_pretrained(folder)
    return PlaitProcessor.from_pretrained(folder)


def build_multitask_model(
    recipe: Recipe, recipes: dict[str, Recipe], data: dict[str, DataSplits], processor: PlaitProcessor, verbose: bool
) -> MultiTaskModel:
    """The body that the recipe's model describes, with a head for each task; an error says which is wrong."""
    tasks = {name: find_task(own.task) for name, own in recipes.items()}
    if any(task.model_class.decoder_kind == "inline" for task in tasks.values()):
        raise RecipeError("tasks: a decoder that writes on its own has no body to share: train it alone")
    kind = find_body_class([task.model_class for task in tasks.values()])
    try:
        source = build_unchecked_model(recipe, None, processor, verbose, model_class=kind)
        body, heads = cast("PlaitModel", source.base_model), {}
        for name, task in tasks.items():
            labels = data[name].labels
            fields = {
                **task.build_model_fields(recipes[name]),
                **({} if labels is None else build_label_config(labels)),
            }
            heads[name] = build_head(task.model_class, body.config, fields)
        copy_head(source, heads.values())
        model = MultiTaskModel(body, heads, collect_task_weights(recipe))
    except RecipeError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"model: {to_one_line(error)}") from error
    for name, task in tasks.items():
        if task.generates:
            set_generation(heads[name], recipes[name].generation)
        task.check_model(heads[name], processor)
    model.freeze(*recipe.model.freeze)
    return model


def build_task_run(
    name: str, recipe: Recipe, data: DataSplits, model: MultiTaskModel, processor: PlaitProcessor, folder: Path
) -> TaskRun:
    """One task with what measures it."""
    task, head = find_task(recipe.task), model.heads[name]
    data = prepare_splits(data, task, processor, recipe)
    collator, metrics = build_collator(recipe, processor, data.labels), build_metrics(recipe, data.labels, processor)
    evaluator = build_evaluator(recipe, head, collator, metrics, str(folder / "checkpoints"))
    return TaskRun(recipe, task, data, head, evaluator)  # pyright: ignore[reportArgumentType]


def build_multitask_trainer(
    recipe: Recipe,
    args: PlaitTrainingArguments,
    model: MultiTaskModel,
    parts: dict[str, TaskRun],
    processor: PlaitProcessor,
) -> MultiTaskTrainer:
    """The trainer of all tasks."""
    collators: dict[str, Any] = {}
    for name, part in parts.items():
        train: Any = part.data.train
        part.task.check_training(train, args, part.recipe)
        collators[name] = build_collator(part.recipe, processor, part.data.labels, args.image_cache)
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


def measure_task(name: str, part: TaskRun, trainer: MultiTaskTrainer) -> Results:
    """Metrics of one task on validation and test, each beside what the baselines reach there."""
    found: Results = {}
    metrics: Any = part.evaluator.streamed_metrics or part.evaluator.compute_metrics
    for split in ("validation", "test"):
        rows: Any = part.data.splits.get(split)
        if rows is None:
            continue
        scores = trainer.evaluate(TaskRows({name: rows}), metric_key_prefix=split)
        names = {key: f"{split}_{name}_{key}" for key in ("loss", *metrics.names)}
        measured = {key: scores[full] for key, full in names.items() if full in scores}
        found[split] = {"model": measured, **part.task.measure_baselines(metrics, part.data, rows)}
    return found

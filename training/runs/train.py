"""A run from its recipe to a folder that holds the model, its card, its metrics and how it was made."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import EarlyStoppingCallback, set_seed
from transformers.trainer_utils import get_last_checkpoint

from ... import __version__
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.labels import Labels
from ..data.loading import Data, load_data
from ..data.unreadable_rows import only_readable
from ..metrics.classification import Metrics
from ..metrics.streaming import StreamedMetrics
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.schema import MARK, Recipe, RecipeError, build_recipe, differences, read_yaml, save_recipe
from ..tasks.base import Task
from ..tasks.collator import PictureCache, PlaitDataCollator
from ..tasks.registry import find_task
from ..trainer.modality_patterns import pattern_name, patterns_in
from ..trainer.trainer import PlaitTrainer
from .building import build_model, build_processor, label_names_of
from .model_card import write_card

RECIPE_FILE, METRICS_FILE, HISTORY_FILE = "recipe.yaml", "metrics.json", "history.json"
PROCESSOR_FILE = "processor_config.json"
Results = dict[str, dict[str, dict[str, float]]]


@dataclass
class Run:
    """Everything that a recipe stands for, built."""

    recipe: Recipe
    task: Task
    folder: Path
    data: Data
    model: PlaitPreTrainedModel
    processor: PlaitProcessor
    metrics: Metrics | StreamedMetrics
    trainer: PlaitTrainer


def train(recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False) -> Results:
    """Train as the recipe says and fill its output_dir; returns metrics beside the baselines, by split.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be run.
    """
    if recipe.output_dir is None:
        raise RecipeError("output_dir is missing: give it in the recipe or as --output_dir FOLDER")
    if recipe.tasks:
        from ..multitask.train import train_tasks

        return train_tasks(recipe, command, overwrite, resume)
    folder = Path(recipe.output_dir).expanduser()
    args = make_arguments(recipe, folder / "checkpoints")
    checkpoint = claim_folder(folder, recipe, args, overwrite, resume)
    run = build_run(recipe, folder, args)
    run.trainer.train(resume_from_checkpoint=checkpoint)
    run.trainer.remove_callback(EarlyStoppingCallback)  # it would look for its metric in the evaluations below
    run.trainer.save_model(str(folder))
    results = evaluate_splits(run)
    if args.should_save:
        write_json(folder / METRICS_FILE, results)
        write_json(folder / HISTORY_FILE, run.trainer.state.log_history)
        write_card(folder, recipe, run.model, run.data, results, command)
    return results


def make_arguments(recipe: Recipe, folder: Path) -> PlaitTrainingArguments:
    """The training arguments of a recipe; one line that says what is wrong with them."""
    try:
        return PlaitTrainingArguments(output_dir=str(folder), seed=recipe.seed, **recipe.training)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"training: {' '.join(str(error).split())}") from error


def claim_folder(
    folder: Path, recipe: Recipe, args: PlaitTrainingArguments, overwrite: bool, resume: bool
) -> str | None:
    """Make the run folder, or find the checkpoint to go on from; every process sees the same folder before any writes.

    Raises:
        RecipeError: the folder exists and may not be touched, or there is nothing to resume.
    """
    kept = is_run(folder)
    if resume:
        _check_resumable(folder, recipe, kept)
    elif folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise RecipeError(f"{folder} exists: --overwrite replaces it, --resume goes on, --output_dir names another")
        if not kept or folder.is_symlink():
            raise RecipeError(f"{folder} is not the folder of a run of plait, so it is not overwritten")
    wait_for_everyone()
    if args.should_save and not resume:
        if kept:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder / RECIPE_FILE, __version__)
    wait_for_everyone()
    checkpoints = folder / "checkpoints"
    return get_last_checkpoint(str(checkpoints)) if resume and checkpoints.is_dir() else None


def is_run(folder: Path) -> bool:
    """Whether a folder was made by `train`: it holds a recipe with our mark."""
    file = folder / RECIPE_FILE
    return file.is_file() and MARK in read_yaml(file)


def saved_recipe(folder: Path) -> Recipe:
    """The recipe that a run folder was made with."""
    content = read_yaml(folder / RECIPE_FILE)
    return build_recipe({key: value for key, value in content.items() if key != MARK})


def build_run(recipe: Recipe, folder: Path, args: PlaitTrainingArguments) -> Run:
    """Data, processor, model, metrics and trainer."""
    task = find_task(recipe.task)
    data = read_data(recipe, task)
    if data.train is None:
        raise RecipeError(f"data: there is no training split, only {', '.join(data.splits)}; see data.splits")
    set_seed(args.seed)
    processor, model = build_both(recipe, folder, args, data)
    collator = make_collator(recipe, processor, data.labels, args.image_cache)
    data = prepared(only_readable(data, collator, recipe.data.on_error), task, processor, recipe)
    train: Any = data.train
    task.check_training(train, args, recipe)
    metrics = make_metrics(recipe, data.labels, processor)
    try:
        trainer = PlaitTrainer(
            model,
            args,
            data_collator=collator,
            train_dataset=train,
            eval_dataset=data.validation,
            compute_metrics=metrics,
            callbacks=task.callbacks(recipe, model),
            processing_class=processor,
        )
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error
    return Run(recipe, task, folder, data, model, processor, metrics, trainer)


def read_data(recipe: Recipe, task: Task) -> Data:
    """The recipe's data, with the columns that its task needs."""
    order = label_names_of(recipe.model.from_pretrained) if task.labelled and recipe.model.from_pretrained else ()
    data = load_data(recipe.data, recipe.seed, needs_labels=task.labelled, label_order=order, roles=task.roles)
    for split, rows in data.splits.items():
        task.check_columns(rows.column_names, split)
    return data


def prepared(data: Data, task: Task, processor: PlaitProcessor, recipe: Recipe) -> Data:
    """Every split as the task's collator reads it."""
    return data._replace(
        splits={split: task.prepare(rows, split, processor, recipe) for split, rows in data.splits.items()},
        rows={split: len(rows) for split, rows in data.splits.items()},
    )


def build_both(
    recipe: Recipe, folder: Path, args: PlaitTrainingArguments, data: Data, verbose: bool = True
) -> tuple[PlaitProcessor, PlaitPreTrainedModel]:
    """Processor and model; one line that says what is wrong with the recipe's model.

    The processor is made once: other processes, and a resumed run, read it from the run folder.
    """
    train: Any = data.train
    try:
        with args.main_process_first(local=False, desc="processor"):
            if not (folder / PROCESSOR_FILE).exists():
                build_processor(recipe, train).save_pretrained(folder)
        processor = PlaitProcessor.from_pretrained(folder)
        return processor, build_model(recipe, data.labels, processor, verbose=verbose and bool(args.should_log))
    except RecipeError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"model: {' '.join(str(error).split())}") from error


def make_metrics(recipe: Recipe, labels: Labels | None, processor: PlaitProcessor) -> Metrics | StreamedMetrics:
    """The recipe's metrics, or the task's usual ones."""
    try:
        return find_task(recipe.task).make_metrics(recipe.metrics, labels, processor, recipe)
    except (ImportError, OSError, ValueError) as error:
        raise RecipeError(f"metrics: {' '.join(str(error).split())}") from error


def make_collator(
    recipe: Recipe, processor: PlaitProcessor, labels: Labels | None, image_cache: float = 0.0
) -> PlaitDataCollator:
    """The recipe's collator."""
    collator = PlaitDataCollator(
        processor, labels, task=recipe.task, settings=recipe.settings, max_length=recipe.max_length, seed=recipe.seed
    )
    collator.pictures = PictureCache(image_cache)
    return collator


def evaluate_splits(run: Run) -> Results:
    """Metrics of the trained model on validation and test, each beside what the baselines reach there."""
    results: Results = {}
    for split in ("validation", "test"):
        if split in run.data.splits:
            data: Any = run.data.splits[split]
            scores = run.trainer.evaluate(data, metric_key_prefix=split)
            names = ["loss", *run.metrics.names]
            measured = {name: scores[f"{split}_{name}"] for name in names if f"{split}_{name}" in scores}
            results[split] = {"model": measured, **run.task.baselines(run.metrics, run.data, data)}
            if run.trainer.args.eval_modality_patterns:
                for pattern in map(pattern_name, patterns_in(run.trainer, data)):
                    given = {name: f"{split}_{pattern}_{name}" for name in names}
                    alone = {name: scores[key] for name, key in given.items() if key in scores}
                    results[split] |= {f"{pattern}_only": alone} if alone else {}
    return results


def report(results: Results) -> str:
    """Lines with each metric of each split beside the baselines."""
    lines = []
    for split, columns in results.items():
        for name, value in columns["model"].items():
            others = {kind: scores[name] for kind, scores in columns.items() if kind != "model" and name in scores}
            beside = " ".join(f"{kind}={score:.4f}" for kind, score in others.items())
            lines.append(f"{split:10s} {name}={value:.4f} {beside}".rstrip())
    return "\n".join(lines) or "no validation or test split: nothing was measured"


def write_json(path: Path, content: Any) -> None:
    """Write a file of plain values."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def wait_for_everyone() -> None:
    """A barrier between the processes of a run."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _check_resumable(folder: Path, recipe: Recipe, kept: bool) -> None:
    if not kept:
        raise RecipeError(f"{folder} is not the folder of a run: there is nothing to resume")
    changed = differences(saved_recipe(folder), recipe)
    if changed:
        raise RecipeError(f"{folder} was begun with another recipe ({'; '.join(changed)}): a resumed run keeps its own")

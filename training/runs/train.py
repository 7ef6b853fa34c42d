"""A training run: from a recipe to a folder with the model, its card, its metrics and its recipe."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..data.loading import DataSplits
from ..data.media import Row
from ..data.unreadable_rows import select_readable_splits
from ..explanations.modalities import explain_modalities
from ..metrics.base import StreamedMetrics
from ..metrics.classification import Metrics
from ..optimization.arguments import PlaitTrainingArguments
from ..optimization.target_scale import fit_target_scale
from ..parameters import freeze
from ..recipes.errors import RecipeError
from ..recipes.reward import IN_TRL
from ..recipes.schema import LoraRecipe, Recipe
from ..reports.recording import Recorder, record_answers
from ..rewards.groups import build_group_trainer
from ..rewards.held_out import add_held_out, find_held_out
from ..rewards.library import require_trl
from ..rewards.log import CollapseGuard
from ..rewards.preference import build_preference_trainer
from ..rewards.trainer import PlaitRewardTrainer
from ..storage.atomic import write_json
from ..tasks.base import Task
from ..tasks.preference import Preference
from ..tasks.registry import find_task
from ..trainer.label_thresholds import has_thresholds, tune_thresholds
from ..trainer.modality_patterns import find_patterns, format_pattern
from ..trainer.trainer import PlaitTrainer
from .adapters import adapt_model, save_adapted
from .assembly import (
    build_arguments,
    build_collator,
    build_metrics,
    build_processor_and_model,
    prepare_splits,
    read_data,
    select_training_rows,
)
from .claim import ClaimedFolder
from .combinations import check_quantized_training
from .fitting import Started, measure_start, run_trainer
from .folder import HISTORY_FILE, METRICS_FILE, RUN_FOLDER
from .model_card import write_card
from .reporting import Evaluated, choose_recorded, is_report_wanted, write_run_report
from .settling import settle_best_metric, settle_loss, settle_parts
from .thresholds import save_thresholds

Results = dict[str, dict[str, dict[str, float]]]


@dataclass
class TrainingRun:
    """All parts of a training run, built from its recipe."""

    recipe: Recipe
    task: Task
    folder: Path
    data: DataSplits
    model: PlaitPreTrainedModel
    processor: PlaitProcessor
    metrics: Metrics | StreamedMetrics
    trainer: PlaitTrainer
    recorders: dict[str, Recorder] = field(default_factory=dict)  # of the final evaluation of each split
    started: Started | None = None  # the model before it was trained by rewards or preferences


def train(
    recipe: Recipe, command: str, overwrite: bool = False, resume: bool = False, allow_changed_data: bool = False
) -> Results:
    """Trains as the recipe says and fills its output_dir; returns the metrics of the model and of the baselines by
    split.

    Raises:
        RecipeError: the folder exists (without `overwrite` or `resume`), or the recipe cannot be run.
        RunError: the run stopped, because it diverged or could not write; the message says what is left.
        RunInterrupted: a signal stopped it, after a checkpoint.
    """
    check_quantized_training(recipe)
    check_library(recipe)
    args = build_arguments(recipe, Path(str(recipe.output_dir)))
    with ClaimedFolder(RUN_FOLDER, recipe, overwrite, resume, args.should_save, allow_changed_data) as folder:
        args.output_dir = str(folder.checkpoints)
        checkpoint = folder.find_checkpoint()
        run = build_run(recipe, folder.path, args, folder.check_data)
        if recipe.reward is not None or run.task.name == Preference.name:
            run.started = measure_start(run.trainer, run.metrics, run.data.splits)
        run_trainer(run.trainer, folder, checkpoint)
        folder.save(lambda place: save_run_model(run, place))
        results = evaluate_splits(run)
        thresholds = choose_run_thresholds(run)
        if args.should_save:
            write_json(folder.path / METRICS_FILE, results)
            write_json(folder.path / HISTORY_FILE, run.trainer.state.log_history)
            if thresholds is not None:
                save_thresholds(folder.path, thresholds)
            added = describe_modalities(run)
            write_card(folder.path, recipe, run.task, run.model, run.data, results, command, modalities=added)
            if is_report_wanted(recipe):
                write_run_report(folder.path, describe_run(run, results))
        folder.finish()
    return results


def save_run_model(run: TrainingRun, place: Path) -> None:
    """Saves the trained model, or its adapters."""
    if run.recipe.lora is None:
        run.trainer.save_model(str(place))
    else:
        save_adapted(run.trainer, place, run.recipe.lora.merge)


def choose_run_thresholds(run: TrainingRun) -> dict[str, Any] | None:
    """Returns the thresholds of several labels a row, chosen on the validation split; None if there is none."""
    labels = run.data.labels
    if labels is None or not has_thresholds(labels) or run.data.validation is None:
        return None
    return tune_thresholds(run.trainer, run.data.validation, labels, "validation")


def check_card_modalities(recipe: Recipe, data: DataSplits) -> None:
    """Raises RecipeError for `card_modalities` below two rows, or without a test or validation split."""
    count = recipe.card_modalities
    if count is not None and (count < 2 or (data.test is None and data.validation is None)):
        needed = "at least 2 rows are needed" if count < 2 else "there is no test or validation split"
        raise RecipeError(f"card_modalities is {count}, but {needed}: change it, or leave it out")


def check_evaluation(args: PlaitTrainingArguments, data: DataSplits) -> None:
    """Raises RecipeError for an evaluation during training without a validation split."""
    if args.do_eval and args.eval_strategy != "no" and data.validation is None:
        chosen = IntervalStrategy(args.eval_strategy).value
        raise RecipeError(
            f"training.eval_strategy is {chosen!r}, but there is no validation split: split one off with "
            "data.validation_fraction 0.1, name it in data.splits, or leave eval_strategy out"
        )


def describe_modalities(run: TrainingRun) -> str:
    """Returns what each modality adds to the answers for the first `card_modalities` test rows (else validation rows),
    for the model card; nothing if the recipe asks for none."""
    data: Any = run.data.validation if run.data.test is None else run.data.test
    if run.recipe.card_modalities is None:
        return ""
    rows = [cast("Row", row) for row in data.select(range(min(run.recipe.card_modalities, len(data))))]
    report = explain_modalities(run.model, run.processor, rows, max_length=run.recipe.max_length)
    return f"**{report.describe()}**\n\n{report.format_table()}"


def build_run(
    recipe: Recipe,
    folder: Path,
    args: PlaitTrainingArguments,
    check_data: Callable[[Mapping[str, Any]], None] = lambda splits: None,
) -> TrainingRun:
    """Builds the data, which `check_data` may refuse, the processor, the model, the metrics and the trainer."""
    task = find_task(recipe.task)
    data = read_training_data(recipe, task)
    check_data(data.splits)
    return assemble_run(recipe, task, folder, args, data)


def read_training_data(recipe: Recipe, task: Task) -> DataSplits:
    """Loads the recipe's data; raises RecipeError as `read_data`, or without a training split."""
    data = read_data(recipe, task)
    if data.train is None:
        raise RecipeError(f"data: there is no training split, only {', '.join(data.splits)}: name it in data.splits")
    return data


def assemble_run(
    recipe: Recipe,
    task: Task,
    folder: Path,
    args: PlaitTrainingArguments,
    data: DataSplits,
    verbose: bool = True,
) -> TrainingRun:
    """Builds the processor, the model, the metrics and the trainer for data that are loaded; `folder` gets the
    processor. verbose: print the parts of the model. Raises RecipeError for what does not fit."""
    check_card_modalities(recipe, data)
    check_evaluation(args, data)
    set_seed(args.seed)
    shows = verbose and recipe.lora is None
    processor, model = build_processor_and_model(recipe, task, folder, args, data, shows)
    collator = build_collator(recipe, task, processor, data.labels, args.image_cache)
    readable = select_readable_splits(data, collator, recipe.data.on_error)
    data = prepare_splits(readable, task, processor, recipe)
    train: Any = data.train
    task.check_training(train, args, recipe)
    metrics = build_metrics(add_held_out(recipe, task), task, data.labels, processor)
    settle_parts(args, model, recipe.shipped)
    settle_loss(args, data.labels, recipe.shipped)
    settle_best_metric(args, recipe, metrics, data.labels)
    trained = model if recipe.lora is None else adapt_for_training(model, recipe.lora, args, train, verbose)
    try:
        trainer = build_trainer(
            recipe,
            task,
            readable.train,
            model=trained,
            args=args,
            data_collator=collator,
            train_dataset=select_training_rows(recipe, task, processor, data),
            eval_dataset=data.validation,
            compute_metrics=metrics,
            callbacks=task.build_callbacks(recipe, model),
            processing_class=processor,
        )
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error
    return TrainingRun(recipe, task, folder, data, model, processor, metrics, trainer)


def adapt_for_training(
    model: PlaitPreTrainedModel, lora: LoraRecipe, args: PlaitTrainingArguments, train: Any, verbose: bool
) -> Any:
    """Returns the model with adapters, after frozen parts and the scale of targets are settled."""
    freeze(model, args.frozen)
    fit_target_scale(model, train)
    adapted = adapt_model(model, lora)
    if verbose and args.should_log:
        print(model.composition())
    return adapted


def check_library(recipe: Recipe) -> None:
    """Raises RecipeError if the recipe is trained by a library that is not installed."""
    if recipe.task == Preference.name:
        require_trl(f"the task {recipe.task}")
    elif recipe.reward is not None and recipe.reward.objective in IN_TRL:
        require_trl(f"reward.objective {recipe.reward.objective}")


def build_trainer(recipe: Recipe, task: Task, rows: Any, **arguments: Any) -> PlaitTrainer:
    """Builds the trainer: one of preferences or rewards, if the recipe has them; rows: those of the training split
    before they are prepared."""
    reward = recipe.reward
    if task.name == Preference.name:
        return build_preference_trainer(task.build_settings(recipe.settings), **arguments)
    if reward is None:
        return PlaitTrainer(**arguments)
    if reward.objective in IN_TRL:
        guard = CollapseGuard(find_held_out(reward, arguments["compute_metrics"].names))
        return build_group_trainer(reward, rows, guard, **arguments)
    return PlaitRewardTrainer(**arguments, reward=reward)


def evaluate_splits(run: TrainingRun) -> Results:
    """Returns the metrics of the trained model on validation and test, with those that the baselines reach there."""
    results: Results = {}
    for split in ("validation", "test"):
        if split in run.data.splits:
            data: Any = run.data.splits[split]
            with record_answers(run.trainer, run.metrics) as run.recorders[split]:
                scores = run.trainer.evaluate(data, metric_key_prefix=split)
            names = ["loss", *run.metrics.names]
            measured = {name: scores[f"{split}_{name}"] for name in names if f"{split}_{name}" in scores}
            start = {} if run.started is None else {"start": run.started.scores[split]}
            results[split] = {"model": measured, **start, **run.task.measure_baselines(run.metrics, run.data, data)}
            if run.trainer.args.eval_modality_patterns:
                for pattern in map(format_pattern, find_patterns(run.trainer, data)):
                    given = {name: f"{split}_{pattern}_{name}" for name in names}
                    alone = {name: scores[key] for name, key in given.items() if key in scores}
                    results[split] |= {f"{pattern}_only": alone} if alone else {}
    return results


def describe_run(run: TrainingRun, results: Results) -> Evaluated:
    """Returns what the report of a run is made from: its test split, else its validation split."""
    split, recorder = choose_recorded(run.recorders)
    history = run.trainer.state.log_history
    before = None if run.started is None or split is None else run.started.recorders[split]
    found = (run.recipe, run.task, run.model, run.processor, run.data, split, recorder, results, history)
    return Evaluated(*found, before)


def format_results(results: Results) -> str:
    """Returns a line for each metric of each split, with the values of the baselines."""
    lines = []
    for split, columns in results.items():
        for name, value in columns["model"].items():
            others = {kind: scores[name] for kind, scores in columns.items() if kind != "model" and name in scores}
            baselines = " ".join(f"{kind}={score:.4f}" for kind, score in others.items())
            lines.append(f"{split:10s} {name}={value:.4f} {baselines}".rstrip())
    return "\n".join(lines) or "no validation or test split: nothing was measured"

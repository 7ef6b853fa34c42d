"""One trial of the comparison: a system trained on one fold with one seed, and the file that keeps its results."""

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np
import torch
from transformers import set_seed
from transformers.trainer_callback import PrinterCallback

from ...configuration.messages import to_one_line
from ...processing import PlaitProcessor
from ..data.inputs import collect_rows
from ..data.loading import DataSplits
from ..data.media import Row
from ..metrics.classification import Metrics
from ..recipes.errors import RecipeError, RunError
from ..recipes.schema import Recipe
from ..runs.adapters import adapt_model
from ..runs.assembly import build_arguments, build_collator, build_processor_and_model
from ..runs.claim import ClaimedFolder
from ..runs.fitting import run_trainer
from ..runs.folder import CELLS, CHECKPOINTS
from ..runs.settling import settle_best_metric, settle_loss
from ..storage.atomic import UNFINISHED, replace_file
from ..storage.checkpoints import find_whole_checkpoint
from ..trainer.trainer import PlaitTrainer
from .experiment import Experiment, TrialData
from .modality_ablation import generate_variations
from .systems import System

QUIET_ARGUMENTS = {"disable_tqdm": True, "report_to": "none", "logging_strategy": "no"}


# training arguments that choose the best epoch, which needs rows for validation
CHOOSING_ARGUMENTS = (
    "eval_strategy",
    "eval_steps",
    "load_best_model_at_end",
    "metric_for_best_model",
    "greater_is_better",
    "early_stopping_patience",
    "early_stopping_threshold",
)


class Trial(NamedTuple):
    """The training of a system with `seed` on all rows but those of `fold` (None: on the training split)."""

    system: System
    fold: int | None
    seed: int

    @property
    def name(self) -> str:
        """The name of the trial's file: the system, the fold and the seed."""
        split = "split" if self.fold is None else f"fold{self.fold}"
        return f"{self.system.slug}-{split}-seed{self.seed}"


class TrialResult(NamedTuple):
    """What a finished trial keeps: the numbers of the test rows, their logits (rows, labels), unchanged ("") and under
    each variation of the ablation, and facts (parameters, seconds, steps)."""

    rows: np.ndarray
    logits: dict[str, np.ndarray]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Writes the file by way of a temporary one, so that it is never incomplete."""
        arrays: dict[str, Any] = {f"logits/{name}": values for name, values in self.logits.items()}
        with replace_file(path) as unfinished, unfinished.open("wb") as file:
            np.savez(file, rows=self.rows, facts=np.array(json.dumps(self.facts)), **arrays)

    @classmethod
    def load(cls, path: Path) -> "TrialResult":
        """Reads the file. Raises RecipeError for one that is damaged."""
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
            logits = {name.removeprefix("logits/"): arrays[name] for name in arrays if name.startswith("logits/")}
            return cls(arrays["rows"], logits, json.loads(str(arrays["facts"])))
        except (KeyError, OSError, ValueError, EOFError, BadZipFile) as error:
            raise RecipeError(f"{path} is damaged ({to_one_line(error)})") from error


class TrainedSystem(NamedTuple):
    """A trainer after its training, its processor, and the seconds of training: CPU time, on a GPU wall time."""

    trainer: PlaitTrainer
    processor: PlaitProcessor
    seconds: float


class LogitMetrics(Metrics):
    """The recipe's metrics, for logits that are collected unreduced."""

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Returns the logits unreduced, in float32."""
        return logits.float()

    def score(self, references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Returns the metrics of logits, (rows, labels)."""
        return super().score(references, self.reduce_logits(predictions))

    def reduce_logits(self, logits: np.ndarray) -> np.ndarray:
        """Returns what the metrics are computed from: chosen labels, probabilities or values."""
        return super().reduce(torch.as_tensor(logits), torch.empty(0)).numpy()


def run_trial(experiment: Experiment, trial: Trial, folder: ClaimedFolder) -> TrialResult:
    """Trains the system, collects its logits on the test rows and, for a fusion, on their variations, and saves them.

    A trial that a signal stopped continues from its checkpoint.
    """
    own = f"{CELLS}/{trial.name}{UNFINISHED}"
    part = experiment.select_trial_data(trial.system, trial.fold)
    run = train_system(experiment, trial.system, trial.seed, part, folder, own)
    test = collect_rows(part.test)
    logits = {"": predict_logits(run.trainer, test)}
    if trial.system.is_fusion and experiment.recipe.compare.audit:
        for name, rows in generate_variations(test, trial.system.modalities, trial.seed):
            logits[name] = predict_logits(run.trainer, rows)
    named = run.trainer.model.named_parameters()
    parameters = [parameter for name, parameter in named if ".original_module." not in name]
    facts = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "seconds": round(run.seconds, 3),
        "steps": run.trainer.state.global_step,
    }
    result = TrialResult(experiment.find_test_rows(trial.fold), logits, facts)
    result.save(folder.path / CELLS / f"{trial.name}.npz")
    shutil.rmtree(folder.path / own)
    return result


def train_system(
    experiment: Experiment, system: System, seed: int, part: TrialData, folder: ClaimedFolder, own: str
) -> TrainedSystem:
    """Trains a system on the rows of `part`, from the last checkpoint in its own folder in `folder`, if there is one.

    Raises:
        RecipeError: a recipe that cannot be trained.
        RunError: a training that diverges; the message names the system.
    """
    recipe = build_trial_recipe(experiment, system, seed, part)
    place = folder.path / own
    checkpoint = find_whole_checkpoint(place / CHECKPOINTS)
    place.mkdir(parents=True, exist_ok=True)
    trainer, processor = build_trial_trainer(experiment, system, recipe, part, place)
    clock = time.perf_counter if trainer.args.device.type == "cuda" else time.process_time
    start = clock()
    try:
        run_trainer(trainer, folder, None if checkpoint is None else str(checkpoint))
    except RunError as error:
        raise RunError(f"{system.name}: {error}") from error
    return TrainedSystem(trainer, processor, clock() - start)


def build_trial_recipe(experiment: Experiment, system: System, seed: int, part: TrialData) -> Recipe:
    """Builds the recipe of one trial, which prints nothing and saves only what it has to choose from."""
    recipe = system.build_training_recipe(experiment.recipe, seed)
    training = {**recipe.training, **QUIET_ARGUMENTS}
    if part.validation is None:  # no rows to choose an epoch by: every system is trained to its last
        training = {name: value for name, value in training.items() if name not in CHOOSING_ARGUMENTS}
    saves = {} if training.get("load_best_model_at_end") else {"save_strategy": "no"}
    return replace(recipe, training={**training, **saves})


def build_trial_trainer(
    experiment: Experiment, system: System, recipe: Recipe, part: TrialData, place: Path
) -> tuple[PlaitTrainer, PlaitProcessor]:
    """Builds the trainer of a trial, whose checkpoints go into `place`, and the processor. Raises RecipeError for
    settings that cannot be trained."""
    labels = experiment.labels
    args = build_arguments(recipe, place / CHECKPOINTS)
    set_seed(args.seed)
    splits = DataSplits({"train": part.train}, labels)
    processor, model = build_processor_and_model(recipe, experiment.task, place, args, splits, verbose=False)
    collator = build_collator(recipe, experiment.task, processor, labels, args.image_cache)
    collator.features |= experiment.load_features(system, model, processor, args)
    args.cache_features = []  # the collator has them
    metrics = LogitMetrics(experiment.metric_names, labels.problem_type)
    settle_loss(args, labels, experiment.recipe.shipped)
    settle_best_metric(args, recipe, metrics, labels)
    try:
        trainer = PlaitTrainer(
            model if recipe.lora is None else adapt_model(model, recipe.lora),
            args,
            data_collator=collator,
            train_dataset=part.train,
            eval_dataset=part.validation,
            compute_metrics=metrics,
            processing_class=processor,
        )
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer, processor


def predict_logits(trainer: PlaitTrainer, rows: list[Row]) -> np.ndarray:
    """Returns the logits of the rows, (rows, labels)."""
    data: Any = rows
    return np.asarray(trainer.predict(data).predictions, dtype=np.float32)


def list_trials(experiment: Experiment) -> Iterator[Trial]:
    """Yields every trial, those of all systems on one fold after one another."""
    for seed in experiment.recipe.compare.seeds:
        for fold in experiment.fold_names:
            for system in experiment.systems:
                yield Trial(system, fold, seed)

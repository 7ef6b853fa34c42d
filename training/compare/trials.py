"""One training of the comparison: a system on one fold with one seed, and the file that keeps its answers."""

import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import set_seed
from transformers.trainer_callback import EarlyStoppingCallback, PrinterCallback

from ...processing import PlaitProcessor
from ..data.inputs import collect_rows
from ..data.loading import DataSplits
from ..data.media import Row
from ..metrics.classification import Metrics
from ..recipes.errors import RecipeError
from ..runs.assembly import build_arguments, build_collator, build_processor_and_model
from ..trainer.trainer import PlaitTrainer
from .experiment import Experiment, TrialData
from .modality_ablation import generate_variations
from .systems import System

QUIET_ARGUMENTS = {"disable_tqdm": True, "report_to": "none", "logging_strategy": "no"}


class Trial(NamedTuple):
    """A system, trained with `seed` on all rows but those of `fold` (None: on the training split)."""

    system: System
    fold: int | None
    seed: int

    @property
    def name(self) -> str:
        slug = re.sub(r"[^a-z0-9]+", "-", self.system.name.lower()).strip("-")
        return f"{slug}-{'split' if self.fold is None else f'fold{self.fold}'}-seed{self.seed}"


class TrialResult(NamedTuple):
    """What a finished cell leaves: the numbers of the test rows, the logits (rows, labels) of the test as it is ("")
    and of every variation of the audit, and facts (parameters, seconds, steps)."""

    rows: np.ndarray
    logits: dict[str, np.ndarray]
    facts: dict[str, Any]

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        unfinished = path.with_suffix(".tmp")
        arrays: dict[str, Any] = {f"logits/{name}": values for name, values in self.logits.items()}
        with unfinished.open("wb") as file:
            np.savez(file, rows=self.rows, facts=np.array(json.dumps(self.facts)), **arrays)
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> "TrialResult":
        """Read the file. Raises RecipeError for one that is damaged."""
        try:
            with np.load(path, allow_pickle=False) as content:
                arrays = dict(content)
            logits = {name.removeprefix("logits/"): arrays[name] for name in arrays if name.startswith("logits/")}
            return cls(arrays["rows"], logits, json.loads(str(arrays["facts"])))
        except (KeyError, OSError, ValueError) as error:
            raise RecipeError(f"{path} is damaged ({error}): delete it, it is computed again") from error


class TrainedSystem(NamedTuple):
    """A trainer at the end of its training, and the CPU (on a GPU: wall) seconds that it took."""

    trainer: PlaitTrainer
    processor: PlaitProcessor
    seconds: float


class LogitMetrics(Metrics):
    """The recipe's metrics, of logits that are kept as they are."""

    def reduce(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return logits.float()

    def score(self, references: np.ndarray, predictions: np.ndarray) -> dict[str, float]:
        """Returns the metrics of logits, (rows, labels)."""
        return super().score(references, self.reduce_logits(predictions))

    def reduce_logits(self, logits: np.ndarray) -> np.ndarray:
        """What the metrics read: chosen labels, probabilities or values."""
        return super().reduce(torch.as_tensor(logits), torch.empty(0)).numpy()


def run_trial(bench: Experiment, cell: Trial) -> TrialResult:
    """Train and ask."""
    with TemporaryDirectory() as folder:
        part = bench.select_trial_data(cell.system, cell.fold)
        run = train_system(bench, cell.system, cell.seed, part, Path(folder))
        test = collect_rows(part.test)
        logits = {"": predict_logits(run.trainer, test)}
        if cell.system.is_fusion and bench.recipe.compare.audit:
            for name, rows in generate_variations(test, cell.system.modalities, cell.seed):
                logits[name] = predict_logits(run.trainer, rows)
    parameters = list(run.trainer.model.parameters())
    facts = {
        "parameters": sum(parameter.numel() for parameter in parameters),
        "trainable": sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
        "seconds": round(run.seconds, 3),
        "steps": run.trainer.state.global_step,
    }
    return TrialResult(bench.find_test_rows(cell.fold), logits, facts)


def train_system(bench: Experiment, system: System, seed: int, part: TrialData, folder: Path) -> TrainedSystem:
    """A system after its training on `part`."""
    recipe = system.build_training_recipe(bench.recipe, seed)
    saves = {} if recipe.training.get("load_best_model_at_end") else {"save_strategy": "no"}
    recipe = replace(recipe, training={**recipe.training, **QUIET_ARGUMENTS, **saves})
    args = build_arguments(recipe, folder / "checkpoints")
    set_seed(args.seed)
    processor, model = build_processor_and_model(
        recipe, bench.task, folder, args, DataSplits({"train": part.train}, bench.labels), verbose=False
    )
    collator = build_collator(recipe, bench.task, processor, bench.labels, args.image_cache)
    collator.features |= bench.load_features(system, model, processor, args)
    args.cache_features = []  # they are there
    try:
        trainer = PlaitTrainer(
            model,
            args,
            data_collator=collator,
            train_dataset=part.train,
            eval_dataset=part.validation,
            compute_metrics=LogitMetrics(bench.metric_names, bench.labels.problem_type),
            processing_class=processor,
        )
    except ValueError as error:
        raise RecipeError(f"training: {error}") from error
    trainer.remove_callback(PrinterCallback)
    clock = time.perf_counter if args.device.type == "cuda" else time.process_time
    start = clock()
    trainer.train()
    seconds = clock() - start
    trainer.remove_callback(EarlyStoppingCallback)  # it would look for its metric in the tests that follow
    return TrainedSystem(trainer, processor, seconds)


def predict_logits(trainer: PlaitTrainer, rows: list[Row]) -> np.ndarray:
    """(rows, labels)."""
    data: Any = rows
    return np.asarray(trainer.predict(data).predictions, dtype=np.float32)


def list_trials(bench: Experiment) -> Iterator[Trial]:
    """Every cell, a fold of all systems at a time."""
    for seed in bench.recipe.compare.seeds:
        for fold in bench.fold_names:
            for system in bench.systems:
                yield Trial(system, fold, seed)

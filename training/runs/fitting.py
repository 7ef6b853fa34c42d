"""The training itself, in a claimed folder, and what a model could do before it."""

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import nn
from transformers import EarlyStoppingCallback
from transformers.trainer_utils import SaveStrategy, unwrap_peft_model

from ..optimization.arguments import PlaitTrainingArguments
from ..reports.recording import Recorder, record_answers
from ..rewards.library import LibraryTraining
from ..trainer.recoverable import RecoverableTrainer
from ..trainer.trainer import PlaitTrainer
from .claim import ClaimedFolder, StartCallback


def run_trainer(trainer: RecoverableTrainer, folder: ClaimedFolder, checkpoint: str | None) -> None:
    """Trains from the checkpoint, or from the beginning: the folder starts with the first step, a signal stops with a
    checkpoint, and a model whose weights are not finite is an error."""
    model: Any = trainer.model
    folder.check_space(estimate_bytes(model, trainer.args))
    trainer.add_callback(StartCallback(folder, trainer.callback_handler.callbacks))
    trainer.stop_signals = folder.signals
    with folder.signals.defer():
        trainer.train(resume_from_checkpoint=checkpoint)
    trainer.check_weights()
    # it would look for its metric in the evaluations that follow
    trainer.remove_callback(EarlyStoppingCallback)


def estimate_bytes(model: nn.Module, args: PlaitTrainingArguments) -> int:
    """Returns about how many bytes the model takes on the disk, with one checkpoint if any is saved."""
    sizes: list[Any] = [(weight.numel() * weight.element_size(), weight.requires_grad) for weight in model.parameters()]
    whole, trained = sum(size for size, _ in sizes), sum(size for size, trains in sizes if trains)
    if args.save_strategy == SaveStrategy.NO:
        return whole
    return 2 * whole + (0 if args.save_only_model else 2 * trained)


class Started(NamedTuple):
    """What a model could do before a training: its metrics and its answers, by split."""

    scores: dict[str, dict[str, float]]
    recorders: dict[str, Recorder]


def measure_start(trainer: Any, metrics: Any, splits: Mapping[str, Any]) -> Started | None:
    """Measures a model that is to be trained by rewards or preferences, on validation and test, and logs nothing; None
    if its parameters are sharded, as every process would need all of them.

    A copy is measured: accelerate would take a model that it has prepared for an evaluation for one that is prepared
    for training in several processes.
    """
    evaluator = trainer.evaluator if isinstance(trainer, LibraryTraining) else trainer
    if evaluator.args.shards_parameters:
        return None
    model = copy.deepcopy(trainer.model)
    unwrap_peft_model(model).__dict__.pop("forward", None)  # TRL's, which is that of the original
    data = splits.get("validation")
    measuring = PlaitTrainer(model, evaluator.args, evaluator.data_collator, None, data, compute_metrics=metrics)
    found = Started({}, {})
    for split in ("validation", "test"):
        if split in splits:
            loader = measuring.get_eval_dataloader(splits[split])
            with record_answers(measuring, metrics) as found.recorders[split]:
                output = measuring.evaluation_loop(loader, "Evaluation", metric_key_prefix=split)
            scores: Any = output.metrics
            found.scores[split] = {name.removeprefix(f"{split}_"): value for name, value in scores.items()}
    return found

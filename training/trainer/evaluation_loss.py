"""The loss of an evaluation: the mean over the targets (tokens, rows, labels) of the whole split, whatever the batch
size and the number of processes."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from accelerate.utils import find_batch_size
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput, unwrap_peft_model

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.losses.labels import IGNORE_INDEX


class EvaluationLoss:
    """The summed loss and the number of targets of the batches of one process so far."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(2, dtype=torch.float if device.type == "mps" else torch.double, device=device)

    def update(self, loss: Tensor, count: Tensor) -> None:
        """Adds a batch by its mean loss and its number of targets; a batch without targets has no part."""
        total = torch.where(count > 0, loss * count, 0)
        self.sums += torch.stack((total, count)).to(self.sums)

    def compute(self, trainer: Trainer) -> float | None:
        """Returns the mean over the targets of all processes; None without any."""
        sums: Any = trainer.accelerator.gather(self.sums[None])
        total, count = sums.sum(0).tolist()
        return total / count if count else None


def count_real_rows(trainer: Trainer, inputs: Mapping[str, Any]) -> int:
    """Counts the rows of this process's batch without those that only fill the last round of batches, which are rows
    that another process evaluates too."""
    rows: Any = find_batch_size(inputs)
    state = trainer.accelerator.gradient_state
    if not state.end_of_dataloader or state.remainder <= 0:
        return rows
    return min(max(state.remainder - trainer.accelerator.process_index * rows, 0), rows)


def hide_fill_rows(trainer: Trainer, inputs: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """Returns the inputs with the labels of rows that only fill the batch unknown, -100, or NaN for numbers; and the
    number of the others, which come first."""
    names, real = {*trainer.label_names, "shift_labels"}, count_real_rows(trainer, inputs)
    return {name: hide_labels(value, real) if name in names else value for name, value in inputs.items()}, real


def hide_labels(labels: Any, real: int) -> Any:
    """Returns labels, (batch, ...), unknown from row `real` on."""
    if not isinstance(labels, Tensor) or len(labels) <= real:
        return labels
    hidden = labels.clone()
    hidden[real:] = float("nan") if labels.is_floating_point() else IGNORE_INDEX
    return hidden


def select_targets(trainer: Trainer, inputs: Mapping[str, Any]) -> Tensor | None:
    """Returns the targets over which the model takes the mean (see `PlaitPreTrainedModel.select_targets`); None if its
    loss is no such mean, or it is no model of plait."""
    model = unwrap_peft_model(trainer.accelerator.unwrap_model(trainer.model))
    averages = trainer.model_accepts_loss_kwargs or trainer.compute_loss_func is not None
    return model.select_targets(inputs) if isinstance(model, PlaitPreTrainedModel) and averages else None


def count_targets(trainer: Trainer, inputs: Mapping[str, Any], real: int, device: torch.device) -> Tensor:
    """Counts the targets of a batch; the `real` rows if its loss is no mean over targets."""
    targets = select_targets(trainer, inputs)
    return torch.tensor(real, device=device) if targets is None else (targets != IGNORE_INDEX).sum().to(device)


def measure_loss(trainer: Any, evaluate: Callable[..., EvalLoopOutput], *args: Any) -> EvalLoopOutput:
    """Runs the Trainer's evaluation loop, the last of its arguments being the prefix of the metrics, and replaces its
    loss, a mean over batches, by the mean over all targets."""
    trainer.evaluation_loss = EvaluationLoss(trainer.args.device)
    try:
        output = evaluate(*args)
        loss = trainer.evaluation_loss.compute(trainer)
    finally:
        trainer.evaluation_loss = None
    if loss is not None and output.metrics is not None:
        output.metrics[f"{args[-1]}_loss"] = loss
    return output

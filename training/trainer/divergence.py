"""Stops a training whose loss, gradients or inputs are not finite, before they reach the weights."""

import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RunError

CHECKED_TYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MAX_SKIPS = 40  # consecutive steps that the loss scaling of fp16 may skip: its scale has fallen from 65536 to 6e-8


class Divergence(RunError):
    """The loss or the gradients are not finite."""


class DivergenceGuard:
    """Checks the loss of every batch and the gradients of every step of one trainer.

    With fp16, the loss scaling skips steps whose gradients overflow; only `MAX_SKIPS` of them in a row are an error.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self.batch = self.skipped = 0
        self.inputs: Mapping[str, Any] = {}

    def check_loss(self, loss: Tensor, inputs: Mapping[str, Any]) -> Tensor:
        """Returns the loss of the batch `inputs`. Raises Divergence if it is not finite."""
        self.inputs = inputs
        if not loss.isfinite().all() and not self._is_scaled():
            raise Divergence(self._describe("loss", float(loss)))
        self.batch += 1
        return loss

    def check_gradients(self, norm: Any) -> None:
        """Checks the norm of a step's gradients, before the optimizer's step. Raises Divergence if it is not finite."""
        value = 0.0 if norm is None else float(norm)
        finite = math.isfinite(value)
        self.skipped = 0 if finite else self.skipped + 1
        if not finite and (not self._is_scaled() or self.skipped > MAX_SKIPS):
            self.batch = max(self.batch - 1, 0)
            raise Divergence(self._describe("gradient norm", value))
        self.batch, self.inputs = 0, {}

    def _is_scaled(self) -> bool:
        return getattr(self.trainer.accelerator, "scaler", None) is not None

    def _describe(self, name: str, value: float) -> str:
        """Returns the message: the step, the task, the rows of the batch, and what to try."""
        trainer = self.trainer
        loader = trainer.callback_handler.train_dataloader
        rows = find_batch_rows(loader, trainer.state.global_step, self.batch, trainer)
        task = f"task {self.inputs['task']}, " if isinstance(self.inputs.get("task"), str) else ""
        shown = "a stream" if rows is None else trainer.name_rows(rows)
        where = f"the {name} of step {trainer.state.global_step + 1} is {value} ({task}{shown})"
        broken = [f"{key} (row {row} of the batch)" for key, row in find_non_finite(self.inputs)]
        if broken:
            return f"{where}: the inputs are not finite in {', '.join(broken)}: repair or leave out these rows"
        return f"{where}: {suggest_remedies(trainer.args)}"


def suggest_remedies(args: PlaitTrainingArguments) -> str:
    """Returns what to try against a divergence, with the present values."""
    muon = f" or muon_learning_rate ({args.muon_learning_rate})" if args.muon_learning_rate is not None else ""
    clip = "" if 0 < args.max_grad_norm <= 1 else f", set max_grad_norm ({args.max_grad_norm}) to 1"
    half = ", or train without bf16 and fp16" if args.bf16 or args.fp16 else ""
    return f"lower learning_rate ({args.learning_rate}){muon}, raise warmup_steps ({args.warmup_steps}){clip}{half}"


def find_batch_rows(loader: Any, step: int, batch: int, trainer: Any) -> list[int] | None:
    """Returns the numbers of the rows in a batch: the `batch`-th of the step after `step` steps; None for a stream."""
    if loader is None or getattr(loader, "batch_sampler", None) is None:
        return None
    accumulated = trainer.args.gradient_accumulation_steps
    per_epoch = max(math.ceil(len(loader) / accumulated), 1)
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(step // per_epoch)
    position = step % per_epoch * accumulated + batch
    return [int(row) for row in next(islice(iter(loader.batch_sampler), position, None), [])]


def find_non_finite(inputs: Mapping[str, Any]) -> list[tuple[str, int]]:
    """Returns the name and the first such row of every floating-point input with a value that is not finite. Labels
    may be NaN: their rows have no part in the loss."""
    found = []
    for name, value in inputs.items():
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() and "label" not in name:
            bad = ~value.isfinite().flatten(1).all(1) if value.dim() > 1 else ~value.isfinite()
            found += [(name, int(bad.nonzero()[0]))] if bad.any() else []
    return found


@torch.no_grad()
def check_weights(model: nn.Module, step: int) -> None:
    """Raises Divergence if a trained weight of the model is not finite, so that it is not saved."""
    for name, weight in model.named_parameters():
        checked = weight.requires_grad and weight.dtype in CHECKED_TYPES
        if checked and not weight.isfinite().all():
            raise Divergence(f"after step {step} the weight {name} is not finite: the model is not saved")

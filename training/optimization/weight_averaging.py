"""The exponential moving average of the weights, which is measured and saved while the weights themselves train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..storage.atomic import replace_file

TRAINED_WEIGHTS_FILE = "trained_weights.safetensors"


class WeightAveraging(TrainerCallback):
    """Keeps an exponential moving average of a model's weights over the training steps.

    A step counts `decay` times as much as the next; early in training the decay is lower (see `update_average`). Only
    weights that train when training begins are averaged. In a checkpoint, the model file holds the average, and
    TRAINED_WEIGHTS_FILE the weights from which training resumes.

    Args:
        model: whose weights are averaged.
        decay: above 0 and below 1.
        warmup: whether the decay is lower early in training; else it is `decay` from the first step.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool = True) -> None:
        self.model = model
        self.decay = decay
        self.warmup = warmup
        self.trained = nn.ParameterList()
        self.average: AveragedModel | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Starts the average, unless a checkpoint was resumed."""
        if self.average is None:
            self.start_average()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Updates the average with the weights after the step."""
        if self.average is not None:
            self.average.update_parameters(self.trained)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Replaces the model's weights with the average, unless the Trainer has loaded the best checkpoint, which is an
        average already."""
        if not args.load_best_model_at_end:
            self.swap_weights()
        self.average = None

    def start_average(self, steps: int = 0) -> None:
        """Starts from the model's weights, as the average after `steps` steps."""
        self.trained = nn.ParameterList(weight for weight in self.model.parameters() if weight.requires_grad)
        self.average = AveragedModel(self.trained, multi_avg_fn=self.update_average)
        self.average.n_averaged.fill_(steps + 1)

    @torch.no_grad()
    def update_average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        """Moves the averages towards the weights; the share of the average that is kept at step n is the decay, with
        `warmup` min(decay, (1 + n) / (10 + n))."""
        kept = min(self.decay, (1 + int(steps)) / (10 + int(steps))) if self.warmup else self.decay
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight.to(average.dtype), 1 - kept)

    @contextmanager
    def use_average(self) -> Iterator[None]:
        """Opens a context in which the model has the averaged weights."""
        self.swap_weights()
        try:
            yield
        finally:
            self.swap_weights()

    def swap_weights(self) -> None:
        """Swaps the model's weights and the average."""
        if self.average is not None:
            for weight, average in zip(self.trained, self.average.module.parameters(), strict=True):
                weight.data, average.data = average.data, weight.data

    def save_trained_weights(self, folder: Path) -> None:
        """Saves the model's own weights, from which training resumes, as TRAINED_WEIGHTS_FILE in the folder."""
        tensors = {name: value.detach().contiguous() for name, value in self.model.named_parameters()}
        with replace_file(folder / TRAINED_WEIGHTS_FILE) as unfinished:
            save_file(tensors, unfinished, {"format": "pt"})

    def resume_average(self, folder: Path, steps: int) -> None:
        """Resumes from a checkpoint, after the model has loaded the average in it: keeps this as the average after
        `steps` steps and loads the trained weights into the model."""
        self.start_average(steps)
        self.model.load_state_dict(load_file(folder / TRAINED_WEIGHTS_FILE), strict=False)

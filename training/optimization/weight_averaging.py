"""A moving average of the weights: what is measured and saved, while training goes on with the weights themselves."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

TRAINED_WEIGHTS_FILE = "trained_weights.safetensors"


class WeightAveraging(TrainerCallback):
    """Keeps the average of a model's trained weights over its last steps; in the beginning, over fewer.

    A step counts `decay` times as much as the next. A checkpoint's model file holds the average; the weights with which
    training goes on stand beside it.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = model
        self.decay = decay
        self.average: AveragedModel | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.average is None:
            self.start_average()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """From now on the model is the average (the best of all averages has been loaded before)."""
        if not args.load_best_model_at_end:
            self.swap_weights()
        self.average = None

    def start_average(self, steps: int = 0) -> None:
        """Begin with the model's weights as the average of so many steps."""
        self.average = AveragedModel(self.model, multi_avg_fn=self.update_average)
        self.average.n_averaged.fill_(steps + 1)

    @torch.no_grad()
    def update_average(self, averages: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        """Move the averages towards the weights, (1 + n) / (10 + n) of them kept at step n, `decay` at most."""
        kept = min(self.decay, (1 + int(steps)) / (10 + int(steps)))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight.to(average.dtype), 1 - kept)

    @contextmanager
    def use_average(self) -> Iterator[None]:
        """The average as the model's weights for a while."""
        self.swap_weights()
        try:
            yield
        finally:
            self.swap_weights()

    def swap_weights(self) -> None:
        """Exchange the model's weights and the average."""
        if self.average is not None:
            for weight, average in zip(self.model.parameters(), self.average.module.parameters(), strict=True):
                weight.data, average.data = average.data, weight.data

    def save_trained_weights(self, folder: Path) -> None:
        """The weights with which training goes on."""
        tensors = {name: value.detach().contiguous() for name, value in self.model.named_parameters()}
        save_file(tensors, folder / TRAINED_WEIGHTS_FILE, {"format": "pt"})

    def resume_average(self, folder: Path, steps: int) -> None:
        """Go on from a checkpoint whose average the model has loaded."""
        self.start_average(steps)
        self.model.load_state_dict(load_file(folder / TRAINED_WEIGHTS_FILE), strict=False)

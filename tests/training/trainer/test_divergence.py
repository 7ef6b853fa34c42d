"""A training whose loss, gradients or inputs are not finite stops before they reach the weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from plait import PlaitTrainer
from plait.processing import PlaitProcessor
from plait.training.data.loading import DataSplits
from plait.training.tasks.collator import PlaitDataCollator
from plait.training.trainer.divergence import MAX_SKIPS, Divergence, DivergenceGuard

MakeTrainer = Callable[..., PlaitTrainer]


class Breaking(TrainerCallback):
    """Makes a weight NaN before a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            with torch.no_grad():
                kwargs["model"].get_parameter("classifier.weight")[0, 0] = torch.nan


class Recorder(PlaitDataCollator):
    """Remembers the rows of every training batch."""

    def build_training_batch(self, rows: Any) -> dict[str, Any]:
        self.seen = [*getattr(self, "seen", []), [(row["text"], row["image"]) for row in rows]]
        return super().build_training_batch(rows)


@pytest.mark.parametrize(("accumulated", "strategy"), [(1, "random"), (2, "random"), (1, "sequential")])
def test_the_step_and_its_rows_are_named_and_the_last_checkpoint_is_good(
    make_trainer: MakeTrainer,
    processor: PlaitProcessor,
    data: DataSplits,
    tmp_path: Path,
    accumulated: int,
    strategy: str,
) -> None:
    collator = Recorder(processor, data.labels)
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": accumulated, "num_train_epochs": 4}
    options |= {"save_strategy": "steps", "save_steps": 1, "train_sampling_strategy": strategy}
    trainer = make_trainer(trainer={"data_collator": collator, "callbacks": [Breaking(7)]}, **options)
    with pytest.raises(Divergence, match=r"the loss of step 7 is nan \(rows ") as error:
        trainer.train()
    # nine rows are five batches; a step of two, the last one of an epoch alone
    per_epoch = 5 if accumulated == 1 else 3
    batch = 6 // per_epoch * 5 + 6 % per_epoch * accumulated
    rows: Any = data.train
    known = [(row["text"], row["image"]) for row in rows]
    expected = ", ".join(str(known.index(row)) for row in collator.seen[batch])
    assert f"(rows {expected} of the training data): lower learning_rate (0.1)" in str(error.value)
    steps = sorted((tmp_path / "run").glob("checkpoint-*"))
    assert [path.name for path in steps] == [f"checkpoint-{step}" for step in range(1, 7)]
    assert all(value.isfinite().all() for value in load_file(steps[-1] / "model.safetensors").values())


def test_gradients_that_are_not_finite_change_no_weight(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_grad_norm=1.0)
    weight = trainer.model.get_parameter("classifier.weight")
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * float("inf"))
    with pytest.raises(Divergence, match=r"the gradient norm of step 1 is (nan|inf) \(rows .*max_grad_norm|rows"):
        trainer.train()
    assert torch.equal(weight, before)


def test_inputs_that_are_not_finite_are_named(
    make_trainer: MakeTrainer, processor: PlaitProcessor, data: DataSplits
) -> None:
    collator = PlaitDataCollator(processor, data.labels)

    def spoil(rows: Any) -> dict[str, Any]:
        batch = collator.build_training_batch(rows)
        batch["pixel_values"][1:] = torch.nan
        return batch

    trainer = make_trainer(trainer={"data_collator": spoil})
    with pytest.raises(Divergence, match=r"not finite in pixel_values \(row \d of the batch\): repair or leave out"):
        trainer.train()


def test_steps_that_the_loss_scaling_skips_are_no_divergence(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    guard, bad = DivergenceGuard(trainer), torch.tensor(float("inf"))
    with pytest.raises(Divergence, match="the gradient norm of step 1 is inf"):
        guard.check_gradients(bad)
    guard = DivergenceGuard(trainer)
    trainer.accelerator.scaler = torch.amp.GradScaler("cpu")
    for _ in range(3):
        for _ in range(MAX_SKIPS):
            guard.check_loss(bad, {})
            guard.check_gradients(bad)
        guard.check_gradients(torch.tensor(1.0))
    for _ in range(MAX_SKIPS):
        guard.check_gradients(bad)
    with pytest.raises(Divergence):
        guard.check_gradients(bad)

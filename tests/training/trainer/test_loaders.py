"""What a trainer hands out: its optimizer, its data loaders and the functions that build their batches."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.utils.data import RandomSampler, SequentialSampler

from plait import PlaitProcessor, PlaitTrainer
from plait.training.data.loading import DataSplits
from plait.training.data.samplers import LengthSampler, SharedImageSampler, TokenBatchSampler
from plait.training.runs.train import TrainingRun
from plait.training.tasks.collator import PlaitDataCollator

MakeTrainer = Callable[..., PlaitTrainer]


def test_the_optimizer_is_made_once_and_returned(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(learning_rates={"text": 0.01}, weight_decay=0.5)
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD) and optimizer is trainer.optimizer
    assert trainer.create_optimizer() is optimizer
    assert {group["lr"] for group in optimizer.param_groups} == {0.01, 0.1}
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.5}
    trained = {id(parameter) for parameter in trainer.model.parameters() if parameter.requires_grad}
    assert {id(parameter) for group in optimizer.param_groups for parameter in group["params"]} == trained


def test_an_optimizer_that_builds_its_own_groups(make_trainer: MakeTrainer) -> None:
    """It takes no rates by part, and is the Trainer's."""
    trainer = make_trainer()
    given = {"params": [{"params": list(trainer.model.parameters())}], "lr": 0.3}
    trainer.optimizer_cls_and_kwargs = torch.optim.SGD, dict(given)
    trainer.args.learning_rates = {"text": 0.01}
    with pytest.raises(ValueError, match="learning_rates cannot be used with SGD, which builds its own parameter"):
        trainer.create_optimizer()
    trainer.args.learning_rates = {}
    optimizer = trainer.create_optimizer()
    assert isinstance(optimizer, torch.optim.SGD) and optimizer is trainer.optimizer
    assert [group["lr"] for group in optimizer.param_groups] == [0.3]


def test_training_has_batches_of_its_own_and_evaluation_those_of_the_collator(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    collator: Any = trainer.data_collator
    assert trainer._select_collate_fn(training=True) == collator.build_training_batch
    assert trainer._select_collate_fn(training=False) is collator
    for loader, function in (
        (trainer.get_train_dataloader(), collator.build_training_batch),
        (trainer.get_eval_dataloader(), collator),
        (trainer.get_test_dataloader(trainer.eval_dataset), collator),
    ):
        assert loader.collate_fn == function
        assert trainer.data_collator is collator


def test_streamed_metrics_read_evaluation_batches(make_run: Callable[..., TrainingRun]) -> None:
    trainer = make_run("translation").trainer
    collator: Any = trainer.data_collator
    assert trainer._select_collate_fn(training=True) == collator.build_training_batch
    assert trainer._select_collate_fn(training=False) == collator.build_evaluation_batch
    trainer.data_collator = trainer.model.forward
    assert trainer._select_collate_fn(training=True) == trainer.model.forward
    with pytest.raises(ValueError, match="needs the evaluation batches of a PlaitDataCollator"):
        trainer._select_collate_fn(training=False)


def test_another_collator_builds_every_batch(make_trainer: MakeTrainer, processor: PlaitProcessor) -> None:
    def collate(rows: Any) -> Any:
        return PlaitDataCollator(processor)(rows)

    trainer = make_trainer(trainer={"data_collator": collate, "compute_metrics": None})
    assert trainer._select_collate_fn(training=True) is trainer._select_collate_fn(training=False) is collate


@pytest.mark.parametrize("dropped", [False, True])
def test_only_training_drops_the_last_rows(make_trainer: MakeTrainer, dropped: bool) -> None:
    trainer = make_trainer(dataloader_drop_last=dropped, per_device_train_batch_size=4, per_device_eval_batch_size=2)
    assert len(trainer.get_train_dataloader()) == (2 if dropped else 3)
    assert len(trainer.get_eval_dataloader()) == 2
    assert trainer.args.dataloader_drop_last is dropped
    with pytest.raises(ValueError, match="batch_size"):
        trainer._get_dataloader(trainer.eval_dataset, description="?", batch_size=-1)
    assert trainer.args.dataloader_drop_last is dropped and isinstance(trainer.data_collator, PlaitDataCollator)


def test_the_order_of_rows_follows_the_arguments(make_trainer: MakeTrainer) -> None:
    assert isinstance(make_trainer()._get_train_sampler(), RandomSampler)
    shared, by_length = make_trainer(share_images=True), make_trainer(train_sampling_strategy="group_by_length")
    assert isinstance(shared._get_train_sampler(), SharedImageSampler)
    assert isinstance(by_length._get_train_sampler(), LengthSampler)
    assert isinstance(by_length._get_eval_sampler(by_length.eval_dataset), SequentialSampler)
    assert make_trainer()._build_batch_sampler() is None
    filled = make_trainer(tokens_per_batch=40)._build_batch_sampler()
    assert isinstance(filled, TokenBatchSampler) and sorted(row for batch in filled for row in batch) == list(range(9))


def test_the_order_is_drawn_by_the_data_seed_or_else_the_seed(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(seed=3)
    assert trainer._seed == 3 and trainer._get_epoch() == 0
    trainer.args.data_seed, trainer.state.epoch = 0, 2.75
    assert trainer._seed == 0 and trainer._get_epoch() == 2


def test_lengths_are_a_column_or_counted_by_the_collator(make_trainer: MakeTrainer, data: DataSplits) -> None:
    trainer = make_trainer()
    counted = trainer._count_tokens(data.train)
    assert len(counted) == 9 and min(counted) > 4
    given: Dataset = data.train.add_column("length", list(range(9)))
    assert trainer._count_tokens(given) == list(range(9)) and trainer._add_lengths(given) is given
    assert trainer._add_lengths(data.train)["length"][:] == counted
    trainer.data_collator = trainer.model.forward
    with pytest.raises(ValueError, match="batches by length need a column 'length' in the data"):
        trainer._count_tokens(data.train)

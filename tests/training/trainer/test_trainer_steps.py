"""What PlaitTrainer does around a step, an evaluation and a loader, each on one tiny model."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from plait import PlaitForRetrieval, PlaitTrainer, PlaitTrainingArguments
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.data.loading import DataSplits
from plait.training.trainer.trainer import list_datasets

MakeTrainer = Callable[..., PlaitTrainer]


def test_data_sets_are_listed_with_those_of_a_dict() -> None:
    first, second, third = [1], [2], [3]
    assert list_datasets(first, {"a": second, "b": third}) == [first, second, third]
    assert list_datasets(None, first) == [first] and list_datasets(None, None) == []


def test_targets_of_a_regression_set_the_scale_of_a_new_head(
    make_model: Callable[..., Any], make_trainer: MakeTrainer, data: DataSplits
) -> None:
    model = make_model(problem_type="regression", labels=1)
    assert model.config.target_std is None
    numbers = [float(3 * row) for row in range(9)]
    make_trainer(model, {"train_dataset": data.train.remove_columns("label").add_column("label", numbers)})
    assert model.config.target_mean == pytest.approx(12.0)
    assert model.config.target_std == pytest.approx(60.0**0.5)


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def build_retrieval_trainer(folder: Path, rows: int | None) -> PlaitTrainer:
    torch.manual_seed(0)
    model = PlaitForRetrieval.compose(
        text=PlaitTextConfig(vocab_size=20, max_position_embeddings=8, **TINY),
        image=PlaitVisionConfig(image_size=8, patch_size=4, **TINY),
        verbose=False,
        retrieval_config={"projection_dim": 8},
    )
    pairs = [{"input_ids": torch.arange(3) + row, "pixel_values": torch.randn(3, 8, 8)} for row in range(5)]
    arguments = PlaitTrainingArguments(
        str(folder), use_cpu=True, report_to="none", per_device_train_batch_size=5, gradient_cache_rows=rows
    )
    return PlaitTrainer(model, arguments, collate, train_dataset=pairs)


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def test_a_step_in_chunks_is_the_step_of_the_trainer(tmp_path: Path) -> None:
    """It trains in the mode of training, and divides the loss by the number of accumulated batches."""
    found = []
    for rows in (None, 2, 100):
        trainer = build_retrieval_trainer(tmp_path, rows)
        trainer.current_gradient_accumulation_steps = 2
        trainer.model.eval()
        batch = collate([trainer.train_dataset[row] for row in range(5)])
        loss = trainer.training_step(trainer.model, batch)
        assert trainer.model.training
        gradients = {name: each.grad for name, each in trainer.model.named_parameters() if each.grad is not None}
        found.append((float(loss), gradients))
    for loss, gradients in found[1:]:
        assert loss == pytest.approx(found[0][0], rel=1e-5) and gradients.keys() == found[0][1].keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, found[0][1][name], rtol=1e-4, atol=1e-6)

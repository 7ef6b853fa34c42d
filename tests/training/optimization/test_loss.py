"""The loss with weighted classes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import functional

from plait import PlaitTrainer
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.data.labels import REGRESSION
from plait.training.data.loading import DataSplits

MakeModel = Callable[..., PlaitPreTrainedModel]
MakeTrainer = Callable[..., PlaitTrainer]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_weighted_classes_equal_torch(make_trainer: MakeTrainer, data: DataSplits, smoothing: float) -> None:
    """Each row's loss times its class's weight, over the number of rows."""
    weights = {"blue": 2.0, "no": 0.25}
    trainer = make_trainer(class_weights=weights, label_smoothing_factor=smoothing)
    inputs = trainer.data_collator(list(data.train))
    loss, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    by_class = torch.tensor([2.0, 1.0, 0.25, 1.0, 1.0])
    options = {"weight": by_class, "label_smoothing": smoothing, "reduction": "sum"}
    expected = functional.cross_entropy(outputs["logits"], inputs["labels"], **options) / len(data.train)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_balanced_classes_weigh_alike(make_trainer: MakeTrainer, data: DataSplits) -> None:
    """Every class that training has gets the same sum of weights, and the rows' mean weight is 1."""
    trainer = make_trainer(class_weights="balanced")
    inputs = trainer.data_collator(list(data.train))
    labels, logits = inputs["labels"], torch.zeros(len(data.train), 5)
    rows = [trainer.compute_loss_func({"logits": logits[[row]]}, labels[[row]]).item() for row in range(len(labels))]
    sums = [sum(loss for loss, label in zip(rows, labels, strict=True) if label == number) for number in range(5)]
    assert sums == pytest.approx([sums[0]] * 5)
    assert sum(rows) / len(rows) == pytest.approx(torch.tensor(5.0).log().item())


def test_accumulated_steps_of_weighted_classes(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    weights = []
    for size in (9, 3):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": 9 // size}
        trainer = make_trainer(make_model(), class_weights="balanced", train_sampling_strategy="sequential", **options)
        trainer.train()
        weights.append(torch.cat([parameter.flatten() for parameter in trainer.model.parameters()]))
    torch.testing.assert_close(*weights, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"purple": 2.0}, "there is no class 'purple', only blue, green"),
        ({"blue": -1.0}, "the weight of 'blue' is -1.0: expected 0 or more"),
        ("balance", "expected 'balanced', or a weight by class"),
    ],
)
def test_weights_that_do_not_fit(make_trainer: MakeTrainer, weights: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(class_weights=weights)


def test_weights_of_a_regression_are_refused(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="does not choose one class"):
        make_trainer(make_model(labels=1, problem_type=REGRESSION), class_weights="balanced")

"""Muon for the matrices of the layers, AdamW for all else, in one optimizer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from plait import PlaitTrainer, PlaitTrainingArguments
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.optimization.muon import find_matrices

MakeModel = Callable[..., PlaitPreTrainedModel]
MakeTrainer = Callable[..., PlaitTrainer]
MATRICES = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "gate_proj", "down_proj")
OPTIONS: dict[str, Any] = {
    "optim": "muon",
    "learning_rate": 1e-2,
    "muon_learning_rate": 3e-2,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "max_grad_norm": 1.0,
    "per_device_train_batch_size": 3,
}


def names_of(model: nn.Module, parameters: list[torch.Tensor]) -> set[str]:
    wanted = {id(parameter) for parameter in parameters}
    return {name for name, parameter in model.named_parameters() if id(parameter) in wanted}


def test_the_matrices_of_all_layers_and_nothing_else(make_model: MakeModel) -> None:
    model = make_model(image={"gated_mlp": True})
    model.freeze("text")
    found = names_of(model, find_matrices(model))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    expected = {
        name for name in trained if ".layers." in name and name.endswith(tuple(f"{m}.weight" for m in MATRICES))
    }
    assert found == expected
    assert {name.split(".")[1] for name in found} == {"towers", "fusion"}
    assert any("gate_proj" in name for name in found)
    rest = {name for name in trained - found if ".layers." in name and dict(model.named_parameters())[name].ndim > 1}
    assert not rest, rest


def test_a_step_is_one_of_each_optimizer(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    """By hand: torch's two optimizers on copies with the same gradients, over three steps and a schedule."""
    model, copy = make_model(), make_model()
    trainer = make_trainer(model, learning_rates={"head": 5e-3}, **OPTIONS)
    optimizer = trainer.create_optimizer()
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    matrices = names_of(model, find_matrices(model))
    named = dict(copy.named_parameters())
    others = {name: value for name, value in named.items() if name not in matrices}
    groups = [
        {
            "params": [value],
            "lr": 5e-3 if name.startswith("classifier") else 1e-2,
            "weight_decay": 0.1 if value.ndim > 1 else 0.0,
        }
        for name, value in others.items()
    ]
    muon = torch.optim.Muon(
        [named[name] for name in sorted(matrices)], lr=3e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8, fused=True)
    schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: 1 / (1 + step)) for each in (muon, adamw)]
    batch = trainer.data_collator(list(trainer.train_dataset))
    for _ in range(3):
        for each in (model, copy):
            each.zero_grad()
            each.eval()(**batch).loss.backward()
        for each in (optimizer, muon, adamw, schedule, *schedules):
            each.step()
    for (name, value), other in zip(model.named_parameters(), copy.parameters(), strict=True):
        assert torch.equal(value, other), name


@pytest.mark.parametrize(("stopped", "steps"), [(2, 3), pytest.param(4, None, marks=pytest.mark.slow)])
def test_resumed_equals_uninterrupted(
    make_model: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, stopped: int, steps: int | None
) -> None:
    options = {**OPTIONS, "muon_steps": steps, "num_train_epochs": 2, "lr_scheduler_type": "cosine", "logging_steps": 1}
    options |= {"save_strategy": "steps", "save_steps": stopped, "average_decay": 0.9}
    whole = make_trainer(make_model(), folder="whole", **options)
    whole.train()
    resumed = make_trainer(make_model(), folder="resumed", **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{stopped}"))
    for (name, value), other in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(value, other), name
    rates = {name for entry in whole.state.log_history for name in entry}
    assert {"learning_rate_text", "learning_rate_text_muon"} <= rates


def test_the_rates_of_the_matrices(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    """Their own, or else that of their part."""
    options = {**OPTIONS, "learning_rates": {"text": 1e-4, "image": 0.0}}
    for own in (3e-2, None):
        trainer = make_trainer(make_model(), **{**options, "muon_learning_rate": own})
        groups = trainer.create_optimizer().param_groups
        rates = {(group["part"], group["muon"]): group["lr"] for group in groups}
        assert rates[("text", False)] == 1e-4
        assert rates[("text", True)] == (own or 1e-4)
        assert rates[("fusion", True)] == (own or 1e-2)
        assert not [part for part, _ in rates if part == "image"]


def test_the_arguments_come_back(tmp_path: Path, make_arguments: Callable[..., PlaitTrainingArguments]) -> None:
    args = make_arguments(optim="muon", muon_learning_rate=0.02)
    again = PlaitTrainingArguments(**{name: value for name, value in args.to_dict().items() if value is not None})
    assert (again.optim, again.muon_learning_rate) == ("muon", 0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": "muon", "fsdp": True}, "optim is 'muon', which needs whole matrices"),
        ({"optim": "muon", "muon_learning_rate": -1.0}, "muon_learning_rate is -1.0"),
        (
            {"optim": "adamw_torch", "muon_learning_rate": 1e-3},
            "muon_learning_rate is 0.001, but optim is 'adamw_torch'",
        ),
        ({"optim": "muon", "muon_steps": 0}, "muon_steps is 0"),
        ({"optim": "adamw_torch", "muon_steps": 3}, "muon_steps is 3, but optim is 'adamw_torch'"),
        ({"optim": "moun"}, "moun"),
    ],
)
def test_mistakes(make_arguments: Callable[..., PlaitTrainingArguments], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_arguments(**options)


def test_a_model_without_matrices_is_an_error(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    model = make_model()
    model.freeze("text", "image", "fusion")
    with pytest.raises(ValueError, match="optim is 'muon', but PlaitForClassification has no trainable matrices"):
        make_trainer(model, **OPTIONS).create_optimizer()
